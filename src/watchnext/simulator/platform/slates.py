"""Slates: draw and watch one request's slate. Compiled without reference counts, for speed."""

from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.kernels import kernel
from watchnext.simulator.behaviour import DAY_MS, DIMENSION, appeal_of, draw, stay_of, taste_into
from watchnext.simulator.mechanisms import continues
from watchnext.simulator.platform.inventory import LATEST, latest_into
from watchnext.simulator.platform.logging_policy import FOLLOWS, clusters_into, contains, pick, probability
from watchnext.simulator.random import exponential, normal, reset, uniform

BLUR = 2  # purpose of a random stream
SESSIONS = 16  # most sessions per viewer and day
MIN_SLOTS, MAX_SLOTS = 6, 10
FOLLOWED_SHARE = 0.08  # share of slots from followed creators
UNIFORM, FOLLOWED = 2, 128  # bits beside the surface of a request, beside the outcomes of an impression


class Platform(NamedTuple):
    """The constant part of a world. `directions` (D, clusters), `sharpness` of the cluster softmax by surface."""

    seed: int
    viewers: np.ndarray
    videos: np.ndarray
    index: tuple
    physics: tuple
    directions: np.ndarray
    sharpness: np.ndarray
    explore: float
    random_requests: float
    blur: float


class Memory(NamedTuple):
    """The changing part of each viewer: ring buffers of shown videos and followed creators (-1: empty) with their
    write positions, the end of the last session, and `weary` (U, clusters) of recent impressions by cluster, (U, 0) without
    satiation."""

    seen: np.ndarray
    seen_at: np.ndarray
    follows: np.ndarray
    follows_at: np.ndarray
    free_ms: np.ndarray
    weary: np.ndarray


class Chunk(NamedTuple):
    """Requests, and their impressions one after another; `lag_ms` is from the request to when the outcome arrived."""

    time_ms: np.ndarray
    user: np.ndarray
    slots: np.ndarray
    kind: np.ndarray
    depth: np.ndarray
    video: np.ndarray
    propensity: np.ndarray
    watch_ms: np.ndarray
    lag_ms: np.ndarray
    flags: np.ndarray


class Scratch(NamedTuple):
    """Buffers of one request."""

    stream: np.ndarray
    taste: np.ndarray
    blur: np.ndarray
    share: np.ndarray
    until: np.ndarray
    latest: np.ndarray
    slate: np.ndarray
    starts: np.ndarray


def empty_chunk(requests: int) -> Chunk:
    kinds = (np.int64, np.int32, np.int8, np.uint8, np.int16), (np.int32, np.float32, np.int32, np.int32, np.uint8)
    of_requests, of_slots = (
        [np.empty(size, kind) for kind in group] for size, group in zip((requests, requests * MAX_SLOTS), kinds, strict=True)
    )
    return Chunk(*of_requests, *of_slots)


def new_scratch(clusters):
    floats = np.empty((2, DIMENSION), np.float32)
    return Scratch(
        np.empty(1, np.uint64),
        floats[0],
        floats[1],
        np.empty(clusters),
        np.empty(clusters),
        np.empty(FOLLOWS * LATEST, np.int32),
        np.empty(MAX_SLOTS, np.int32),
        np.empty(SESSIONS, np.int64),
    )


@njit(nogil=True, _nrt=False)
def fill_slate(platform, inventory, memory, scratch, user, time_ms, period, kind, slots, out, row):
    """Draw a slate with propensities into `out` from `row` on; returns its length, shorter if videos run out."""
    viewers, videos, region = platform.viewers, platform.videos, platform.viewers[user].region
    explore, follow, count = 1.0, 0.0, 0
    if not kind & UNIFORM:
        explore = platform.explore
        follows = memory.follows[user]
        count = latest_into(scratch.latest, platform.index, videos, follows, region, inventory.since_ms[period])
        follow = FOLLOWED_SHARE if count else 0.0
        taste_into(scratch.taste, viewers, user, time_ms - DAY_MS)
        for d in range(DIMENSION):
            scratch.taste[d] += scratch.blur[d]
        sharpness = platform.sharpness[kind & 1]
        clusters_into(
            scratch.share, scratch.until, scratch.taste, platform.directions, inventory.mass[period], region, sharpness
        )
    seen, left, repeated_mass = memory.seen[user], inventory.allowed[period, region], 0.0
    for video in seen:
        if video >= 0:
            left -= 1
            repeated_mass += probability(
                inventory, period, videos, region, video, scratch.share, explore, follow, scratch.latest, count
            )
    slots = min(slots, left)
    for slot in range(slots):
        while True:
            video = pick(
                inventory,
                period,
                platform.index,
                videos,
                region,
                scratch.until,
                explore,
                follow,
                scratch.latest,
                count,
                scratch.stream,
            )
            if not contains(video, scratch.slate, slot) and not contains(video, seen, len(seen)):
                break
        q = probability(inventory, period, videos, region, video, scratch.share, explore, follow, scratch.latest, count)
        scratch.slate[slot] = video
        out.video[row + slot], out.propensity[row + slot] = video, min(q / (1.0 - repeated_mass), 1.0)
        repeated_mass += q
    return slots


@kernel(_nrt=False)
def watch_slate(platform, memory, scratch, user, time_ms, surface, depth, slots, out, row):
    """Draw the outcomes of the slate in `out.video` from `row` on; returns its watch time and long views."""
    viewers, videos, physics, stream = platform.viewers, platform.videos, platform.physics, scratch.stream
    taste_into(scratch.taste, viewers, user, time_ms)
    watched, long_views, examined, weary = 0, 0, True, memory.weary[user]
    for slot in range(row, row + slots):
        video, watch_ms = out.video[slot], 0
        followed = contains(videos[video].creator, memory.follows[user], FOLLOWS)
        flags = 0
        if examined:
            appeal = appeal_of(physics, viewers, videos, scratch.taste, user, video, time_ms, followed)
            if len(weary):
                appeal -= physics.satiation * weary[videos[video].tags[0]]
                weary[videos[video].tags[0]] += 1.0
            stay = stay_of(physics, viewers, user, appeal, depth)
            watch_ms, flags = draw(physics, appeal, stay, videos[video].duration_ms / 1000.0, followed, stream)
            examined = uniform(stream) < continues(physics.position_law, surface, slot - row, (flags & 2) > 0)
        watched += watch_ms
        long_views += (flags & 2) > 0
        out.watch_ms[slot] = watch_ms
        out.lag_ms[slot] = watched + int(1500.0 * exponential(stream))
        out.flags[slot] = flags | FOLLOWED * followed
        if flags & 16:
            follow(memory, user, videos[video].creator)
    return watched, long_views


@njit(nogil=True, _nrt=False)
def blur_into(scratch, platform, user):
    """Draw the policy's permanent error about a viewer's taste; the stream is left unchanged."""
    state = scratch.stream[0]
    reset(scratch.stream, platform.seed, BLUR, user, 0)
    for d in range(len(scratch.blur)):
        scratch.blur[d] = platform.blur * normal(scratch.stream)
    scratch.stream[0] = state


@njit(nogil=True, _nrt=False)
def follow(memory, user, creator):
    memory.follows[user, memory.follows_at[user] % FOLLOWS] = creator
    memory.follows_at[user] += 1


@njit(nogil=True, _nrt=False)
def remember(memory, user, slate, slots):
    size = memory.seen.shape[1]
    for slot in range(slots):
        memory.seen[user, (memory.seen_at[user] + slot) % size] = slate[slot]
    memory.seen_at[user] += slots

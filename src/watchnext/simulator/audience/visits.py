"""Compiled draws of a closed loop: who comes on a day, what a visit asks for, how its slate is watched, and what follows.

Every draw has a random stream of its own by viewer and visit. So a viewer who meets two policies comes with the same luck to
both, and what differs between them is the policy's doing (common random numbers).
"""

import math
from typing import NamedTuple

from watchnext.kernels import kernel
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.platform.sessions import DISCOVER, HOME, MOST, REQUESTS, start_times
from watchnext.simulator.platform.slates import MAX_SLOTS, MIN_SLOTS, watch_slate
from watchnext.simulator.random import normal, reset, uniform
from watchnext.simulator.watch_laws import sigmoid

COME, ASK, WATCH = 4, 5, 6  # purposes of random streams


class Visit(NamedTuple):
    """A request that a viewer makes: `number` counts those of the session from 0, `depth` its impressions before, `key` names
    the visit among all of the viewer, `surface` is a code."""

    user: int
    time_ms: int
    surface: int
    slots: int
    number: int
    depth: int
    key: int


@kernel(_nrt=False)
def comings(platform, scratch, users, chances, day_ms, at, times, keys):
    """Draw the sessions of a day: fill position in `users`, start and key, and return their number."""
    count = 0
    for i in range(len(users)):
        reset(scratch.stream, platform.seed, COME, users[i], day_ms)
        if uniform(scratch.stream) >= chances[i]:
            continue
        for session in range(start_times(scratch.starts, platform, users[i], day_ms, scratch.stream)):
            if scratch.starts[session] >= platform.viewers[users[i]].joined_ms:
                at[count], times[count] = i, scratch.starts[session]
                keys[count] = day_ms // DAY_MS * MOST + session * REQUESTS
                count += 1
    return count


@kernel(_nrt=False)
def asked(seed, stream, user, key, surface):
    """Draw the surface and the number of slots of a visit; `surface` is that of the visit before, -1 for none."""
    reset(stream, seed, ASK, user, key)
    if surface < 0:
        surface = DISCOVER if uniform(stream) < 0.25 else HOME
    if uniform(stream) < 0.08:
        surface = 1 - surface
    return surface, MIN_SLOTS + int(uniform(stream) * (MAX_SLOTS - MIN_SLOTS + 1))


@kernel(_nrt=False)
def watched(platform, memory, scratch, user, key, time_ms, surface, number, depth, slots, out):
    """Draw the outcomes of the slate in `out.video`; return its long views, and the time of the session's next request or of
    its end, as a negative number. The laws are those of the log."""
    stream = scratch.stream
    reset(stream, platform.seed, WATCH, user, key)
    time, long_views = watch_slate(platform, memory, scratch, user, time_ms, surface, depth, slots, out, 0)
    time += time_ms + int(1000.0 * (2.0 + 12.0 * math.exp(1.1 * normal(stream))))
    stays = uniform(stream) < sigmoid(0.1 + 2.0 * long_views / slots - 0.05 * number) and number + 1 < REQUESTS
    return long_views, time if stays else -time

"""What may be shown: the safe videos in orders that do not change, and what the policy knows of them every few hours anew."""

from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.kernels import kernel
from watchnext.simulator.behaviour import popularity_of
from watchnext.simulator.catalogue import SAFETY
from watchnext.simulator.population import REGIONS

LATEST = 8  # uploads of a followed creator that are offered
ALIAS = np.dtype([("keep", np.float32), ("video", np.int32), ("other", np.int32)])  # keep: the chance of `video`, else `other`


class Shelves(NamedTuple):
    """Rows of the safe videos in orders that do not change: by (cluster, upload), by (creator, upload), by upload."""

    by_cluster: np.ndarray
    cluster_start: np.ndarray
    by_creator: np.ndarray
    creator_start: np.ndarray
    by_upload: np.ndarray


class Offer(NamedTuple):
    """What the policy knows in T periods, first axis all: `weight` (T, V) of a video in its cluster, 0 for what is not there,
    alias tables (T, safe videos) in the order of `by_cluster`, `count` of them (T, clusters), `mass` (T, clusters, regions),
    `uploaded` and `allowed` counts (T,), (T, regions) of the safe videos, `since_ms` (T,)."""

    weight: np.ndarray
    aliases: np.ndarray
    count: np.ndarray
    mass: np.ndarray
    uploaded: np.ndarray
    allowed: np.ndarray
    since_ms: np.ndarray


def shelve(videos: np.ndarray, clusters: int, creators: int) -> Shelves:
    safe = np.flatnonzero(videos["safety"] != SAFETY.index("unsafe")).astype(np.int32)
    upload, cluster, creator = videos["upload_ms"][safe], videos["tags"][safe, 0], videos["creator"][safe]
    by_cluster, by_creator = np.lexsort((upload, cluster)), np.lexsort((upload, creator))
    return Shelves(
        safe[by_cluster],
        np.searchsorted(cluster[by_cluster], np.arange(clusters + 1)),
        safe[by_creator],
        np.searchsorted(creator[by_creator], np.arange(creators + 1)),
        safe[np.argsort(upload, kind="stable")],
    )


def empty_offer(shelves: Shelves, videos: np.ndarray, periods: int) -> Offer:
    """Room for `periods`; `stock` fills them."""
    clusters, safe = len(shelves.cluster_start) - 1, len(shelves.by_cluster)
    return Offer(
        np.zeros((periods, len(videos)), np.float32),
        np.zeros((periods, safe), ALIAS),
        np.zeros((periods, clusters), np.int32),
        np.zeros((periods, clusters, len(REGIONS))),
        np.zeros(periods, np.int64),
        np.zeros((periods, len(REGIONS)), np.int64),
        np.zeros(periods, np.int64),
    )


@kernel
def stock(offer, period, shelves, videos, now_ms, sharpness):
    """Fill one period: what is uploaded by `now_ms`, weighed by popularity then, to the power of `sharpness`."""
    offer.since_ms[period] = now_ms
    offer.mass[period] = 0.0
    offer.allowed[period] = 0
    offer.weight[period] = 0.0
    regions, total = offer.mass.shape[2], 0
    while total < len(shelves.by_upload) and videos[shelves.by_upload[total]].upload_ms <= now_ms:
        for region in range(regions):
            offer.allowed[period, region] += (videos[shelves.by_upload[total]].allowed >> region) & 1
        total += 1
    offer.uploaded[period] = total
    for cluster in range(len(shelves.cluster_start) - 1):
        start, end = shelves.cluster_start[cluster], shelves.cluster_start[cluster + 1]
        count, sum_ = 0, 0.0
        while start + count < end and videos[shelves.by_cluster[start + count]].upload_ms <= now_ms:
            video = shelves.by_cluster[start + count]
            weight = np.float32(np.exp(sharpness * popularity_of(videos, video, now_ms)))
            offer.weight[period, video] = weight
            for region in range(regions):
                if (videos[video].allowed >> region) & 1:
                    offer.mass[period, cluster, region] += weight
            sum_ += weight
            count += 1
        offer.count[period, cluster] = count
        _alias(offer.aliases[period, start : start + count], offer.weight[period], shelves.by_cluster[start:], sum_)


@njit(nogil=True)
def _alias(table, weight, order, total):
    """Vose's alias table (1991)."""
    count = len(table)
    small, large = np.empty(count, np.int32), np.empty(count, np.int32)
    smalls = larges = 0
    share = np.empty(count)
    for i in range(count):
        table[i].keep, table[i].video, table[i].other = 1.0, order[i], order[i]
        share[i] = weight[order[i]] * count / total
        if share[i] < 1.0:
            small[smalls] = i
            smalls += 1
        else:
            large[larges] = i
            larges += 1
    while smalls and larges:
        smalls -= 1
        i, j = small[smalls], large[larges - 1]
        table[i].keep, table[i].other = share[i], order[j]
        share[j] -= 1.0 - share[i]
        if share[j] < 1.0:
            larges -= 1
            small[smalls] = j
            smalls += 1


@njit(nogil=True, _nrt=False)
def latest_into(latest, shelves, videos, follows, region, since_ms):
    """Rows of the offered uploads of the creators in `follows` (-1: none); returns how many."""
    found = 0
    for creator in follows:
        if creator < 0:
            continue
        start, low, high = shelves.creator_start[creator], shelves.creator_start[creator], shelves.creator_start[creator + 1]
        while low < high:  # the first upload after `since_ms`
            middle = (low + high) // 2
            if videos[shelves.by_creator[middle]].upload_ms <= since_ms:
                low = middle + 1
            else:
                high = middle
        for place in range(max(start, low - LATEST), low):
            video = shelves.by_creator[place]
            if (videos[video].allowed >> region) & 1:
                latest[found] = video
                found += 1
    return found

"""The inventory: a fixed index of the safe videos, and their weights in the policy, refreshed every few hours."""

from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.kernels import kernel
from watchnext.simulator.behaviour import popularity_of
from watchnext.simulator.population import REGIONS
from watchnext.simulator.videos import SAFETY

LATEST = 8  # latest uploads per followed creator that may be shown
ALIAS = np.dtype([("keep", np.float32), ("video", np.int32), ("other", np.int32)])  # keep: probability of `video`, else `other`


class SortedVideos(NamedTuple):
    """Rows of the safe videos, sorted by (cluster, upload), by (creator, upload), and by upload."""

    by_cluster: np.ndarray
    cluster_start: np.ndarray
    by_creator: np.ndarray
    creator_start: np.ndarray
    by_upload: np.ndarray


class Inventory(NamedTuple):
    """The policy's view of the videos in T periods: `weight` (T, V) of a video in its cluster, 0 if absent,
    alias tables (T, safe videos) in the order of `by_cluster`, `count` of them (T, clusters), `mass` (T, clusters, regions),
    `uploaded` and `allowed` counts (T,), (T, regions) of the safe videos, `since_ms` (T,)."""

    weight: np.ndarray
    aliases: np.ndarray
    count: np.ndarray
    mass: np.ndarray
    uploaded: np.ndarray
    allowed: np.ndarray
    since_ms: np.ndarray


def index_videos(videos: np.ndarray, clusters: int, creators: int) -> SortedVideos:
    """Index the safe videos by cluster, creator and upload."""
    safe = np.flatnonzero(videos["safety"] != SAFETY.index("unsafe")).astype(np.int32)
    upload, cluster, creator = videos["upload_ms"][safe], videos["tags"][safe, 0], videos["creator"][safe]
    by_cluster, by_creator = np.lexsort((upload, cluster)), np.lexsort((upload, creator))
    return SortedVideos(
        safe[by_cluster],
        np.searchsorted(cluster[by_cluster], np.arange(clusters + 1)),
        safe[by_creator],
        np.searchsorted(creator[by_creator], np.arange(creators + 1)),
        safe[np.argsort(upload, kind="stable")],
    )


def empty_inventory(index: SortedVideos, videos: np.ndarray, periods: int) -> Inventory:
    """Allocate `periods`; `fill_inventory` fills them."""
    clusters, safe = len(index.cluster_start) - 1, len(index.by_cluster)
    return Inventory(
        np.zeros((periods, len(videos)), np.float32),
        np.zeros((periods, safe), ALIAS),
        np.zeros((periods, clusters), np.int32),
        np.zeros((periods, clusters, len(REGIONS))),
        np.zeros(periods, np.int64),
        np.zeros((periods, len(REGIONS)), np.int64),
        np.zeros(periods, np.int64),
    )


@kernel
def fill_inventory(inventory, period, index, videos, now_ms, sharpness):
    """Fill one period with the videos uploaded by `now_ms`, weighted by their popularity to the power of `sharpness`."""
    inventory.since_ms[period] = now_ms
    inventory.mass[period] = 0.0
    inventory.allowed[period] = 0
    inventory.weight[period] = 0.0
    regions, total = inventory.mass.shape[2], 0
    while total < len(index.by_upload) and videos[index.by_upload[total]].upload_ms <= now_ms:
        for region in range(regions):
            inventory.allowed[period, region] += (videos[index.by_upload[total]].allowed >> region) & 1
        total += 1
    inventory.uploaded[period] = total
    for cluster in range(len(index.cluster_start) - 1):
        start, end = index.cluster_start[cluster], index.cluster_start[cluster + 1]
        count, sum_ = 0, 0.0
        while start + count < end and videos[index.by_cluster[start + count]].upload_ms <= now_ms:
            video = index.by_cluster[start + count]
            weight = np.float32(np.exp(sharpness * popularity_of(videos, video, now_ms)))
            inventory.weight[period, video] = weight
            for region in range(regions):
                if (videos[video].allowed >> region) & 1:
                    inventory.mass[period, cluster, region] += weight
            sum_ += weight
            count += 1
        inventory.count[period, cluster] = count
        _alias(inventory.aliases[period, start : start + count], inventory.weight[period], index.by_cluster[start:], sum_)


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
def latest_into(latest, index, videos, follows, region, since_ms):
    """Collect the latest uploads of the creators in `follows` (-1: none) into `latest`; returns their number."""
    count = 0
    for creator in follows:
        if creator < 0:
            continue
        start, low, high = index.creator_start[creator], index.creator_start[creator], index.creator_start[creator + 1]
        while low < high:  # the first upload after `since_ms`
            middle = (low + high) // 2
            if videos[index.by_creator[middle]].upload_ms <= since_ms:
                low = middle + 1
            else:
                high = middle
        for i in range(max(start, low - LATEST), low):
            video = index.by_creator[i]
            if (videos[video].allowed >> region) & 1:
                latest[count] = video
                count += 1
    return count

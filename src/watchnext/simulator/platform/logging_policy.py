"""The logging policy: how the simulated platform fills a slot, with the exact probability of every choice.

Three sources, refreshed every few hours: with probability `explore` uniform over all that may be shown; with `follow` uniform
over the latest uploads of creators whom the viewer follows; else a cluster by softmax of the viewer's taste (blurred, a day
behind), and a video in it by popularity. Recently seen videos and those above in the slate are drawn again. So with q
the probability in the mixture and M its mass on the redrawn videos, the propensity is q / (1 - M).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from watchnext.simulator.random import below, uniform

FOLLOWS = 16  # most creators that a viewer follows; the oldest is dropped


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Parameters of the logging policy.

    explore          share of slots drawn uniformly from all allowed videos
    random_requests  share of requests with only uniform slots (their `policy` is `random`)
    home, discover   sharpness of the softmax over clusters, by surface
    popularity       exponent of popularity within a cluster
    blur             noise in each coordinate of the policy's estimate of a taste
    seen             last videos of a viewer that are not shown again
    refresh_h        hours between refreshes of the inventory; divides 24
    """

    explore: float = 0.05
    random_requests: float = 0.04
    home: float = 6.0
    discover: float = 3.0
    popularity: float = 2.9
    blur: float = 0.12
    seen: int = 200
    refresh_h: int = 3

    def __post_init__(self) -> None:
        if self.seen < 1 or self.refresh_h < 1 or 24 % self.refresh_h:
            raise ValueError(f"seen is {self.seen}, refresh_h {self.refresh_h}; expected at least 1, and a divisor of 24")


@njit(nogil=True, _nrt=False)
def clusters_into(share, until, taste, directions, mass, region, sharpness):
    """Compute the softmax over non-empty clusters: its running sum, and each share divided by the cluster's mass."""
    top = -1e30
    for cluster in range(len(share)):
        share[cluster] = 0.0
    for d in range(len(taste)):
        for cluster in range(len(share)):
            share[cluster] += taste[d] * directions[d, cluster]
    for cluster in range(len(share)):
        if mass[cluster, region] > 0.0 and share[cluster] > top:
            top = share[cluster]
    total = 0.0
    for cluster in range(len(share)):
        share[cluster] = np.exp(sharpness * (share[cluster] - top)) if mass[cluster, region] > 0.0 else 0.0
        total += share[cluster]
    running = 0.0
    for cluster in range(len(share)):
        running += share[cluster] / total
        until[cluster] = running
        if share[cluster] > 0.0:
            share[cluster] /= total * mass[cluster, region]


@njit(nogil=True, _nrt=False)
def contains(video, rows, count):
    hit = False
    for i in range(count):
        hit |= rows[i] == video
    return hit


@njit(nogil=True, _nrt=False)
def probability(inventory, period, videos, region, video, share, explore, follow, latest, count):
    """Return the mixture probability of an allowed video."""
    q = explore / inventory.allowed[period, region]
    if explore == 1.0:
        return q
    q += (1.0 - explore - follow) * share[videos[video].tags[0]] * inventory.weight[period, video]
    if follow > 0.0 and contains(video, latest, count):
        q += follow / count
    return q


@njit(nogil=True, _nrt=False)
def pick(inventory, period, index, videos, region, until, explore, follow, latest, count, stream):
    """Draw one video from the mixture."""
    source = uniform(stream)
    if source < follow:
        return latest[below(stream, count)]
    if source < follow + explore:
        while True:
            video = index.by_upload[below(stream, inventory.uploaded[period])]
            if (videos[video].allowed >> region) & 1:
                return video
    cluster = min(np.searchsorted(until, uniform(stream), side="right"), len(until) - 1)
    start, size = index.cluster_start[cluster], inventory.count[period, cluster]
    while True:
        cell = inventory.aliases[period, start + below(stream, size)]
        video = cell.video if uniform(stream) < cell.keep else cell.other
        if (videos[video].allowed >> region) & 1:
            return video

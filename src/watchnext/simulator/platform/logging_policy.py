"""How the simulated platform fills a slot, with the exact probability of every choice.

Three sources, refreshed every few hours: with probability `explore` uniform over all that may be shown; with `follow` uniform
over the latest uploads of creators whom the viewer follows; else a cluster by softmax of the viewer's taste (blurred, a day
behind), and a video in it by popularity. What the viewer saw lately or has above is drawn again. So with q the
mixture's probability and M its mass on all that is drawn again, the propensity is q / (1 - M).
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from watchnext.simulator.random import below, uniform

FOLLOWS = 16  # creators whom a viewer follows at most; the oldest goes


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What fills the slates.

    explore          share of slots that are uniform over all that may be shown
    random_requests  share of requests all of whose slots are (their `policy` is `random`)
    home, discover   sharpness of the softmax over clusters, by surface
    popularity       exponent of popularity within a cluster
    blur             noise in each coordinate of the taste that the policy knows
    seen             last videos of a viewer that are not shown again
    refresh_h        hours between two looks at the catalogue; divides 24
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
    """The softmax over the clusters that hold something: its running sum, and each share by the cluster's mass."""
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
def among(video, rows, count):
    found = False
    for i in range(count):
        found |= rows[i] == video
    return found


@njit(nogil=True, _nrt=False)
def probability(offer, period, videos, region, video, share, explore, follow, latest, count):
    """The mixture's, of a video that may be shown."""
    q = explore / offer.allowed[period, region]
    if explore == 1.0:
        return q
    q += (1.0 - explore - follow) * share[videos[video].tags[0]] * offer.weight[period, video]
    if follow > 0.0 and among(video, latest, count):
        q += follow / count
    return q


@njit(nogil=True, _nrt=False)
def pick(offer, period, shelves, videos, region, until, explore, follow, latest, count, stream):
    """One draw from the mixture."""
    source = uniform(stream)
    if source < follow:
        return latest[below(stream, count)]
    if source < follow + explore:
        while True:
            video = shelves.by_upload[below(stream, offer.uploaded[period])]
            if (videos[video].allowed >> region) & 1:
                return video
    cluster = min(np.searchsorted(until, uniform(stream), side="right"), len(until) - 1)
    start, size = shelves.cluster_start[cluster], offer.count[period, cluster]
    while True:
        place = offer.aliases[period, start + below(stream, size)]
        video = place.video if uniform(stream) < place.keep else place.other
        if (videos[video].allowed >> region) & 1:
            return video

"""Team-draft interleaving (Radlinski, Kurup & Joachims, CIKM 2008): one slate of two policies, each video on its drafter's
team.

Each round a coin decides which policy picks first; each then adds its best video that the slate lacks. A viewer who views a
video of a team long gives that team credit. Both policies meet the same viewer at the same moment, so that the difference of
the credits has a fraction of the variance of an A/B test. It says which policy is better on a slate, not what it is worth: it
sees no effect on whether viewers come back.
"""

from collections.abc import Sequence

import numpy as np

FIRST, SECOND = 0, 1


def team_draft(first: Sequence[int], second: Sequence[int], k: int, random: np.random.Generator) -> tuple[list[int], list[int]]:
    """Return a slate of at most `k` distinct videos and the team of each; `first` and `second` are lists of videos, best first.

    A policy that has run out leaves its picks to the other.

    >>> team_draft([1, 2, 3], [1, 4], 3, np.random.default_rng(2))
    ([1, 2, 4], [1, 0, 1])
    """
    lists, at, slate, teams, chosen = (first, second), [0, 0], [], [], set()
    while len(slate) < k:
        before = len(slate)
        starts = int(random.random() < 0.5)
        for team in (starts, 1 - starts):
            while at[team] < len(lists[team]) and lists[team][at[team]] in chosen:
                at[team] += 1
            if at[team] < len(lists[team]) and len(slate) < k:
                slate.append(lists[team][at[team]])
                teams.append(team)
                chosen.add(slate[-1])
        if len(slate) == before:
            break
    return slate, teams


def credit(teams: np.ndarray, long_views: np.ndarray) -> float:
    """Return the long views of the first team less those of the second, of one slate (K,).

    >>> credit(np.array([0, 1, 0]), np.array([True, True, True]))
    1.0
    """
    signs = np.where(np.asarray(teams) == FIRST, 1.0, -1.0)
    return float(signs @ np.asarray(long_views, np.float64))

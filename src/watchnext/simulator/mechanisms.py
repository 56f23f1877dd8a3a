"""In what worlds differ: how much taste, time and popularity count, how long videos are watched, how far down viewers look."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.simulator.watch_laws import WATCH_LAWS

POSITION_LAWS = ("power", "geometric", "cascade")
SURFACES = ("home", "discover")


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """In what the worlds differ. What adds to the log odds of a watch is given in them.

    match, popularity   weight of a video's cosine with the viewer's taste (scaled to variance 1), and of its popularity
    drift_days          days in which a typical taste turns by one radian; null: tastes never change
    fatigue             loss per doubling or so of the session's length
    baseline            of everybody, at everything
    watch_law           one of WATCH_LAWS, how long a video is watched
    position_law        one of POSITION_LAWS, how far down a slate viewers look
    """

    match: float = 1.0
    popularity: float = 1.5
    drift_days: float | None = 16.0
    fatigue: float = 0.25
    baseline: float = -3.25
    watch_law: str = "logit_logistic"
    position_law: str = "power"

    def __post_init__(self) -> None:
        for name, known in (("watch_law", WATCH_LAWS), ("position_law", POSITION_LAWS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(known)}")

    def compiled(self) -> "Physics":
        laws = WATCH_LAWS.index(self.watch_law), POSITION_LAWS.index(self.position_law)
        return Physics(float(self.match), float(self.popularity), float(self.fatigue), float(self.baseline), *laws)


class Physics(NamedTuple):
    """Mechanisms, as compiled loops take them."""

    match: float
    popularity: float
    fatigue: float
    baseline: float
    watch_law: int
    position_law: int


@njit(nogil=True, _nrt=False)
def looks_on(law, surface, position, long_view):
    """Probability that a viewer who looked at `position` (from 0) looks at the next; of `cascade`, by what they saw there."""
    if law == 0:  # power: (position + 1) ** -bias is looked at
        return ((position + 1.0) / (position + 2.0)) ** (0.03 if surface == 0 else 0.1)
    if law == 1:
        return 0.98 if surface == 0 else 0.95
    return (0.93 if long_view else 0.97) if surface == 0 else (0.85 if long_view else 0.93)


def examination(law: str, surface: str, long_view: np.ndarray) -> np.ndarray:
    """Probability (..., K) that each position of a slate is looked at, given the `long_view` probabilities of its videos."""
    looked = np.ones_like(long_view, dtype=np.float64)
    which, where = POSITION_LAWS.index(law), SURFACES.index(surface)
    for position in range(looked.shape[-1] - 1):
        viewed, not_viewed = (looks_on.py_func(which, where, position, seen) for seen in (True, False))
        above = long_view[..., position]
        looked[..., position + 1] = looked[..., position] * (above * viewed + (1 - above) * not_viewed)
    return looked

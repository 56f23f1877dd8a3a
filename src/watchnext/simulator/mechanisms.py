"""Mechanisms of a world: weights of taste, time and popularity, and the laws of watch time and position."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.simulator.watch_laws import WATCH_LAWS

POSITION_LAWS = ("power", "geometric", "cascade")
SURFACES = ("home", "discover")


@dataclass(frozen=True, kw_only=True)
class Mechanisms:
    """Parameters of a world; additive effects are in log odds of a watch.

    match, popularity   weight of a video's cosine with the viewer's taste (scaled to variance 1), and of its popularity
    drift_days          days in which a typical taste turns by one radian; null: tastes never change
    fatigue             loss per doubling or so of the session's length
    baseline            log odds of every viewer for every video
    watch_law           one of WATCH_LAWS, law of the watch time
    position_law        one of POSITION_LAWS, law of the examination by position
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
    """Mechanisms in the form of compiled loops."""

    match: float
    popularity: float
    fatigue: float
    baseline: float
    watch_law: int
    position_law: int
    satiation: float = 0.0  # of `Loyalty`, in closed loops


@njit(nogil=True, _nrt=False)
def continues(law, surface, position, long_view):
    """Return the probability that a viewer continues from `position` (from 0); `cascade` depends on the long view there."""
    if law == 0:  # power: the probability of a position is (position + 1) ** -bias
        return ((position + 1.0) / (position + 2.0)) ** (0.03 if surface == 0 else 0.1)
    if law == 1:
        return 0.98 if surface == 0 else 0.95
    return (0.93 if long_view else 0.97) if surface == 0 else (0.85 if long_view else 0.93)


def examination(law: str, surface: str, long_view: np.ndarray) -> np.ndarray:
    """Return the examination probability (..., K) of each position, given the `long_view` probabilities of its videos."""
    probabilities = np.ones_like(long_view, dtype=np.float64)
    law_code, surface_code = POSITION_LAWS.index(law), SURFACES.index(surface)
    for position in range(probabilities.shape[-1] - 1):
        viewed, not_viewed = (continues.py_func(law_code, surface_code, position, seen) for seen in (True, False))
        above = long_view[..., position]
        probabilities[..., position + 1] = probabilities[..., position] * (above * viewed + (1 - above) * not_viewed)
    return probabilities

"""A day after the log on which the tastes of viewers jump, and more videos than usual are uploaded."""

import math
from dataclasses import dataclass

import numpy as np

SHIFT = 10  # purpose of the random numbers


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A shift at the beginning of a day, midnight UTC.

    day     of those after the log, from 1
    share   of the viewers whose taste jumps
    angle   radians by which it jumps, on the circle through the viewer's two taste vectors: at a quarter of the circle little
            of the old taste is left, at half of it the new one is the opposite
    videos  number of videos that are uploaded on this day, beside the usual ones
    """

    day: int = 7
    share: float = 1.0
    angle: float = math.pi / 2
    videos: int = 0

    def __post_init__(self) -> None:
        if self.day < 1 or not 0 <= self.share <= 1 or self.videos < 0:
            raise ValueError(f"{self}: expected a day of at least 1, a share within [0, 1], and videos of at least 0")

    def require(self, days: int) -> None:
        """Raise ValueError for a day that is none of the `days` after the log."""
        if self.day > days:
            raise ValueError(f"shift.day is {self.day}, expected one of the {days} days; give days={self.day} or more")


def shifted(viewers: np.ndarray, shift: Shift, *, seed: int, shift_ms: int) -> np.ndarray:
    """Return the viewers (U,) with a jump of their tastes at `shift_ms`, each with a chance of `shift.share`."""
    moved = viewers.copy()
    jumps = np.random.default_rng([seed, SHIFT]).random(len(viewers)) < shift.share
    moved["jump"], moved["jump_ms"] = np.where(jumps, shift.angle, 0.0), shift_ms
    return moved

"""Intervals that stay valid however often one looks: asymptotic confidence sequences.

Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals
of Statistics 2024: with t observations of standard deviation s so far, mean ± s sqrt(2 (t r² + 1) / (t r)²
ln(sqrt(t r² + 1) / α)) covers the true mean at all t at once with probability 1 - α. Here s is the standard error times
sqrt(t), so that a difference of two arms, a ratio, or sums per viewer may be watched, wherever a standard error is known. The
theorem is about independent observations; sums of the same viewers, looked at hour by hour, are not, and `python -m
benchmarks.experiments` counts false alarms.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """A difference with the ends of its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def tuned(planned: float, alpha: float = 0.05) -> float:
    """Return the r whose interval is narrowest, against that of a single look, near `planned` observations.

    >>> round(tuned(1000), 4)
    0.0937
    """
    inner = -2.0 * math.log(alpha)
    return math.sqrt((inner + math.log(inner) + 1.0) / planned)


def widths(standard_errors: np.ndarray, observations: np.ndarray, *, planned: float, alpha: float = 0.05) -> np.ndarray:
    """Return the half widths (looks, ...) of the interval at every look.

    standard_errors  (looks, ...) of the estimate
    observations     (looks,) or any shape that broadcasts: so far, above 0
    planned          number of observations at which the interval is to be narrowest, best that at the planned end

    >>> widths(np.array([0.1]), np.array([100.0]), planned=100).round(3).tolist()
    [0.304]
    """
    scaled = np.asarray(observations, np.float64) * tuned(planned, alpha) ** 2
    return standard_errors * np.sqrt((scaled + 1.0) / scaled * np.log((scaled + 1.0) / alpha**2))


def always_valid(estimate: float, standard_error: float, observations: float, *, planned: float, alpha: float = 0.05) -> Spread:
    """Return the always-valid interval of one look."""
    half = float(widths(np.array(standard_error), np.array(observations), planned=planned, alpha=alpha))
    return Spread(estimate, estimate - half, estimate + half)


def relative(ratio: float, error: float, observations: float, *, planned: float, alpha: float = 0.05) -> Spread:
    """Return a ratio above 0, less 1, with the ends of the always-valid interval of its logarithm.

    error  standard error of the logarithm: that of the ratio over the ratio
    On the ratio itself an arm that happens to be low has a small standard error too, and is called worse too often.

    >>> [round(end, 2) for end in relative(1.1, 0.1, 100, planned=100)]
    [0.1, -0.19, 0.49]
    """
    found = always_valid(math.log(ratio), error, observations, planned=planned, alpha=alpha)
    return Spread(*(math.expm1(each) for each in found))


def first_decision(looks: Sequence[Spread]) -> int | None:
    """Return the first look whose interval excludes 0, None if there is none."""
    return next((at for at, look in enumerate(looks) if look.excludes_zero), None)

"""Relative differences of live traffic, in seconds, with intervals that stay valid however often one looks (`sequential`).

The intervals are those of the logarithm of the ratio. On the ratio itself a small arm that happens to be low has a small
standard error too, and was called worse in 13% (two arms of 100 viewers) to 40% (100 and 900) of A/A weeks looked at hourly.
"""

import math

import numpy as np

from watchnext.ratios import ratio
from watchnext.sequential import Spread, relative

UNKNOWN = Spread(float("nan"), float("-inf"), float("inf"))
FEWEST = 100  # viewers of an arm who watched anything, from which on a mean counts as normal


def relative_of_arms(first: np.ndarray, second: np.ndarray, *, requests: float, planned: float) -> Spread:
    """Return the mean of `first` (U,) over that of `second` (W,), less 1: sums of different viewers, assigned by hash.

    requests  so far, of both arms; `planned` is the number at which the interval is to be narrowest
    The standard error is by the delta method. UNKNOWN where fewer than FEWEST viewers of either watched.
    """
    if min(np.count_nonzero(first), np.count_nonzero(second)) < FEWEST:
        return UNKNOWN
    squares = sum(each.var(ddof=1) / len(each) / each.mean() ** 2 for each in (first, second))
    return relative(first.mean() / second.mean(), math.sqrt(squares), max(requests, 1.0), planned=planned)


def relative_of_teams(first: np.ndarray, second: np.ndarray, *, requests: float, planned: float) -> Spread:
    """Return the sum of `first` (U,) over that of `second` (U,), less 1: seconds of the same viewers, credited to two teams.
    Otherwise as `relative_of_arms`."""
    if min(np.count_nonzero(first), np.count_nonzero(second)) < FEWEST:
        return UNKNOWN
    value, error = ratio(first, second)
    return relative(value, error / value, max(requests, 1.0), planned=planned)

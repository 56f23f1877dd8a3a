"""Relative differences of live traffic, in seconds, with intervals that stay valid however often one looks (`sequential`)."""

import numpy as np

from watchnext.sequential import Spread, always_valid

UNKNOWN = Spread(float("nan"), float("-inf"), float("inf"))
FEWEST = 30  # viewers of an arm from which on a mean counts as normal


def relative_of_arms(first: np.ndarray, second: np.ndarray, *, requests: float, planned: float) -> Spread:
    """Return the mean of `first` (U,) over that of `second` (W,), less 1: sums of different viewers, assigned by hash.

    requests  so far, of both arms; `planned` is the number at which the interval is to be narrowest
    The standard error is by the delta method. UNKNOWN for fewer than FEWEST viewers of either, or a second mean of 0.
    """
    if min(len(first), len(second)) < FEWEST or not (second.mean() > 0 and first.mean() > 0):
        return UNKNOWN
    value = first.mean() / second.mean()
    squares = sum(each.var(ddof=1) / len(each) / each.mean() ** 2 for each in (first, second))
    return always_valid(float(value) - 1.0, float(value * np.sqrt(squares)), max(requests, 1.0), planned=planned)


def relative_of_teams(first: np.ndarray, second: np.ndarray, *, requests: float, planned: float) -> Spread:
    """Return the sum of `first` (U,) over that of `second` (U,), less 1: seconds of the same viewers, credited to two teams."""
    if len(first) < FEWEST or not (second.sum() > 0 and first.sum() > 0):
        return UNKNOWN
    value = first.sum() / second.sum()
    residuals = first - value * second  # their sum is 0
    error = np.sqrt(residuals @ residuals * len(first) / (len(first) - 1)) / second.sum()
    return always_valid(float(value) - 1.0, float(error), max(requests, 1.0), planned=planned)

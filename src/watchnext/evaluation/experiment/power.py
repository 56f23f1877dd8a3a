"""How much traffic an A/B test needs, and how small a difference it can see (two-sided z test, normal approximation)."""

import math
from statistics import NormalDist

import numpy as np

from watchnext.assignment import ExperimentError


def _sum_of_quantiles(alpha: float, power: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)


def viewers_needed(values: np.ndarray, lift: float, *, share: float = 0.5, alpha: float = 0.05, power: float = 0.8) -> int:
    """Return the number of viewers, both arms together, with which a relative `lift` of the mean is found.

    values  (U,) of the metric, one a viewer, under the present policy; the deviation is taken to be that of both arms
    share   of the viewers who get the new policy

    >>> viewers_needed(np.array([0.0, 2.0]), 0.1)
    3140
    """
    mean, deviation = _moments(values)
    if not (0 < share < 1 and 0 < power < 1 and 0 < alpha < 1) or lift == 0:
        raise ExperimentError(
            f"lift is {lift}, share {share}, power {power}, alpha {alpha}: expected a lift other than 0, and the others "
            "within (0, 1)"
        )
    per_viewer = deviation**2 * (1 / share + 1 / (1 - share))
    return math.ceil(per_viewer * (_sum_of_quantiles(alpha, power) / (lift * mean)) ** 2)


def detectable_lift(values: np.ndarray, viewers: int, *, share: float = 0.5, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the relative lift that `viewers`, both arms together, suffice to find: the inverse of `viewers_needed`.

    >>> round(detectable_lift(np.array([0.0, 2.0]), 3140), 4)
    0.1
    """
    mean, deviation = _moments(values)
    per_viewer = deviation**2 * (1 / share + 1 / (1 - share))
    return _sum_of_quantiles(alpha, power) * math.sqrt(per_viewer / viewers) / mean


def _moments(values: np.ndarray) -> tuple[float, float]:
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2 or not mean > 0:
        raise ExperimentError(f"{len(values)} viewers with mean {mean:g}: expected two or more, and a mean above 0")
    return mean, float(values.std())

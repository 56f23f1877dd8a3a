"""Fit monotone calibration curves, by isotonic regression or Platt's method. Serving reads the curves, and none of this.

A curve is piecewise linear and strictly ascending, so that it preserves the order of scores: where isotonic regression is flat,
and beyond the range of its rows, it still rises slightly.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
from sklearn.isotonic import isotonic_regression

from watchnext.ranking.calibration.calibration import Calibration, Curve
from watchnext.types import TARGETS

log = logging.getLogger(__name__)
LONGEST_S = 86400.0  # one day, the longest calibrated watch time
TILT = 1e-3  # part of the way to the end of the scale that a curve rises beyond its last knot
MOST_SCORES = 200  # distinct scores in a fit; more are grouped
MARGIN = 1e-6  # part of the scale that knots stay away from its ends
FLATTEST = 0.01  # slope of a head that orders validation rows backwards
PLATT_LOGITS = np.linspace(-14.0, 14.0, 561)  # knots of a Platt curve: relative error between them is 3e-4


def _checked(targets: np.ndarray, scores: np.ndarray, highest: float) -> tuple[np.ndarray, np.ndarray]:
    targets, scores = np.asarray(targets, np.float64), np.asarray(scores, np.float64)
    if targets.ndim != 1 or targets.shape != scores.shape or not len(targets):
        raise ValueError(f"targets are {targets.shape} and scores {scores.shape}, expected equal shapes (N,) with N > 0")
    for name, values in (("target", targets), ("score", scores)):
        outside = values[~((values >= 0) & (values <= highest))]
        if len(outside):
            raise ValueError(f"calibration {name} is {outside[0]:g}, expected a value in [0, {highest:g}]")
    return targets, scores


def isotonic_blocks(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit isotonic regression: mean score and mean target of every block. Both ascend strictly; equal scores are merged."""
    distinct, which = np.unique(scores, return_inverse=True)
    rows = np.bincount(which)
    means = np.bincount(which, targets) / rows
    _, block = np.unique(isotonic_regression(means, sample_weight=rows), return_inverse=True)
    total = np.bincount(block, rows)
    return np.bincount(block, distinct * rows) / total, np.bincount(block, means * rows) / total


def fit_isotonic(targets: np.ndarray, scores: np.ndarray, *, highest: float = 1.0) -> Curve:
    """Fit isotonic regression with a knot at the middle of every block instead of steps (Oron & Flournoy, 2017). Deviation:
    many scores are grouped, so that no curve is steep enough to amplify rounding differences between programs.

    targets, scores  (N,) in [0, highest]: outcomes and probabilities; or seconds of both, with `highest` a bound for them
    """
    targets, scores = _checked(targets, scores, highest)
    places, values = isotonic_blocks(targets, _snapped(scores))
    margin = MARGIN * highest
    values = margin + values * (1.0 - 2.0 * MARGIN)
    inside = (places > 0) & (places < highest)  # a block at an end of the scale gives its value to the end
    low = values[0] * (1.0 - TILT * (places[0] > 0))
    high = values[-1] + TILT * (places[-1] < highest) * (highest - values[-1])
    return _strict(np.concatenate([[0.0], places[inside], [highest]]), np.concatenate([[low], values[inside], [high]]))


def _snapped(scores: np.ndarray) -> np.ndarray:
    """Replace scores (N,) by the means of at most MOST_SCORES groups of equal size."""
    if len(np.unique(scores)) <= MOST_SCORES:
        return scores
    edges = np.unique(np.quantile(scores, np.arange(1, MOST_SCORES) / MOST_SCORES))
    _, group = np.unique(np.searchsorted(edges, scores, side="right"), return_inverse=True)
    return (np.bincount(group, scores) / np.bincount(group))[group]


def _strict(scores: np.ndarray, values: np.ndarray) -> Curve:
    """Build a curve without knots that rounding made equal to their predecessor."""
    keep = np.append(True, (np.diff(scores) > 0) & (np.diff(values) > 0))
    return Curve(scores[keep], values[keep])


def fit_platt(targets: np.ndarray, probabilities: np.ndarray) -> Curve:
    """Fit sigmoid(slope x logit + intercept) with Platt's (1999) smoothed targets by Newton's method; for few validation rows.

    Deviations: a prior of one row for slope 1, which scikit-learn's regression cannot have and which gives a single label a
    solution; slopes below FLATTEST are raised to it.
    """
    targets, probabilities = _checked(targets, probabilities, 1.0)
    tiny = 1e-7
    clipped = np.clip(probabilities, tiny, 1 - tiny)
    logits, positives = np.log(clipped / (1 - clipped)), targets.sum()
    smoothed = (targets * (positives + 1) + (1 - targets)) / np.where(targets > 0, positives + 2, len(targets) - positives + 2)
    slope, intercept = _newton(logits, smoothed, belief=1.0)
    if slope < FLATTEST:
        slope, intercept = np.array([FLATTEST, 1.0]) * _newton(FLATTEST * logits, smoothed, belief=1e12)
    knots = 1.0 / (1.0 + np.exp(-PLATT_LOGITS))
    return _strict(knots, 1.0 / (1.0 + np.exp(-(slope * PLATT_LOGITS + intercept))))


def _newton(x: np.ndarray, y: np.ndarray, *, belief: float) -> np.ndarray:
    """Fit slope and intercept of a logistic regression of `y` in [0, 1] on `x`. `belief` is the weight, in rows, of the prior
    slope 1. Steps that increase the loss are halved."""
    columns, prior, start = np.stack([x, np.ones(len(x))]), np.diag([belief, 1e-9]), np.array([1.0, 0.0])

    def loss(weights: np.ndarray) -> float:
        z = weights @ columns
        return float((np.logaddexp(0.0, z) - y * z).sum() + (weights - start) @ prior @ (weights - start) / 2)

    found, step = start.copy(), np.ones(2)
    while np.abs(step).max() > 1e-9:
        p = 1.0 / (1.0 + np.exp(-np.clip(found @ columns, -60.0, 60.0)))
        gradient = columns @ (p - y) + prior @ (found - start)
        step = np.linalg.solve((columns * (p * (1 - p))) @ columns.T + prior, gradient)
        while not loss(found - step) <= loss(found) and np.abs(step).max() > 1e-9:
            step = step / 2
        found = found - step
    return found


METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Curve]] = {"isotonic": fit_isotonic, "platt": fit_platt}


def fit_calibration(predictions: np.ndarray, targets: np.ndarray, *, methods: Mapping[str, str]) -> Calibration:
    """Fit one curve a target on validation rows: `predictions` and `targets` (N, T), columns as in TARGETS.

    `methods` maps a target to "isotonic" or "platt", or to None for no calibration. A target with a single class, without
    any watch, or without rows passes through with a warning in the log. Raises ValueError for a misspelt target or
    method, for Platt on seconds, and for unusable rows.
    """
    curves = {}
    for target, method in methods.items():
        if target not in TARGETS or method not in (*METHODS, None):
            raise ValueError(
                f"calibration of {target!r} by {method!r}: expected one of {', '.join(TARGETS)} by {', '.join(METHODS)}"
            )
        if method is None:
            continue
        happened, scores = (columns[:, TARGETS.index(target)].astype(np.float64) for columns in (targets, predictions))
        if not len(happened):
            log.warning("no validation rows: predictions of %s stay uncalibrated", target)
        elif happened.min() == happened.max():
            log.warning("%s is %g in all validation rows: its predictions stay uncalibrated", target, happened[0])
        elif target != "watch_s":
            curves[target] = METHODS[method](np.clip(happened, 0.0, 1.0), scores)
        elif method == "isotonic":
            curves[target] = fit_isotonic(*(np.minimum(c, LONGEST_S) for c in (happened, scores)), highest=LONGEST_S)
        else:
            raise ValueError(f"calibration of 'watch_s' by {method!r}: seconds are not a probability, expected isotonic")
    return Calibration(curves)

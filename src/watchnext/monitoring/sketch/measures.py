"""Moments of what is compared between two windows: shares of bins, calibration, order of outcomes, content of the videos."""

from collections.abc import Iterator, Mapping

import numpy as np

from watchnext.monitoring.sketch.bins import Bins
from watchnext.monitoring.sketch.moments import Moments, damped
from watchnext.monitoring.sketch.rows import Coded
from watchnext.types import TARGETS

VECTORS = "video vectors"
FLAGS = TARGETS[:3]  # outcomes of which there are two


def measured(window: Coded, bins: Mapping[str, Bins], vectors: np.ndarray) -> dict[str, Moments]:
    """Return check > moments over a window; a check without rows is left out. `vectors` (V, d) are those of the videos.

    Checks are the columns, `calibration <target>`, `auc <target>` and VECTORS.
    """
    viewers = window.numbered
    checks = {name: _shares(name, codes, viewers, bins[name].size) for name, codes in window.codes.items()}
    for index, target in enumerate(TARGETS):
        checks |= dict(_judged(window, index, viewers, bins[f"score {target}"].size))
    if vectors.shape[1]:
        known = np.flatnonzero(window.videos >= 0)
        checks[VECTORS] = _means(vectors, window.videos[known], viewers[known])
    return {name: each for name, each in checks.items() if each.rows and np.isfinite(each.mean).all()}


def _shares(name: str, codes: np.ndarray, viewers: np.ndarray, size: int) -> Moments:
    """Return the share of every bin; of outcomes and scores, among the rows that have one."""
    if name.startswith(("outcome ", "score ")):
        codes, viewers = codes[codes > 0], viewers[codes > 0]
    return Moments.of_codes(codes, viewers, size)


def _judged(window: Coded, index: int, viewers: np.ndarray, size: int) -> Iterator[tuple[str, Moments]]:
    """Yield the checks of predictions against outcomes, of rows with both."""
    target = TARGETS[index]
    rows = np.flatnonzero(np.isfinite(window.predictions[:, index]) & np.isfinite(window.outcomes[:, index]))
    codes, viewers = window.codes.get(f"score {target}", np.zeros(0, np.uint8))[rows], viewers[rows]
    observed = window.outcomes[rows, index].astype(np.float64)
    yield f"calibration {target}", _residuals(codes, viewers, observed - window.predictions[rows, index], size)
    if target in FLAGS:
        yield f"auc {target}", _auc(codes, viewers, observed > 0, size)


def _residuals(codes: np.ndarray, viewers: np.ndarray, residuals: np.ndarray, size: int) -> Moments:
    """Return the mean residual by bin of the score: observed minus predicted, over all rows."""
    sums = _table(codes, viewers, size, residuals)
    return Moments.of_sums(sums, np.bincount(viewers, minlength=len(sums)))


def _auc(codes: np.ndarray, viewers: np.ndarray, positive: np.ndarray, size: int) -> Moments:
    """Return the area under the ROC curve of binned scores, its variance by viewer (Obuchowski, Biometrics 1997); nan if one
    outcome alone is there."""
    one, zero = _table(codes, viewers, size, positive), _table(codes, viewers, size, ~positive)
    factor = damped(one.sum(1) + zero.sum(1))[:, None]
    one, zero = one * factor, zero * factor
    ones, zeros = one.sum(), zero.sum()
    if not ones or not zeros or len(one) < 2:
        return Moments(np.array([np.nan]), np.full((1, 1), np.nan), np.zeros(1), len(codes), float(len(one)))
    below, above = _below(zero.sum(0)) / zeros, 1 - _below(one.sum(0)) / ones
    area = float(one.sum(0) @ below / ones)
    influence = (one @ below - area * one.sum(1)) / ones + (zero @ above - area * zero.sum(1)) / zeros
    behind = min(sides.sum() ** 2 / (sides @ sides) for sides in (one.sum(1), zero.sum(1)))
    variance = float(influence @ influence) * len(one) / (len(one) - 1)
    seen = np.array([float(len(one))])
    return Moments(np.array([area]), np.array([[variance]]), seen, len(codes), float(behind))


def _below(counts: np.ndarray) -> np.ndarray:
    """Count those in lower bins, and half of those in the same."""
    return np.cumsum(counts) - counts / 2


def _means(vectors: np.ndarray, videos: np.ndarray, viewers: np.ndarray) -> Moments:
    count = int(viewers.max(initial=-1)) + 1
    sums = np.stack([np.bincount(viewers, vectors[videos, place], count) for place in range(vectors.shape[1])], 1)
    return Moments.of_sums(sums, np.bincount(viewers, minlength=count))


def _table(codes: np.ndarray, viewers: np.ndarray, size: int, weights: np.ndarray) -> np.ndarray:
    """Sum weights (N,) by viewer and bin, (V, size)."""
    count = int(viewers.max(initial=-1)) + 1
    return np.bincount(viewers * size + codes, weights, count * size).reshape(count, size)

"""Distribution of impressions over users or videos: quantiles, shares of the top, Gini. Pure functions of counts."""

from dataclasses import dataclass

import numpy as np

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def quantiles(values: np.ndarray, counts: np.ndarray, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
    """Return the quantiles of ascending `values` (n,), repeated `counts` (n,) times; nan without values."""
    if not len(values):
        return np.full(len(levels), np.nan)
    below = np.cumsum(counts)
    return np.asarray(values)[np.searchsorted(below, np.array(levels) * below[-1])]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient: 0 if all are equal, towards 1 if one has everything; nan without counts."""
    ascending = np.sort(np.asarray(counts, np.float64))
    n, total = len(ascending), ascending.sum()
    if not total > 0:
        return float("nan")
    return float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * total) - (n + 1) / n)


def top_share(counts: np.ndarray, part: float) -> float:
    """Return the share of the total in the largest `part` of the counts, at least one of them; nan without counts."""
    descending = np.sort(np.asarray(counts))[::-1]
    if not len(descending):
        return float("nan")
    return float(descending[: int(np.ceil(part * len(descending)))].sum() / descending.sum())


@dataclass(frozen=True)
class Distribution:
    """Impressions of each user (or video) with at least one."""

    counts: np.ndarray

    @property
    def quantiles(self) -> np.ndarray:
        ascending = np.sort(self.counts)
        return quantiles(ascending, np.ones(len(ascending), np.int64))

    def at_least(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the distinct counts, ascending, and the share of users (or videos) with at least each count."""
        values, occurrences = np.unique(self.counts, return_counts=True)
        return values, np.cumsum(occurrences[::-1])[::-1] / max(len(self.counts), 1)

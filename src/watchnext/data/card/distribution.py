"""How unequally a log is spread over its users or videos: quantiles, shares of the top, Gini. Pure functions of counts."""

from dataclasses import dataclass

import numpy as np

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def quantiles(values: np.ndarray, counts: np.ndarray, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
    """Of ascending `values` (n,), each there `counts` (n,) times: the smallest that at least a part `level` of them does not
    exceed; nan over nobody."""
    if not len(values):
        return np.full(len(levels), np.nan)
    below = np.cumsum(counts)
    return np.asarray(values)[np.searchsorted(below, np.array(levels) * below[-1])]


def gini(counts: np.ndarray) -> float:
    """0 where all have the same, towards 1 where one has everything; nan over nobody."""
    ascending = np.sort(np.asarray(counts, np.float64))
    n, total = len(ascending), ascending.sum()
    if not total > 0:
        return float("nan")
    return float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * total) - (n + 1) / n)


def top_share(counts: np.ndarray, part: float) -> float:
    """The share of everything that the largest `part` of them have, at least one of them; nan over nobody."""
    descending = np.sort(np.asarray(counts))[::-1]
    if not len(descending):
        return float("nan")
    return float(descending[: int(np.ceil(part * len(descending)))].sum() / descending.sum())


@dataclass(frozen=True)
class Tail:
    """Impressions of each user (or video) that has any."""

    counts: np.ndarray

    @property
    def quantiles(self) -> np.ndarray:
        ascending = np.sort(self.counts)
        return quantiles(ascending, np.ones(len(ascending), np.int64))

    def at_least(self) -> tuple[np.ndarray, np.ndarray]:
        """The different counts, ascending, and the part of users (or videos) that have at least so many."""
        values, occurrences = np.unique(self.counts, return_counts=True)
        return values, np.cumsum(occurrences[::-1])[::-1] / max(len(self.counts), 1)

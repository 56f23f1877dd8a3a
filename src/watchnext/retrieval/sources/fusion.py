"""Several sources > one ranking: each names its best, every source scores what any of them named, a weighted sum decides.

Scores are summed as logarithms (a product of experts, Hinton 2002), so a source's unit does not matter, only its ratios.
Weights are chosen on validation videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.retrieval.towers.sequences.leave_one_out import Histories
from watchnext.retrieval.towers.sequences.whole_catalogue import CatalogueScorer, at_once, best


def in_logs(scorer: CatalogueScorer, floor: float) -> CatalogueScorer:
    """log(score / the viewer's best score + floor) of scores that are 0 or more: 0 means not named, not impossible."""

    def logs(histories: Histories, viewers: np.ndarray) -> np.ndarray:
        scores = scorer(histories, viewers).astype(np.float32)  # ten times as fast as float64
        scores /= np.maximum(scores.max(axis=1, keepdims=True), np.float32(1e-12))
        return np.log(scores + np.float32(floor))

    return logs


@dataclass(frozen=True)
class Pool:
    """rows    (T, C) int64 what any source named for each viewer, each once, -1 behind the last
    scores  source > (T, C) float32, -inf behind the last
    """

    rows: np.ndarray
    scores: Mapping[str, np.ndarray]

    def ranked(self, weights: Mapping[str, float], k: int) -> np.ndarray:
        """Best `k` rows (T, k) by the weighted sum, -1 behind the last. Of equal sums the lower row comes first."""
        total = np.where(self.rows >= 0, 0.0, -np.inf)
        for name, weight in weights.items():
            total[self.rows >= 0] += weight * self.scores[name][self.rows >= 0]
        order = np.argsort(-total, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(self.rows, order, axis=1)
        return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)


def pooled(
    sources: Mapping[str, CatalogueScorer], histories: Histories, viewers: np.ndarray, *, named: int, chunk: int | None = None
) -> Pool:
    """The pool of each viewer: the best `named` unseen videos of each source. `chunk` viewers are scored at once."""
    chunk = chunk or at_once(histories.videos)
    parts = [_pooled(sources, histories, viewers[at : at + chunk], named) for at in range(0, len(viewers), chunk)]
    width = named * len(sources)
    rows = np.concatenate([rows for rows, _ in parts]) if parts else np.empty((0, width), np.int64)
    scores = {
        name: np.concatenate([scores[name] for _, scores in parts]) if parts else np.empty((0, width), np.float32)
        for name in sources
    }
    return Pool(rows, scores)


def _pooled(
    sources: Mapping[str, CatalogueScorer], histories: Histories, viewers: np.ndarray, named: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    found = {name: scorer(histories, viewers) for name, scorer in sources.items()}
    tops = [best(_given(scores), histories, viewers, named) for scores in found.values()]
    rows = np.sort(np.concatenate(tops, axis=1), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    # Ascending, so that equal sums keep the lower row first; what is empty goes behind.
    rows = np.sort(np.where(rows < 0, histories.videos, rows), axis=1)
    there = rows < histories.videos
    at = np.where(there, rows, 0)
    scores = {
        name: np.where(there, np.take_along_axis(values, at, axis=1), -np.inf).astype(np.float32)
        for name, values in found.items()
    }
    return np.where(there, rows, -1), scores


def _given(scores: np.ndarray) -> CatalogueScorer:
    return lambda histories, viewers: scores.copy()


def chosen(pool: Pool, wanted: np.ndarray, *, grid: Sequence[float], rounds: int, k: int) -> dict[str, float]:
    """Weights with the best sum of recall@k and NDCG@k on `wanted` (T,).

    Starts from the best single source, which is then never left for something worse, and tries the weights of the `grid` (0
    first), one source at a time. Of equals the simpler is taken: the earlier source, the smaller weight.
    """
    # Whom no source names their video for, no weights help.
    viewers, places = np.nonzero(pool.rows == wanted[:, None])
    scores = {name: values[viewers] for name, values in pool.scores.items()}
    alone = {name: _quality(values, places, k) for name, values in scores.items()}
    weights = dict.fromkeys(scores, 0.0) | {max(alone, key=alone.__getitem__): 1.0}
    for _ in range(rounds):
        for name in scores:
            others = [np.float32(weight) * scores[other] for other, weight in weights.items() if other != name and weight]
            if others:  # one alone is the same with any weight
                total = sum(others)
                tried = {w: _quality(total + np.float32(w) * scores[name] if w else total, places, k) for w in grid}
                weights[name] = max(tried, key=tried.__getitem__)
    return weights


def _quality(total: np.ndarray, places: np.ndarray, k: int) -> float:
    """Sum of the recall and the NDCG of the videos at `places` (T,) under scores (T, C), one a viewer."""
    own = total[np.arange(len(places)), places][:, None]
    before = np.arange(total.shape[1]) < places[:, None]
    ranks = ((total > own) | ((total == own) & before)).sum(axis=1)
    return float((1.0 + 1.0 / np.log2(ranks[ranks < k] + 2)).sum())

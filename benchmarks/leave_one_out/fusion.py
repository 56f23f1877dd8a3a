"""Fuse sources by a weighted sum: each source proposes its best videos, and every source scores all proposals.

Scores are summed as logarithms (a product of experts, Hinton 2002), so only ratios within a source matter. Weights are chosen
on validation videos.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.leave_one_out.catalogue import CatalogueScorer, best
from benchmarks.leave_one_out.protocol import Sequences

from watchnext.retrieval.towers.recall import at_once


def in_logs(scorer: CatalogueScorer, floor: float) -> CatalogueScorer:
    """Convert non-negative scores to log(score / the viewer's best score + floor): a score of 0 stays possible."""

    def logs(histories: Sequences, viewers: np.ndarray) -> np.ndarray:
        scores = scorer(histories, viewers).astype(np.float32)  # ten times as fast as float64
        scores /= np.maximum(scores.max(axis=1, keepdims=True), np.float32(1e-12))
        return np.log(scores + np.float32(floor))

    return logs


@dataclass(frozen=True)
class Pool:
    """Union of the sources' proposals.

    rows    (T, C) int64 distinct proposals per viewer, padded with -1
    scores  source > (T, C) float32, padded with -inf
    """

    rows: np.ndarray
    scores: Mapping[str, np.ndarray]

    def ranked(self, weights: Mapping[str, float], k: int) -> np.ndarray:
        """Rank the best `k` rows (T, k) by the weighted sum, padded with -1. Ties are ordered by row."""
        total = np.where(self.rows >= 0, 0.0, -np.inf)
        for name, weight in weights.items():
            total[self.rows >= 0] += weight * self.scores[name][self.rows >= 0]
        order = np.argsort(-total, axis=1, kind="stable")[:, :k]
        rows = np.take_along_axis(self.rows, order, axis=1)
        return np.pad(rows, ((0, 0), (0, k - rows.shape[1])), constant_values=-1)


def pooled(
    sources: Mapping[str, CatalogueScorer], histories: Sequences, viewers: np.ndarray, *, named: int, chunk: int | None = None
) -> Pool:
    """Pool the best `named` unseen videos of each source per viewer. `chunk` viewers are scored at once."""
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
    sources: Mapping[str, CatalogueScorer], histories: Sequences, viewers: np.ndarray, named: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    scores_by_source = {name: scorer(histories, viewers) for name, scorer in sources.items()}
    tops = [best(_given(scores), histories, viewers, named) for scores in scores_by_source.values()]
    rows = np.sort(np.concatenate(tops, axis=1), axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    # Ascending, so that ties keep the lower row first; padding goes last.
    rows = np.sort(np.where(rows < 0, histories.videos, rows), axis=1)
    present = rows < histories.videos
    at = np.where(present, rows, 0)
    scores = {
        name: np.where(present, np.take_along_axis(values, at, axis=1), -np.inf).astype(np.float32)
        for name, values in scores_by_source.items()
    }
    return np.where(present, rows, -1), scores


def _given(scores: np.ndarray) -> CatalogueScorer:
    return lambda histories, viewers: scores.copy()


def chosen(pool: Pool, wanted: np.ndarray, *, grid: Sequence[float], rounds: int, k: int) -> dict[str, float]:
    """Choose weights with the best sum of recall@k and NDCG@k on `wanted` (T,) by coordinate search.

    The search starts from the best single source and tries the weights of the `grid` (0 first), one source at a time, without
    accepting a worse result. Ties prefer the earlier source and the smaller weight.
    """
    # Viewers whose video no source proposed do not depend on the weights.
    viewers, positions = np.nonzero(pool.rows == wanted[:, None])
    scores = {name: values[viewers] for name, values in pool.scores.items()}
    alone = {name: _quality(values, positions, k) for name, values in scores.items()}
    weights = dict.fromkeys(scores, 0.0) | {max(alone, key=alone.__getitem__): 1.0}
    for _ in range(rounds):
        for name in scores:
            others = [np.float32(weight) * scores[other] for other, weight in weights.items() if other != name and weight]
            if others:  # the weight of a single source has no effect
                total = sum(others)
                tried = {w: _quality(total + np.float32(w) * scores[name] if w else total, positions, k) for w in grid}
                weights[name] = max(tried, key=tried.__getitem__)
    return weights


def _quality(total: np.ndarray, positions: np.ndarray, k: int) -> float:
    """Compute recall plus NDCG, summed over viewers, of the videos at `positions` (T,) under scores (T, C)."""
    target = total[np.arange(len(positions)), positions][:, None]
    before = np.arange(total.shape[1]) < positions[:, None]
    ranks = ((total > target) | ((total == target) & before)).sum(axis=1)
    return float((1.0 + 1.0 / np.log2(ranks[ranks < k] + 2)).sum())

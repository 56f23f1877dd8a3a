"""Rank the whole catalogue for held-out videos, and measure it."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from benchmarks.leave_one_out.protocol import Sequences

from watchnext.retrieval.towers.recall import at_once

# histories, viewers (B,) > writable scores (B, V); -inf is never recommended.
CatalogueScorer = Callable[[Sequences, np.ndarray], np.ndarray]


def best(scorer: CatalogueScorer, histories: Sequences, viewers: np.ndarray, k: int, chunk: int | None = None) -> np.ndarray:
    """Rank the best `k` rows (T, k) for each of `viewers`, without their history, padded with -1.

    `chunk` viewers are scored at once. The order of ties is undefined but deterministic.
    """
    chunk = chunk or at_once(histories.videos)
    parts = [_best(scorer, histories, viewers[at : at + chunk], k) for at in range(0, len(viewers), chunk)]
    return np.concatenate(parts) if parts else np.empty((0, k), np.int64)


def _best(scorer: CatalogueScorer, histories: Sequences, viewers: np.ndarray, k: int) -> np.ndarray:
    scores = scorer(histories, viewers)
    lengths = histories.lengths[viewers]
    at = np.repeat(histories.starts[viewers + 1] - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
    scores[np.repeat(np.arange(len(viewers)), lengths), histories.rows[at]] = -np.inf
    top, rows = torch.from_numpy(scores).topk(min(k, scores.shape[1]), dim=1)
    ranked = torch.where(top > -torch.inf, rows, -1).numpy()
    return np.pad(ranked, ((0, 0), (0, k - ranked.shape[1])), constant_values=-1)


def gains(ranked: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute recall and NDCG (T,) of one wanted row each (T,) in `ranked` (T, k); NDCG is 1 / log2(1 + rank)."""
    hits = ranked == wanted[:, None]
    discount = 1.0 / np.log2(np.arange(2, ranked.shape[1] + 2))
    return hits.any(axis=1).astype(float), hits @ discount


def figures(ranked: np.ndarray, wanted: np.ndarray, prefix: str = "") -> Mapping[str, float]:
    """Average `gains` as recall@k and ndcg@k; nan without rows."""
    k, parts = ranked.shape[1], gains(ranked, wanted)
    return {
        f"{prefix}{name}@{k}": float(np.mean(part)) if len(part) else float("nan")
        for name, part in zip(("recall", "ndcg"), parts, strict=True)
    }


def constant(scores: np.ndarray) -> CatalogueScorer:
    """Score every viewer alike with scores (V,), such as popularity."""
    return lambda histories, viewers: np.tile(scores.astype(np.float64), (len(viewers), 1))

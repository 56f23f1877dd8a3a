"""Rank the whole catalogue for held-out videos, for leave-one-out metrics."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from watchnext.retrieval.towers.sequences.leave_one_out import Histories

# histories, viewers (B,) > writable scores (B, V); -inf is never recommended.
CatalogueScorer = Callable[[Histories, np.ndarray], np.ndarray]


def at_once(videos: int) -> int:
    """Return the number of viewers per chunk that keeps scores below 2^24, 128 MiB in double precision."""
    return max(min(1024, 2**24 // max(videos, 1)), 1)


def best(scorer: CatalogueScorer, histories: Histories, viewers: np.ndarray, k: int, chunk: int | None = None) -> np.ndarray:
    """Rank the best `k` rows (T, k) for each of `viewers`, without their history, padded with -1.

    `chunk` viewers are scored at once. The order of ties is undefined but deterministic.
    """
    chunk = chunk or at_once(histories.videos)
    parts = [_best(scorer, histories, viewers[at : at + chunk], k) for at in range(0, len(viewers), chunk)]
    return np.concatenate(parts) if parts else np.empty((0, k), np.int64)


def _best(scorer: CatalogueScorer, histories: Histories, viewers: np.ndarray, k: int) -> np.ndarray:
    scores = scorer(histories, viewers)
    lengths = histories.lengths[viewers]
    at = np.repeat(histories.starts[viewers + 1] - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
    scores[np.repeat(np.arange(len(viewers)), lengths), histories.rows[at]] = -np.inf
    top, rows = torch.from_numpy(scores).topk(min(k, scores.shape[1]), dim=1)
    ranked = torch.where(top > -torch.inf, rows, -1).numpy()
    return np.pad(ranked, ((0, 0), (0, k - ranked.shape[1])), constant_values=-1)


def recall_among_all(vectors: np.ndarray, queries: np.ndarray, wanted: np.ndarray, k: int) -> float:
    """Compute the mean probability that each wanted row (T,) is among the `k` nearest of `vectors` (V, D), with ties in random
    order. `queries` (T, K, D) are interests, of which the nearest counts. nan without rows."""
    hits, chunk = [], at_once(len(vectors) * queries.shape[1])
    for at in range(0, len(wanted), chunk):
        scores = (queries[at : at + chunk] @ vectors.T).max(axis=1)
        wanted_scores = np.take_along_axis(scores, wanted[at : at + chunk, None], axis=1)
        above, ties = (scores > wanted_scores).sum(axis=1), (scores == wanted_scores).sum(axis=1)
        hits.append(np.clip((k - above) / ties, 0.0, 1.0))
    return float(np.concatenate(hits).mean()) if hits else float("nan")


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

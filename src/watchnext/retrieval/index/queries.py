"""Validate queries, and merge the results of several queries of one viewer."""

import numpy as np

from watchnext.retrieval.index.vectors import VideoIndexError
from watchnext.types import descending, first_of

CHUNK = 65_536  # vectors at a time


def best_of(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge results (Q, k) of several queries into at most k distinct rows (n,) with their best scores (n,), without padding.
    Exact for the first k, the depth of each query."""
    if len(rows) == 1:
        found = np.flatnonzero(rows[0] >= 0)
        return rows[0, found], scores[0, found]
    width, order = rows.shape[1], np.argsort(-scores, axis=None, kind="stable")
    rows, scores = rows.ravel()[order], scores.ravel()[order]
    first = first_of(rows)
    first = first[rows[first] >= 0][:width]
    return rows[first], scores[first]


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the best `k` of `scores` (n,), best first, ties by position, without sorting all."""
    positions = np.arange(len(scores))
    if 0 < k < len(scores):
        positions = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return positions[descending(scores[positions], positions)][:k]


def require_finite(vectors: np.ndarray, subject: str, names: np.ndarray) -> None:
    for at in range(0, len(vectors), CHUNK):
        good = np.isfinite(vectors[at : at + CHUNK]).all(axis=1)
        if not good.all():
            raise VideoIndexError(
                f"{subject} {names[at + int(np.argmin(good))]} holds nan or infinity, expected finite numbers"
            )


def require_queries(queries: np.ndarray, dimension: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise VideoIndexError(
            f"the query is {queries.shape[-1]} wide, but the index holds vectors of {dimension}; "
            "they belong to different releases"
        )
    require_finite(queries, "query", np.arange(len(queries)))

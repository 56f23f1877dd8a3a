"""Recall of query vectors over the whole catalogue."""

import numpy as np


def at_once(videos: int) -> int:
    """Return the number of viewers per chunk that keeps scores below 2^24, 128 MiB in double precision."""
    return max(min(1024, 2**24 // max(videos, 1)), 1)


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

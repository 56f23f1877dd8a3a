"""The walk over a graph, one step from a viewer's last watches: video-to-video, and what came next."""

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import Edges
from watchnext.retrieval.sources.source import SourceQuery, distinct, ranked


@kernel
def _walk(starts, neighbours, weights, watched, steps, rows, scores):
    """Sum into an open-addressed table, `rows` (T,) zeros that will hold row + 1, `scores` (T,) zeros; T is a power of two
    above the number of edges walked, so that the cost is theirs alone, whatever the catalogue."""
    mask = len(rows) - 1
    for place in range(len(watched)):
        for edge in range(starts[watched[place]], starts[watched[place] + 1]):
            key = np.int64(neighbours[edge]) + 1
            at = (key * 2654435761 >> 7) & mask  # Knuth's multiplicative hash
            while rows[at] != 0 and rows[at] != key:
                at = (at + 1) & mask
            rows[at] = key
            scores[at] += steps[place] * weights[edge]


class CoWatchSource:
    """Videos that the viewer's `last` distinct watches lead to, the j-th from the end with weight decay^j, without those."""

    def __init__(self, *, edges: Edges, last: int, decay: float) -> None:
        self._starts, self._neighbours, self._weights = edges.starts, edges.neighbours, edges.weights
        self._steps = decay ** np.arange(last)

    def candidates(self, asked: SourceQuery, k: int) -> np.ndarray:
        watched = distinct(asked.rows[asked.watch_s > 0])[: len(self._steps)]
        starts = self._starts
        edges = int((starts[watched + 1] - starts[watched]).sum())
        table, sums = (np.zeros(1 << (2 * edges).bit_length(), kind) for kind in (np.int64, np.float64))
        _walk(starts, self._neighbours, self._weights, watched, self._steps, table, sums)
        found = np.flatnonzero(table)
        rows, scores = table[found] - 1, sums[found]
        rows = rows[ranked(rows, scores, k + len(watched))]
        return rows[~np.isin(rows, watched)][:k]

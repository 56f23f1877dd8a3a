"""Co-watch source: neighbours of a viewer's last watches in a graph of related videos or transitions."""

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import Edges
from watchnext.retrieval.sources.source import distinct, ranked
from watchnext.types import Query, among


@kernel
def _walk(starts, neighbours, weights, watched, steps, rows, scores):
    """Sum edge weights per neighbour in a hash table with open addressing: `rows` (T,) of zeros will hold row + 1, `scores`
    (T,) the sums. T is a power of two above the number of edges, so that the cost does not depend on the catalogue."""
    mask = len(rows) - 1
    for watch in range(len(watched)):
        for edge in range(starts[watched[watch]], starts[watched[watch] + 1]):
            key = np.int64(neighbours[edge]) + 1
            at = (key * 2654435761 >> 7) & mask  # Knuth's multiplicative hash
            while rows[at] != 0 and rows[at] != key:
                at = (at + 1) & mask
            rows[at] = key
            scores[at] += steps[watch] * weights[edge]


class CoWatchSource:
    """Neighbours of the viewer's `last` distinct watches, the j-th last with weight decay^j, without the watches themselves."""

    def __init__(self, *, edges: Edges, last: int, decay: float) -> None:
        self._starts, self._neighbours, self._weights = edges.starts, edges.neighbours, edges.weights
        self._steps = decay ** np.arange(last)

    def candidates(self, query: Query, k: int) -> np.ndarray:
        return self.neighbours(distinct(query.history_rows[query.watch_s > 0])[: len(self._steps)], k)

    def beside(self, row: int, query: Query, k: int) -> np.ndarray:
        """Return at most `k` rows that were watched with a video."""
        return self.neighbours(np.array([row]), k)

    def neighbours(self, watched: np.ndarray, k: int) -> np.ndarray:
        """Return at most `k` rows, best first, for the distinct videos `watched` (n,), latest first, at most `last`.

        A video that was posted after the graph was built has no neighbours yet.
        """
        starts = self._starts
        watched = watched[watched < len(starts) - 1]
        edges = int((starts[watched + 1] - starts[watched]).sum())
        table, sums = (np.zeros(1 << (2 * edges).bit_length(), kind) for kind in (np.int64, np.float64))
        _walk(starts, self._neighbours, self._weights, watched, self._steps, table, sums)
        filled = np.flatnonzero(table)
        rows, scores = table[filled] - 1, sums[filled]
        rows = rows[ranked(rows, scores, k + len(watched))]
        return rows[~among(rows, np.sort(watched))][:k]

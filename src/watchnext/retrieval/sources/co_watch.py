"""Co-watch source: neighbours of a viewer's last watches in a graph of related videos or transitions."""

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import Edges
from watchnext.retrieval.sources.source import distinct, ranked
from watchnext.types import Query, among


@kernel
def _walk(starts, neighbours, weights, watched, steps, table, rows, scores):
    """Sum edge weights per neighbour: write distinct `rows` (E,) and their `scores` (E,), and return their number. `table` (T,)
    of zeros, T a power of two above the number of edges, will hold positions + 1 by open addressing, so that the cost does not
    depend on the catalogue."""
    mask, found = len(table) - 1, 0
    for watch in range(len(watched)):
        for edge in range(starts[watched[watch]], starts[watched[watch] + 1]):
            row = np.int64(neighbours[edge])
            at = ((row + 1) * 2654435761 >> 7) & mask  # Knuth's multiplicative hash
            while table[at] != 0 and rows[table[at] - 1] != row:
                at = (at + 1) & mask
            if table[at] == 0:
                rows[found], scores[found] = row, 0.0
                found += 1
                table[at] = found
            scores[table[at] - 1] += steps[watch] * weights[edge]
    return found


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
        table, rows, scores = np.zeros(1 << (2 * edges).bit_length(), np.int32), np.empty(edges, np.int64), np.empty(edges)
        found = _walk(starts, self._neighbours, self._weights, watched, self._steps, table, rows, scores)
        rows, scores = rows[:found], scores[:found]
        rows = rows[ranked(rows, scores, k + len(watched))]
        return rows[~among(rows, np.sort(watched))][:k]

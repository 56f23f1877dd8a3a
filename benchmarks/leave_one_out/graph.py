"""Score the whole catalogue by the co-watch graph that serves, without training."""

import numpy as np
from benchmarks.leave_one_out.protocol import Sequences

from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import linked


@kernel
def _walk(starts, neighbours, weights, watched, step_weights, scores):
    for step in range(len(watched)):
        for edge in range(starts[watched[step]], starts[watched[step] + 1]):
            scores[neighbours[edge]] += step_weights[step] * weights[edge]


class GraphSource:
    """Score videos one edge from a viewer's last watches.

    last, decay  the last `last` watches count, the j-th last with weight decay^j
    graph        edges, as `linked` takes them
    """

    def __init__(self, *, last: int, decay: float, **graph: float) -> None:
        self.last, self.decay = last, decay
        self._graph, self.edges = graph, None

    def fit(self, histories: Sequences) -> "GraphSource":
        self.edges = linked(histories, **self._graph)
        return self

    def scores(self, watched: np.ndarray) -> np.ndarray:
        """Score every video (V,) float64 for one history (H,), oldest first; all 0 for an empty history."""
        if self.edges is None:
            raise ValueError("the graph has no edges yet; call fit() with training histories first")
        recent = np.ascontiguousarray(watched[::-1][: self.last])
        scores = np.zeros(len(self.edges))
        steps = self.decay ** np.arange(len(recent))
        _walk(self.edges.starts, self.edges.neighbours, self.edges.weights, recent, steps, scores)
        return scores

    def many(self, histories: Sequences, viewers: np.ndarray) -> np.ndarray:
        """Score several viewers (B, V). A CatalogueScorer."""
        starts = histories.starts
        return np.stack([self.scores(histories.rows[starts[viewer] : starts[viewer + 1]]) for viewer in viewers])

"""Score the whole catalogue by the co-watch graph that serves, without training."""

import numpy as np
from benchmarks.leave_one_out.protocol import Sequences

from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import Edges, linked


@kernel
def _walk(starts, neighbours, weights, watched, step_weights, scores):
    for step in range(len(watched)):
        for edge in range(starts[watched[step]], starts[watched[step] + 1]):
            scores[neighbours[edge]] += step_weights[step] * weights[edge]


class GraphSource:
    """Score videos one edge from a viewer's last watches.

    window, distance_power, backward  edge definition, see watchnext.retrieval.sources.graph
    source_power, target_power        powers of the degrees that divide an edge
    neighbours                        strongest edges kept per video
    last, decay                       the last `last` watches count, the j-th last with weight decay^j
    """

    def __init__(
        self,
        *,
        window: int,
        distance_power: float,
        backward: float,
        source_power: float,
        target_power: float,
        neighbours: int,
        last: int,
        decay: float,
    ) -> None:
        pairs = {"window": window, "distance_power": distance_power, "backward": backward}
        self._graph = {**pairs, "source_power": source_power, "target_power": target_power, "neighbours": neighbours}
        self.last, self.decay = last, decay
        self.edges: Edges | None = None

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

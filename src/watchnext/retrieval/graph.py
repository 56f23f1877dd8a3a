"""What was watched together: a weighted graph over videos, as a source that needs no training.

Window 1 without the way back is the first-order transition graph; a wider one is the video-to-video graph of co-watches.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from watchnext.retrieval.leave_one_out import Histories
from watchnext.retrieval.sources import Found


@dataclass(frozen=True)
class Edges:
    """A sparse matrix (V, V) by rows: video v leads to neighbours[starts[v]:starts[v + 1]] with those weights."""

    starts: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sources(self) -> np.ndarray:
        """The row of every edge."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @classmethod
    def summed(cls, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, videos: int) -> "Edges":
        """Parallel edges become one, neighbours ascend."""
        keys, which = np.unique(sources.astype(np.int64) * videos + targets, return_inverse=True)
        starts = np.searchsorted(keys, np.arange(videos + 1, dtype=np.int64) * videos)
        return cls(starts, (keys % videos).astype(np.int32), np.bincount(which, weights, minlength=len(keys)))

    def scaled(self, of_source: np.ndarray, of_target: np.ndarray) -> "Edges":
        return Edges(self.starts, self.neighbours, self.weights * of_source[self.sources] * of_target[self.neighbours])

    def strongest(self, kept: int) -> "Edges":
        """At most `kept` edges a video; of equal ones the lower neighbour stays."""
        order = np.lexsort((self.neighbours, -self.weights, self.sources))
        rank = np.arange(len(order)) - self.starts[self.sources[order]]
        stay = np.sort(order[rank < kept])
        starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.starts), kept))])
        return Edges(starts, self.neighbours[stay], self.weights[stay])


@njit(cache=True, nogil=True)
def _pairs(rows, starts, window, distance_power, sources, targets, weights):
    """Every pair of a viewer's videos at most `window` apart, the earlier one as source; returns how many. Fills only where the
    arrays have room, so a first call with empty ones counts."""
    found = 0
    for viewer in range(len(starts) - 1):
        for i in range(starts[viewer], starts[viewer + 1]):
            for j in range(i + 1, min(i + window + 1, starts[viewer + 1])):
                if rows[i] == rows[j]:
                    continue
                if found < len(weights):
                    sources[found], targets[found] = rows[i], rows[j]
                    weights[found] = float(j - i) ** -distance_power
                found += 1
    return found


def co_watches(histories: Histories, *, window: int, distance_power: float, backward: float) -> Edges:
    """Pairs at most `window` places apart weigh distance^-distance_power, and `backward` times that from later to earlier."""
    room = _pairs(histories.rows, histories.starts, window, distance_power, *_room(0))
    sources, targets, weights = _room(room)
    _pairs(histories.rows, histories.starts, window, distance_power, sources, targets, weights)
    if backward:
        sources, targets = np.concatenate([sources, targets]), np.concatenate([targets, sources])
        weights = np.concatenate([weights, backward * weights])
    return Edges.summed(sources, targets, weights, histories.videos)


def _room(pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(pairs, np.int64), np.empty(pairs, np.int64), np.empty(pairs)


def power(values: np.ndarray, exponent: float) -> np.ndarray:
    """values^exponent, 0 where the value is 0."""
    return np.power(values, exponent, out=np.zeros(len(values)), where=values > 0)


@njit(cache=True, nogil=True)
def _walk(starts, neighbours, weights, watched, step_weights, scores):
    for place in range(len(watched)):
        for edge in range(starts[watched[place]], starts[watched[place] + 1]):
            scores[neighbours[edge]] += step_weights[place] * weights[edge]


class GraphSource:
    """Videos one step from a viewer's last watches.

    window, distance_power, backward  which pairs make an edge, see `co_watches`
    source_power, target_power        an edge is divided by the degree of either end to this power
    neighbours                        edges kept a video, the strongest
    last, decay                       the last `last` watches lead on, the j-th from the end with weight decay^j
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
        self._pairs = {"window": window, "distance_power": distance_power, "backward": backward}
        self.source_power, self.target_power, self.neighbours = source_power, target_power, neighbours
        self.last, self.decay = last, decay
        self.edges: Edges | None = None

    def fit(self, histories: Histories) -> "GraphSource":
        edges = co_watches(histories, **self._pairs)
        out = np.bincount(edges.sources, edges.weights, minlength=len(edges))
        into = np.bincount(edges.neighbours, edges.weights, minlength=len(edges))
        self.edges = edges.scaled(power(out, -self.source_power), power(into, -self.target_power)).strongest(self.neighbours)
        return self

    def scores(self, watched: np.ndarray) -> np.ndarray:
        """Scores (V,) float64 of every video for one history (H,), oldest first; all 0 for an empty one."""
        if self.edges is None:
            raise ValueError("the graph has no edges yet; call fit() with training histories first")
        recent = np.ascontiguousarray(watched[::-1][: self.last])
        scores = np.zeros(len(self.edges))
        steps = self.decay ** np.arange(len(recent))
        _walk(self.edges.starts, self.edges.neighbours, self.edges.weights, recent, steps, scores)
        return scores

    def many(self, histories: Histories, viewers: np.ndarray) -> np.ndarray:
        """`scores` of some viewers (B, V). A Scorer."""
        starts = histories.starts
        return np.stack([self.scores(histories.rows[starts[viewer] : starts[viewer + 1]]) for viewer in viewers])

    def candidates(self, watched: np.ndarray, k: int) -> Found:
        """The best `k` videos that a watch leads to, without the watched ones; fewer where it leads to fewer."""
        scores = self.scores(watched)
        scores[watched] = 0.0
        rows = np.argsort(-scores, kind="stable")[:k]
        rows = rows[scores[rows] > 0]
        return rows, scores[rows]

"""What was watched together: a weighted graph over videos, that needs no training.

Window 1 without the way back is the first-order transition graph; a wider one is the video-to-video graph of co-watches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.towers.sequences.leave_one_out import Histories

ROOM = 8_000_000  # pairs in memory at a time


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

    @classmethod
    def joined(cls, parts: Sequence["Edges"], videos: int) -> "Edges":
        """Of graphs whose edges start at other videos each, in ascending order, the one of all."""
        starts = np.sum([part.starts for part in parts], axis=0) if parts else np.zeros(videos + 1, np.int64)
        arrays = zip(*((part.neighbours, part.weights) for part in parts), strict=True)
        neighbours, weights = map(np.concatenate, arrays) if parts else (np.zeros(0, np.int32), np.zeros(0))
        return cls(starts, neighbours, weights)

    def strongest(self, kept: int) -> "Edges":
        """At most `kept` edges a video; of equal ones the lower neighbour stays."""
        order = np.lexsort((self.neighbours, -self.weights, self.sources))
        rank = np.arange(len(order)) - self.starts[self.sources[order]]
        stay = np.sort(order[rank < kept])
        starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.starts), kept))])
        return Edges(starts, self.neighbours[stay], self.weights[stay])


@kernel
def _pairs(rows, starts, window, distance_power, back, first, last, sources, targets, weights):
    """Every pair of a viewer's videos at most `window` apart whose source is a row from `first` on, before `last`; the source
    is the earlier of two, or the later one where `back`. Returns how many. Fills only where the arrays have room, so a first
    call with empty ones counts."""
    found = 0
    for viewer in range(len(starts) - 1):
        for i in range(starts[viewer], starts[viewer + 1]):
            for j in range(i + 1, min(i + window + 1, starts[viewer + 1])):
                source, target = (rows[j], rows[i]) if back else (rows[i], rows[j])
                if source == target or source < first or source >= last:
                    continue
                if found < len(weights):
                    sources[found], targets[found] = source, target
                    weights[found] = float(j - i) ** -distance_power
                found += 1
    return found


@kernel
def _degrees(rows, starts, window, distance_power, backward, pairs, out, into):
    """How many pairs each video is the source of, and the weights of its edges from it and to it; adds onto (V,) arrays."""
    for viewer in range(len(starts) - 1):
        for i in range(starts[viewer], starts[viewer + 1]):
            for j in range(i + 1, min(i + window + 1, starts[viewer + 1])):
                if rows[i] == rows[j]:
                    continue
                weight = float(j - i) ** -distance_power
                pairs[rows[i]] += 1
                out[rows[i]] += weight
                into[rows[j]] += weight
                if backward > 0:
                    pairs[rows[j]] += 1
                    out[rows[j]] += backward * weight
                    into[rows[i]] += backward * weight


def co_watches(histories: Histories, *, window: int, distance_power: float, backward: float, of: range | None = None) -> Edges:
    """Pairs at most `window` places apart weigh distance^-distance_power, and `backward` times that from later to earlier.
    `of` are the videos whose edges are wanted; all, if not given."""
    of = range(histories.videos) if of is None else of
    parts = [_filled(histories, window, distance_power, back, of) for back in ((False, True) if backward else (False,))]
    sources, targets = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    weights = np.concatenate([part[2] * scale for part, scale in zip(parts, (1.0, backward), strict=False)])
    return Edges.summed(sources, targets, weights, histories.videos)


def _filled(histories: Histories, window: int, distance_power: float, back: bool, of: range) -> tuple[np.ndarray, ...]:
    chosen = histories.rows, histories.starts, window, distance_power, back, of.start, of.stop
    filled = _room(_pairs(*chosen, *_room(0)))
    _pairs(*chosen, *filled)
    return filled


def _room(pairs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(pairs, np.int64), np.empty(pairs, np.int64), np.empty(pairs)


def linked(
    histories: Histories,
    *,
    window: int,
    distance_power: float,
    backward: float,
    source_power: float,
    target_power: float,
    neighbours: int,
    room: int = ROOM,
) -> Edges:
    """The graph of co-watches: each edge divided by the degree of either end to its power, the strongest `neighbours` kept.

    Built a range of videos at a time, each with about `room` pairs (some 60 bytes a pair), so that memory does not grow with
    the log; the histories are walked once a range.
    """
    pairs = np.zeros(histories.videos, np.int64)
    out, into = np.zeros(histories.videos), np.zeros(histories.videos)
    _degrees(histories.rows, histories.starts, window, distance_power, backward, pairs, out, into)
    scales = power(out, -source_power), power(into, -target_power)
    chosen = {"window": window, "distance_power": distance_power, "backward": backward}
    parts = (co_watches(histories, **chosen, of=of) for of in _ranges(pairs, room))
    return Edges.joined([part.scaled(*scales).strongest(neighbours) for part in parts], histories.videos)


def _ranges(pairs: np.ndarray, room: int) -> list[range]:
    """The rows in stretches of `room` pairs at most; a row that has more is one of its own."""
    behind, ranges, first = np.cumsum(pairs), [], 0
    while first < len(pairs):
        before = behind[first - 1] if first else 0
        last = max(int(np.searchsorted(behind, before + room, side="right")), first + 1)
        ranges.append(range(first, last))
        first = last
    return ranges


def power(values: np.ndarray, exponent: float) -> np.ndarray:
    """values^exponent, 0 where the value is 0."""
    return np.power(values, exponent, out=np.zeros(len(values)), where=values > 0)


@kernel
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
        pairs = {"window": window, "distance_power": distance_power, "backward": backward}
        self._graph = {**pairs, "source_power": source_power, "target_power": target_power, "neighbours": neighbours}
        self.last, self.decay = last, decay
        self.edges: Edges | None = None

    def fit(self, histories: Histories) -> "GraphSource":
        self.edges = linked(histories, **self._graph)
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
        """`scores` of some viewers (B, V). A CatalogueScorer."""
        starts = histories.starts
        return np.stack([self.scores(histories.rows[starts[viewer] : starts[viewer + 1]]) for viewer in viewers])

"""Co-watch graph: a weighted graph over videos, without training.

Window 1 without backward edges is the first-order transition graph; a wider window gives the graph of related videos.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel

ROOM = 8_000_000  # pairs in memory at a time


@dataclass(frozen=True)
class Histories:
    """Watched videos of U viewers, oldest first, concatenated by viewer.

    rows    (N,) int64 video rows, each below `videos`
    starts  (U + 1,) int64; viewer u watched rows[starts[u]:starts[u + 1]]
    videos  rows of the catalogue
    """

    rows: np.ndarray
    starts: np.ndarray
    videos: int


@dataclass(frozen=True)
class Edges:
    """Sparse matrix (V, V) by rows: video v has the edges neighbours[starts[v]:starts[v + 1]] with those weights."""

    starts: np.ndarray
    neighbours: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def sources(self) -> np.ndarray:
        """Return the source row of every edge."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @classmethod
    def summed(cls, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, videos: int) -> "Edges":
        """Sum parallel edges and sort neighbours."""
        keys, which = np.unique(sources.astype(np.int64) * videos + targets, return_inverse=True)
        starts = np.searchsorted(keys, np.arange(videos + 1, dtype=np.int64) * videos)
        return cls(starts, (keys % videos).astype(np.int32), np.bincount(which, weights, minlength=len(keys)))

    def scaled(self, of_source: np.ndarray, of_target: np.ndarray) -> "Edges":
        return Edges(self.starts, self.neighbours, self.weights * of_source[self.sources] * of_target[self.neighbours])

    @classmethod
    def joined(cls, parts: Sequence["Edges"], videos: int) -> "Edges":
        """Join graphs over disjoint, ascending ranges of source videos."""
        starts = np.sum([part.starts for part in parts], axis=0) if parts else np.zeros(videos + 1, np.int64)
        arrays = zip(*((part.neighbours, part.weights) for part in parts), strict=True)
        neighbours, weights = map(np.concatenate, arrays) if parts else (np.zeros(0, np.int32), np.zeros(0))
        return cls(starts, neighbours, weights)

    def strongest(self, kept: int) -> "Edges":
        """Keep the `kept` strongest edges per video; ties keep the lower neighbour."""
        order = np.lexsort((self.neighbours, -self.weights, self.sources))
        rank = np.arange(len(order)) - self.starts[self.sources[order]]
        stay = np.sort(order[rank < kept])
        starts = np.concatenate([[0], np.cumsum(np.minimum(np.diff(self.starts), kept))])
        return Edges(starts, self.neighbours[stay], self.weights[stay])


@kernel
def _pairs(rows, starts, window, distance_power, back, first, last, sources, targets, weights):
    """Write pairs of a viewer's videos at most `window` apart with a source row in [first, last), and return their number. The
    source is the earlier video, or the later one if `back`. A call with empty arrays only counts."""
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
    """Add each video's number of pairs, outgoing weight and incoming weight to (V,) arrays."""
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
    """Build edges between videos at most `window` positions apart with weight distance^-distance_power, and `backward` times
    that from later to earlier. `of` limits the source videos; None is all."""
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
    """Build the co-watch graph: each edge divided by a power of the degrees of both ends, the strongest `neighbours` kept.

    Ranges of videos with about `room` pairs each (some 60 bytes per pair) are built one at a time, so that memory does not grow
    with the log; every range reads the histories once.
    """
    pairs = np.zeros(histories.videos, np.int64)
    out, into = np.zeros(histories.videos), np.zeros(histories.videos)
    _degrees(histories.rows, histories.starts, window, distance_power, backward, pairs, out, into)
    scales = power(out, -source_power), power(into, -target_power)
    chosen = {"window": window, "distance_power": distance_power, "backward": backward}
    parts = (co_watches(histories, **chosen, of=of) for of in _ranges(pairs, room))
    return Edges.joined([part.scaled(*scales).strongest(neighbours) for part in parts], histories.videos)


def _ranges(pairs: np.ndarray, room: int) -> list[range]:
    """Split the rows into ranges of at most `room` pairs; a row with more forms its own range."""
    behind, ranges, first = np.cumsum(pairs), [], 0
    while first < len(pairs):
        before = behind[first - 1] if first else 0
        last = max(int(np.searchsorted(behind, before + room, side="right")), first + 1)
        ranges.append(range(first, last))
        first = last
    return ranges


def power(values: np.ndarray, exponent: float) -> np.ndarray:
    """Compute values^exponent, 0 where the value is 0."""
    return np.power(values, exponent, out=np.zeros(len(values)), where=values > 0)

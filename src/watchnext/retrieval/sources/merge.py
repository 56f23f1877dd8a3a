"""Merge the lists of all sources into one ranking, with the rank of each candidate in each list."""

from collections.abc import Mapping

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.sources.source import ranked
from watchnext.types import SOURCES, Candidates


def merge(lists: Mapping[str, np.ndarray], *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Merge ranked lists by weighted reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009, with weights 1 and
    constant 60): a video scores the sum of weight / (constant + rank), ranks from 1. Ties are ordered by row; the best `most`
    stay. Only ranks count, because scores of different sources are not comparable."""
    return fused(*_ranked_in(lists), weights=weights, constant=constant, most=most)


def ranks_in(lists: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct videos (C,) of all lists, ascending, and their ranks (C, SOURCES) uint16 as in `Candidates`."""
    rows, ranks = _ranked_in(lists)
    order = np.argsort(rows)
    return rows[order], ranks[order]


def _ranked_in(lists: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the same, in the order in which the lists name the videos."""
    columns = np.array([column for column, name in enumerate(SOURCES) if len(lists.get(name, ()))], np.int64)
    parts = [lists[SOURCES[column]] for column in columns]
    ends, listed = np.cumsum([0, *map(len, parts)]), np.concatenate([np.zeros(0, np.int64), *parts])
    table = np.zeros(1 << (2 * len(listed)).bit_length(), np.int64)
    rows, ranks = np.empty(len(listed), np.int64), np.zeros((len(listed), len(SOURCES)), np.uint16)
    found = _distinct(listed, ends, columns, table, rows, ranks)
    return rows[:found], ranks[:found]


@kernel
def _distinct(listed, ends, columns, table, rows, ranks):
    """Write the distinct videos of `listed` and their ranks, and return their number. List j ends at ends[j + 1]; `table` (T,)
    of zeros, T a power of two above the length, will hold positions + 1 by open addressing."""
    mask, found = len(table) - 1, 0
    for column in range(len(columns)):
        for at in range(ends[column], ends[column + 1]):
            slot = (listed[at] * 2654435761 >> 7) & mask  # Knuth's multiplicative hash
            while table[slot] != 0 and rows[table[slot] - 1] != listed[at]:
                slot = (slot + 1) & mask
            if table[slot] == 0:
                rows[found] = listed[at]
                found += 1
                table[slot] = found
            ranks[table[slot] - 1, columns[column]] = at - ends[column] + 1
    return found


def fused(rows: np.ndarray, ranks: np.ndarray, *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Fuse the lists in which `rows` (C,) have the `ranks` (C, SOURCES)."""
    scores, sources = np.zeros(len(rows)), np.zeros(len(rows), np.uint16)
    _fuse(ranks, vector(weights), constant, scores, sources)
    order = ranked(rows, scores, most)
    return Candidates(rows[order], sources[order], scores[order].astype(np.float32), ranks[order])


@kernel
def _fuse(ranks, weights, constant, scores, sources):
    """Sum the weighted `shares` of each video into `scores` (C,), and set the bits of its sources in `sources` (C,)."""
    for i in range(len(scores)):
        for source in range(len(weights)):
            if ranks[i, source] > 0:
                scores[i] += weights[source] * (1.0 / (constant + ranks[i, source]))
                sources[i] |= np.uint16(1 << source)


def vector(weights: Mapping[str, float]) -> np.ndarray:
    """Return the weights (SOURCES,), 0 of a source that is not named."""
    return np.array([weights.get(name, 0.0) for name in SOURCES])


def shares(ranks: np.ndarray, constant: float) -> np.ndarray:
    """Compute 1 / (constant + rank), 0 for a video that a source does not list."""
    return np.where(ranks > 0, 1.0 / (constant + ranks), 0.0)

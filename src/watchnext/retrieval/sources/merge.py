"""Merge the lists of all sources into one ranking, with the rank of each candidate in each list."""

from collections.abc import Mapping

import numpy as np

from watchnext.retrieval.sources.source import ranked
from watchnext.types import SOURCES, Candidates


def merge(lists: Mapping[str, np.ndarray], *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Merge ranked lists by weighted reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009, with weights 1 and
    constant 60): a video scores the sum of weight / (constant + rank), ranks from 1. Ties are ordered by row; the best `most`
    stay. Only ranks count, because scores of different sources are not comparable."""
    return fused(*ranks_in(lists), weights=weights, constant=constant, most=most)


def ranks_in(lists: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct videos (C,) of all lists, ascending, and their ranks (C, SOURCES) uint16 as in `Candidates`."""
    columns = [column for column, name in enumerate(SOURCES) if len(lists.get(name, ()))]
    listed = [lists[SOURCES[column]] for column in columns]
    rows, which = np.unique(np.concatenate([np.zeros(0, np.int64), *listed]), return_inverse=True)
    ranks, at = np.zeros((len(rows), len(SOURCES)), np.uint16), 0
    for column, each in zip(columns, listed, strict=True):
        ranks[which[at : at + len(each)], column] = np.arange(1, len(each) + 1)
        at += len(each)
    return rows, ranks


def fused(rows: np.ndarray, ranks: np.ndarray, *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Fuse the lists in which `rows` (C,) have the `ranks` (C, SOURCES)."""
    scores = shares(ranks, constant) @ vector(weights)
    order = ranked(rows, scores, most)
    ranks = ranks[order]
    sources = (ranks > 0) @ (1 << np.arange(len(SOURCES)))
    return Candidates(rows[order], sources.astype(np.uint16), scores[order].astype(np.float32), ranks)


def vector(weights: Mapping[str, float]) -> np.ndarray:
    """Return the weights (SOURCES,), 0 of a source that is not named."""
    return np.array([weights.get(name, 0.0) for name in SOURCES])


def shares(ranks: np.ndarray, constant: float) -> np.ndarray:
    """Compute 1 / (constant + rank), 0 for a video that a source does not list."""
    return np.where(ranks > 0, 1.0 / (constant + ranks), 0.0)

"""Merge the lists of all sources into one ranking, with the sources of each candidate."""

from collections.abc import Mapping

import numpy as np

from watchnext.retrieval.sources.source import ranked
from watchnext.types import SOURCES, Candidates


def merge(lists: Mapping[str, np.ndarray], *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Merge ranked lists by weighted reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009, with weights 1 and
    constant 60): a video scores the sum of weight / (constant + rank), ranks from 1. Ties are ordered by row; the best `most`
    stay. Only ranks count, because scores of different sources are not comparable."""
    names = [name for name in SOURCES if len(lists.get(name, ()))]
    if not names:
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.float32))
    rows, which = np.unique(np.concatenate([lists[name] for name in names]), return_inverse=True)
    shares = np.concatenate([weights[name] / (constant + np.arange(1, len(lists[name]) + 1)) for name in names])
    bits = np.repeat([1 << SOURCES.index(name) for name in names], [len(lists[name]) for name in names])
    scores = np.bincount(which, shares)
    sources = np.bincount(which, bits)  # a source lists a video once, so the sum of bits is their union
    order = ranked(rows, scores, most)
    return Candidates(rows[order], sources[order].astype(np.uint16), scores[order].astype(np.float32))

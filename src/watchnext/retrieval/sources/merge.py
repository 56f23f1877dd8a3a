"""The lists of all sources > one ranking of candidates, each with the sources that named it."""

from collections.abc import Mapping

import numpy as np

from watchnext.retrieval.sources.source import ranked
from watchnext.types import SOURCES, Candidates


def merge(found: Mapping[str, np.ndarray], *, weights: Mapping[str, float], constant: float, most: int) -> Candidates:
    """Weighted reciprocal rank fusion of distinct rows, best first (Cormack, Clarke and Buettcher, SIGIR 2009: weights are 1
    and the constant is 60 there): a video scores sum of weight / (constant + place), places from 1. Of equal scores the lower
    row comes first; the best `most` stay. Only places count, as the sources' scores have nothing in common."""
    names = [name for name in SOURCES if len(found.get(name, ()))]
    if not names:
        return Candidates(np.zeros(0, np.int64), np.zeros(0, np.uint16), np.zeros(0, np.float32))
    rows, which = np.unique(np.concatenate([found[name] for name in names]), return_inverse=True)
    shares = np.concatenate([weights[name] / (constant + np.arange(1, len(found[name]) + 1)) for name in names])
    bits = np.repeat([1 << SOURCES.index(name) for name in names], [len(found[name]) for name in names])
    scores = np.bincount(which, shares)
    sources = np.bincount(which, bits)  # a source names a video once, so a sum of its bits is their union
    order = ranked(rows, scores, most)
    return Candidates(rows[order], sources[order].astype(np.uint16), scores[order].astype(np.float32))

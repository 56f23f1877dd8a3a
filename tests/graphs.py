"""Histories of a few viewers and dense matrices, the oracle of graphs."""

import numpy as np

from watchnext.retrieval.sources.graph import Edges

VIDEOS = 12


def random_viewers() -> list[list[int]]:
    """Draw the watches of six viewers, from none to twenty; the last row is never watched."""
    random = np.random.default_rng(0)
    return [random.integers(0, VIDEOS - 1, size).tolist() for size in (0, 1, 2, 7, 9, 20)]


def dense(edges: Edges) -> np.ndarray:
    """Return the matrix (V, V) of sparse edges."""
    matrix = np.zeros((len(edges), len(edges)))
    matrix[edges.sources, edges.neighbours] = edges.weights
    return matrix

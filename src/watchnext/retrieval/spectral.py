"""Where video vectors start from: the leading directions of who is watched with whom.

Matrix factorisation of co-occurrence, as in Levy & Goldberg (NeurIPS 2014). On a log of 130,000 watches, tables that start here
are after one epoch where random ones are not after ten.
"""

import numpy as np
from numba import njit

from watchnext.retrieval.graph import Edges, co_watches
from watchnext.retrieval.leave_one_out import Histories


@njit(cache=True, nogil=True)
def _times(starts, neighbours, weights, vectors):
    """The sparse matrix times `vectors` (V, D)."""
    out = np.zeros_like(vectors)
    for row in range(len(starts) - 1):
        for edge in range(starts[row], starts[row + 1]):
            weight, other = weights[edge], neighbours[edge]
            for column in range(vectors.shape[1]):
                out[row, column] += weight * vectors[other, column]
    return out


def leading_vectors(edges: Edges, *, dimension: int, rounds: int, seed: int) -> np.ndarray:
    """Eigenvectors (V, dimension) of a symmetric matrix with the largest absolute eigenvalues, by subspace iteration
    (Halko et al., SIAM Review 2011) on half as many again, so that the last ones wanted converge too."""
    width = min(dimension + dimension // 2, len(edges))
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(edges), width)))
    for _ in range(rounds):
        basis, _ = np.linalg.qr(_times(edges.starts, edges.neighbours, edges.weights, basis))
    small = basis.T @ _times(edges.starts, edges.neighbours, edges.weights, basis)
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-np.abs(values), kind="stable")[:dimension]
    return basis @ rotation[:, order]


class SpectralStart:
    """window, distance_power  which pairs count, see `co_watches`; both ways alike
    degree_power, shift        a pair is divided by (degree + shift)^degree_power of either end; shift spares rare videos
    noise                      standard deviation of a vector's noise against its mean length; all of what a video has that
                               nobody watched, so that it is no exact copy of another
    rounds                     of subspace iteration
    """

    def __init__(
        self, *, window: int, distance_power: float, degree_power: float, shift: float, noise: float, rounds: int, seed: int
    ) -> None:
        self.window, self.distance_power = window, distance_power
        self.degree_power, self.shift, self.noise, self.rounds, self.seed = degree_power, shift, noise, rounds, seed

    def vectors(self, histories: Histories, dimension: int) -> np.ndarray:
        """Vectors (V, dimension) float32 of mean squared length 1 before noise. Videos beyond the rank get zeros and noise."""
        edges = co_watches(histories, window=self.window, distance_power=self.distance_power, backward=1.0)
        degree = np.bincount(edges.sources, edges.weights, minlength=len(edges))
        of_either = np.where(degree > 0, np.maximum(degree + self.shift, 1e-6) ** -self.degree_power, 0.0)
        scaled = edges.scaled(of_either, of_either)
        found = np.zeros((len(edges), dimension))
        leading = leading_vectors(scaled, dimension=min(dimension, len(edges)), rounds=self.rounds, seed=self.seed)
        found[:, : leading.shape[1]] = leading
        found /= max(np.sqrt((found**2).sum(1).mean()), 1e-12)
        noise = np.random.default_rng(self.seed).standard_normal(found.shape) * self.noise / np.sqrt(dimension)
        return (found + noise).astype(np.float32)

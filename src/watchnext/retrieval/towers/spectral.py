"""Where video vectors start from: the leading directions of who is watched with whom.

Matrix factorisation of co-occurrence, as in Levy & Goldberg (NeurIPS 2014). On a log of 130,000 watches, tables that start here
are after one epoch where random ones are not after ten.
"""

from collections.abc import Callable

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.towers.sequences.leave_one_out import Histories


@kernel
def _degrees(rows, starts, weights, out):
    """Adds the weights of each video's pairs onto `out` (V,); `weights` are those of distance 0, 1, and so on."""
    for viewer in range(len(starts) - 1):
        for i in range(starts[viewer], starts[viewer + 1]):
            for j in range(i + 1, min(i + len(weights), starts[viewer + 1])):
                if rows[i] != rows[j]:
                    out[rows[i]] += weights[j - i]
                    out[rows[j]] += weights[j - i]


@kernel
def _times(rows, starts, weights, scales, vectors):
    """The matrix of co-watches, scaled by (V,) on either side, times `vectors` (V, D). It is never written out: a long log has
    as many cells as pairs."""
    out = np.zeros_like(vectors)
    for viewer in range(len(starts) - 1):
        for i in range(starts[viewer], starts[viewer + 1]):
            for j in range(i + 1, min(i + len(weights), starts[viewer + 1])):
                one, other = rows[i], rows[j]
                if one != other:
                    weight = weights[j - i] * scales[one] * scales[other]
                    for column in range(vectors.shape[1]):
                        out[one, column] += weight * vectors[other, column]
                        out[other, column] += weight * vectors[one, column]
    return out


def leading_vectors(
    times: Callable[[np.ndarray], np.ndarray], *, size: int, dimension: int, rounds: int, seed: int
) -> np.ndarray:
    """Eigenvectors (size, dimension) with the largest absolute eigenvalues of a symmetric matrix, given as what it makes of
    vectors, by subspace iteration (Halko et al., SIAM Review 2011) on half as many again, so that the last ones wanted converge
    too."""
    width = min(dimension + dimension // 2, size)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, width)))
    for _ in range(rounds):
        basis, _ = np.linalg.qr(times(basis))
    small = basis.T @ times(basis)
    values, rotation = np.linalg.eigh((small + small.T) / 2)
    order = np.argsort(-np.abs(values), kind="stable")[:dimension]
    return basis @ rotation[:, order]


class SpectralStart:
    """window, distance_power  pairs at most so far apart weigh distance^-distance_power, both ways alike
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
        weights = np.concatenate([[0.0], np.arange(1.0, self.window + 1) ** -self.distance_power])
        log = histories.rows, histories.starts, weights
        degree = np.zeros(histories.videos)
        _degrees(*log, degree)
        scales = np.where(degree > 0, np.maximum(degree + self.shift, 1e-6) ** -self.degree_power, 0.0)
        leading = leading_vectors(
            lambda vectors: _times(*log, scales, vectors),
            size=histories.videos,
            dimension=min(dimension, histories.videos),
            rounds=self.rounds,
            seed=self.seed,
        )
        found = np.zeros((histories.videos, dimension))
        found[:, : leading.shape[1]] = leading
        found /= max(np.sqrt((found**2).sum(1).mean()), 1e-12)
        noise = np.random.default_rng(self.seed).standard_normal(found.shape) * self.noise / np.sqrt(dimension)
        return (found + noise).astype(np.float32)

"""Diversity: how similar a candidate is to the slate so far, and how much that counts."""

from dataclasses import dataclass
from math import log

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.rules.rule import CatalogueFacts
from watchnext.reranking.value import require_known, require_number

METHODS = MMR, DPP = "mmr", "dpp"
RIDGE = 0.1  # share of the diagonal in the kernel of the determinant: two equal videos then have one of more than 0
SCALE = -1.0 / log(RIDGE)
BY_DETERMINANT = METHODS.index(DPP)


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Weigh value against how similar a candidate is to the slate so far.

    `trade_off` 1 is value only, 0 diversity only. Values are scaled to [0, 1] over the candidates.

    mmr      maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): a candidate scores trade_off * value -
             (1 - trade_off) * max similarity to the slate. Deviation: a negative similarity counts as 0, so that opposite
             videos are not favoured
    dpp      fast greedy MAP of a determinantal point process (Chen, Zhang & Zhou, NeurIPS 2018): the gain in trade_off * sum of
             values + (1 - trade_off) * log det of the similarities. Deviations: a cosine c counts as (1 + c) / 2, RIDGE stands
             on the diagonal, and the logarithm is scaled so that one gain lies in [-1, 0]
    """

    trade_off: float = 0.8
    method: str = MMR

    def __post_init__(self) -> None:
        require_number("diversity.trade_off", self.trade_off, low=0, high=1)
        require_known("diversity.method", [self.method], METHODS)

    @property
    def kind(self) -> int:
        return METHODS.index(self.method)

    def remembered(self, slots: int) -> int:
        """Return how many videos of a slate the method has to remember."""
        return slots if self.method == DPP else 0


@dataclass(frozen=True)
class Similarity:
    """Cosine of content vectors, or shared metadata if a vector is missing.

    Shared metadata is half for the same creator plus half the Jaccard index of the tags.

    units (D, N) float32    unit vectors by dimension, so that one pass over the candidates is a product of whole rows
    has_vector (N,) bool, creators (N,), tags (N, J)   -1 none
    """

    units: np.ndarray
    has_vector: np.ndarray
    creators: np.ndarray
    tags: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, facts: CatalogueFacts) -> "Similarity":
        vectors = np.asarray(facts.vectors[rows], np.float32)
        units, has_vector = np.zeros(vectors.T.shape, np.float32), np.empty(len(vectors), np.bool_)
        _write_units(vectors, units, has_vector)
        return cls(
            units, has_vector, np.asarray(facts.creator_rows[rows], np.int64), np.asarray(facts.tag_rows[rows], np.int64)
        )

    @classmethod
    def nothing(cls, n: int) -> "Similarity":
        """Return that of `n` videos of which nothing is known."""
        none = np.full(n, -1, np.int64)
        return cls(np.zeros((0, n), np.float32), np.zeros(n, bool), none, none[:, None])

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.units, self.has_vector, self.creators, self.tags

    def to(self, position: int, *, shifted: bool = False) -> np.ndarray:
        """Compute the similarity (N,) of each video to the one at `position`; a negative one is 0.

        With `shifted`, a cosine c is (1 + c) / 2.
        """
        similarity, cosine = np.zeros(len(self.has_vector)), np.empty(len(self.has_vector), np.float32)
        compare(position, self.arrays, shifted, cosine, similarity)
        return similarity


@kernel(error_model="numpy")
def _write_units(vectors, units, has_vector):
    """Write `vectors` (N, D) divided by their norms into `units` (D, N) of zeros; one without a norm has no vector."""
    for i in range(len(vectors)):
        square = np.float32(0.0)
        for value in vectors[i]:
            square += value * value
        norm = np.sqrt(square)
        has_vector[i] = np.isfinite(norm) and norm > 0
        if has_vector[i]:
            for d in range(vectors.shape[1]):
                units[d, i] = vectors[i, d] / norm


@kernel
def spread(picked, kind, known, cosine, similarity, rows, left, gain):
    """Update the gain in diversity (N,) of each video, after the last of `picked` (s,).

    cosine, similarity (N,) are overwritten. Of the determinant, rows (memory, N) hold the Cholesky factor, a row a video of the
    slate, and left (N,) the squared diagonal that it leaves.
    """
    last, at = picked[-1], len(picked) - 1
    compare(last, known, kind == BY_DETERMINANT, cosine, similarity)
    if kind == BY_DETERMINANT:
        _factor(last, at, similarity, rows, left, gain)
    else:
        for i in range(len(gain)):
            gain[i] = min(gain[i], -similarity[i])


@kernel
def _factor(last, at, similarity, rows, left, gain):
    """Add row `at` to the Cholesky factor, and take what it explains from the squared diagonal that is left."""
    row, pivot = rows[at], np.sqrt(left[last])
    row[:] = (1.0 - RIDGE) * similarity
    row[last] = 1.0
    for earlier in range(at):
        factor = rows[earlier, last]
        for i in range(len(row)):
            row[i] -= factor * rows[earlier, i]
    for i in range(len(row)):
        row[i] /= pivot
        # RIDGE is the least that a positive definite kernel leaves; with cosines beside shared metadata it may not be one.
        left[i] = max(left[i] - row[i] * row[i], RIDGE)
        gain[i] = SCALE * np.log(left[i])


@kernel
def compare(position, known, shifted, cosine, similarity):
    """Write the `cosine` (N,) float32 and the `similarity` (N,) of each video to the one at `position`."""
    units, has_vector, creators, tags = known
    cosine[:] = 0.0
    if has_vector[position]:
        for d in range(len(units)):
            factor = units[d, position]
            for i in range(len(cosine)):
                cosine[i] += units[d, i] * factor
    for i in range(len(similarity)):
        if has_vector[position] and has_vector[i]:
            by_vector = np.float64(cosine[i])
            similarity[i] = 0.5 + 0.5 * by_vector if shifted else max(by_vector, 0.0)
        else:
            similarity[i] = _shared(position, i, creators, tags)


@kernel
def _shared(one, other, creators, tags):
    """Return half for the same creator, plus half the Jaccard index of the tags."""
    mine = theirs = common = 0
    for a in range(tags.shape[1]):
        mine += tags[one, a] >= 0
        theirs += tags[other, a] >= 0
        for b in range(tags.shape[1]):
            common += tags[one, a] >= 0 and tags[one, a] == tags[other, b]
    same = creators[one] >= 0 and creators[one] == creators[other]
    return 0.5 * same + 0.5 * common / max(mine + theirs - common, 1)


def scaled(values: np.ndarray) -> np.ndarray:
    """Scale finite values to [0, 1]; equal values become 0, non-finite values stay."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values.copy()
    low, high = finite.min(), finite.max()
    return (values - low) / (high - low if high > low else 1.0)

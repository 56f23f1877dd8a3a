"""Diversity: how similar a candidate is to the slate so far, and how much that counts."""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.rules import CatalogueFacts
from watchnext.reranking.value import require_number


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """Maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998).

    A candidate scores trade_off * value - (1 - trade_off) * max similarity to the slate.

    `trade_off` 1 is value only, 0 similarity only. Deviations: values are scaled to [0, 1] over the candidates, and a negative
    similarity counts as 0, so that opposite videos are not favoured.
    """

    trade_off: float = 0.8

    def __post_init__(self) -> None:
        require_number("diversity.trade_off", self.trade_off, low=0, high=1)

    def similarity(self, rows: np.ndarray, facts: CatalogueFacts) -> "Similarity | None":
        """Return the similarity among the videos `rows` (N,), None where it does not count."""
        return Similarity.of(rows, facts) if self.trade_off < 1 else None


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
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        has_vector = np.isfinite(norms) & (norms > 0)
        units = np.zeros(vectors.T.shape, np.float32)
        np.divide(vectors.T, norms, out=units, where=has_vector)
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

    def to(self, position: int) -> np.ndarray:
        """Compute the similarity (N,) of each video to the one at `position`; a negative one is 0."""
        similarity, cosine = np.zeros(len(self.has_vector)), np.empty(len(self.has_vector), np.float32)
        add_similarity(position, *self.arrays, cosine, similarity)
        return similarity


@kernel
def add_similarity(position, units, has_vector, creators, tags, cosine, nearest):
    """Raise `nearest` (N,) to the similarity of each video to the one at `position`; `cosine` (N,) float32 is overwritten."""
    cosine[:] = 0.0
    if has_vector[position]:
        for d in range(len(units)):
            factor = units[d, position]
            for i in range(len(cosine)):
                cosine[i] += units[d, i] * factor
    for i in range(len(nearest)):
        by_vector = has_vector[position] and has_vector[i]
        similarity = np.float64(cosine[i]) if by_vector else _shared(position, i, creators, tags)
        nearest[i] = max(nearest[i], similarity)


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
        return values
    low, high = finite.min(), finite.max()
    return (values - low) / (high - low if high > low else 1.0)

"""Diversity: marginal value of a candidate given the slate so far."""

from dataclasses import dataclass

import numpy as np

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

    def begin(self, rows: np.ndarray, values: np.ndarray, facts: CatalogueFacts) -> "Marginal":
        similarity = Similarity(rows, facts) if self.trade_off < 1 else None
        return Marginal(scaled(values), similarity, self.trade_off)


class Marginal:
    """Marginal `scores` (N,) of the candidates given the slate so far; -inf where the value is -inf."""

    def __init__(self, values: np.ndarray, similarity: "Similarity | None", trade_off: float) -> None:
        self.similarity, self.trade_off = similarity, trade_off
        self.relevance = np.where(np.isfinite(values), values, 0.0) * trade_off
        self.sunk = ~np.isfinite(values)
        self.nearest = np.zeros(len(values))
        self.scores = np.where(self.sunk, -np.inf, self.relevance)

    def take(self, position: int) -> None:
        """Add the candidate at `position` to the slate."""
        if self.similarity is not None:
            np.maximum(self.nearest, self.similarity.to(position), out=self.nearest)
            self.scores = np.where(self.sunk, -np.inf, self.relevance - (1 - self.trade_off) * self.nearest)


class Similarity:
    """Cosine of content vectors, or shared metadata if a vector is missing.

    Shared metadata is half for the same creator plus half the Jaccard index of the tags.
    """

    def __init__(self, rows: np.ndarray, facts: CatalogueFacts) -> None:
        vectors = np.asarray(facts.vectors[rows], np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        self.has_vector = np.isfinite(norms) & (norms > 0)
        self.units = np.zeros_like(vectors)
        np.divide(vectors, norms[:, None], out=self.units, where=self.has_vector[:, None])
        self.creators, self.tags = facts.creator_rows[rows], np.ascontiguousarray(facts.tag_rows[rows].T)
        self.tag_counts = (self.tags >= 0).sum(axis=0)
        self.complete = bool(self.has_vector.all())

    def to(self, position: int) -> np.ndarray:
        """Compute the similarity (N,) of each candidate to the one at `position`."""
        cosine = self.units @ self.units[position]
        if self.complete:
            return cosine
        return np.where(self.has_vector & self.has_vector[position], cosine, self._shared(position))

    def _shared(self, position: int) -> np.ndarray:
        creator = self.creators[position]
        same = (self.creators == creator) & (creator >= 0)
        tags = set(self.tags[:, position].tolist()) - {-1}
        shared = sum(((self.tags == tag).any(axis=0) for tag in tags), np.zeros(len(same)))
        union = np.maximum(self.tag_counts + len(tags) - shared, 1)
        return 0.5 * same + 0.5 * shared / union


def scaled(values: np.ndarray) -> np.ndarray:
    """Scale finite values to [0, 1]; equal values become 0, non-finite values stay."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return values
    low, high = finite.min(), finite.max()
    return (values - low) / (high - low if high > low else 1.0)

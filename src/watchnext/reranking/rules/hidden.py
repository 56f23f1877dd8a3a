"""Let videos weigh less that are like what the viewer has hidden."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.reranking.rules.rule import Demotion, RuleContext
from watchnext.reranking.value import require_number


@dataclass(frozen=True, kw_only=True)
class HiddenDemotion(Demotion):
    """Multiply the value of videos by `weight` that are by the creator of a hidden video, copies of it, or near it.

    Near is a cosine of content vectors of at least `cosine`.
    """

    name: ClassVar[str] = "hidden"
    weight: float = 0.5
    cosine: float = 0.9

    def __post_init__(self) -> None:
        require_number("rules.hidden.weight", self.weight, low=0, high=1)
        require_number("rules.hidden.cosine", self.cosine, low=-1, high=1)

    def factors(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        facts, hidden = context.facts, context.hidden
        if not len(hidden):
            return np.ones(len(rows))
        like = _shares(facts.creator_rows, rows, hidden, none=-1) | _shares(facts.fingerprints, rows, hidden, none=0)
        like |= (_units(facts.vectors[rows]) @ _units(facts.vectors[hidden]).T >= self.cosine).any(axis=1)
        return np.where(like, self.weight, 1.0)


def _shares(column: np.ndarray, rows: np.ndarray, others: np.ndarray, *, none: int) -> np.ndarray:
    """Mark the rows (N,) whose value of a column one of the `others` has."""
    values, of_others = column[rows], column[others]
    return np.isin(values, of_others) & (values != none)


def _units(vectors: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, D); nan for a missing one, which is near nothing."""
    vectors = np.asarray(vectors, np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.divide(vectors, norms[:, None], out=np.full_like(vectors, np.nan), where=norms[:, None] > 0)

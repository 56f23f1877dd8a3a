"""The distribution of a slate: the greedy pass of one request, to draw from and to ask for probabilities."""

from dataclasses import dataclass

import numpy as np

from watchnext.reranking.diversity import Similarity
from watchnext.reranking.greedy import NOTHING, Caps, Filled, fill


@dataclass(frozen=True, kw_only=True)
class SlatePolicy:
    """The distribution of one request's slate: the greedy pass over the eligible videos, with its exploration.

    rows (N,)   the eligible videos, best valued first, then `outside` others that were shown but cannot be picked
    """

    rows: np.ndarray
    outside: int
    relevance: np.ndarray
    similarity: Similarity | None
    trade_off: float
    caps: Caps
    epsilon: float

    def filled(self, draws: np.ndarray, given: np.ndarray = NOTHING) -> Filled:
        """Fill as many slots as `draws` (K, 2) has rows, the first of them with the positions `given` (P,)."""
        options = {"given": given, "outside": self.outside}
        return fill(self.relevance, self.similarity, self.trade_off, self.caps, self.epsilon, draws, **options)

    def following(self, given: np.ndarray) -> np.ndarray:
        """Return the probability (N,) of each video in the slot after the positions `given` (P,); all 0 where none is left."""
        chances = np.zeros(len(self.rows))
        eligible = np.arange(len(self.rows)) < len(self.rows) - self.outside
        eligible[given] = False
        if eligible.any():
            best = self.filled(np.ones((len(given) + 1, 2)), given)
            eligible &= ~best.barred[: best.held].any(axis=0)
            chances[eligible] = self.epsilon / eligible.sum()
            chances[best.picked[-1]] += 1.0 - self.epsilon
        return chances

"""The distribution of a slate: the greedy pass of one request, to draw from and to ask for probabilities."""

from dataclasses import dataclass

import numpy as np

from watchnext.reranking.diversity import Diversity, Similarity
from watchnext.reranking.greedy import NOTHING, Filled, fill
from watchnext.reranking.limits import SlateLimits


@dataclass(frozen=True, kw_only=True)
class SlatePolicy:
    """The distribution of one request's slate: the greedy pass over the eligible videos, with its exploration.

    rows (N,)   the eligible videos, best valued first, then `outside` others that were shown but cannot be picked
    slots       of the slate
    """

    rows: np.ndarray
    outside: int
    slots: int
    relevance: np.ndarray
    similarity: Similarity | None
    diversity: Diversity
    limits: SlateLimits
    epsilon: float
    continuation: float

    def filled(self, draws: np.ndarray, given: np.ndarray = NOTHING) -> Filled:
        """Fill as many slots as `draws` (K, 2) has rows, the first of them with the positions `given` (P,)."""
        options = {
            "slots": max(self.slots, len(draws)),
            "given": given,
            "outside": self.outside,
            "continuation": self.continuation,
        }
        return fill(self.relevance, self.similarity, self.diversity, self.limits, self.epsilon, draws, **options)

    def following(self, given: np.ndarray) -> np.ndarray:
        """Return the probability (N,) of each video in the slot after the positions `given` (P,); all 0 where none is left."""
        chances, best = np.zeros(len(self.rows)), self.filled(np.ones((len(given) + 1, 2)), given)
        if len(best.picked) > len(given):
            eligible = best.barred_by == len(self.limits.most)
            eligible[best.picked[-1]] = True
            chances[eligible] = self.epsilon / eligible.sum()
            chances[best.picked[-1]] += 1.0 - self.epsilon
        return chances

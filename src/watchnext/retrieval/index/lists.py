"""Inverted lists around centroids (IVF, Sivic & Zisserman, ICCV 2003) over 8-bit codes, read by compiled loops.

Deviations: the number of compared vectors is fixed instead of the number of lists, so that filters cost no recall: more lists
are opened. Filters are bits in list order, checked before any vector is read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.retrieval.index.codes import Codes, best
from watchnext.retrieval.index.prefilter import count_bits, set_positions
from watchnext.retrieval.index.vectors import centroids, nearest


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Recipe of inverted lists.

    lists     number of lists, about 2 * sqrt(videos); fewer if a list would hold fewer than 4
    compared  minimum vectors compared per search, if the filter allows as many
    over      oversampling: candidates per result that get exact scores
    rounds, each   k-means rounds, and training vectors per list
    """

    lists: int
    compared: int
    over: float = 1.2
    rounds: int = 10
    each: int = 64
    seed: int = 0

    def build(self, vectors: np.ndarray) -> "ListIndex":
        """Build lists over `vectors` (n, D)."""
        count = max(min(self.lists, len(vectors) // 4), 1)
        means = centroids(vectors, count, rounds=self.rounds, each=self.each, seed=self.seed)
        member = nearest(means, vectors)
        order = np.argsort(member, kind="stable")
        return ListIndex(self, means, np.searchsorted(member[order], np.arange(count + 1)), order)

    def load(self, folder: Path) -> "ListIndex":
        arrays = load_arrays(Path(folder) / "lists")
        return ListIndex(self, arrays["means"], arrays["starts"], None)


class ListIndex:
    """Built lists: means (L, D), starts (L + 1,); `order` is the storage order of the vectors."""

    def __init__(self, recipe: Lists, means: np.ndarray, starts: np.ndarray, order: np.ndarray | None) -> None:
        self._recipe, self._means, self._starts, self.order = recipe, np.array(means), np.array(starts, np.int64), order

    def save(self, folder: Path) -> None:
        save_arrays(Path(folder) / "lists", {"means": self._means, "starts": self._starts})

    def candidates(self, query: np.ndarray, k: int, words: np.ndarray, codes: Codes) -> np.ndarray:
        """Return positions (n,) of about the best `k` for `query` (D,) among those set in `words`; possibly fewer."""
        recipe, videos = self._recipe, int(self._starts[-1])
        wanted = max(recipe.compared, 2 * k)
        similarity = self._means @ query
        opened = min(len(similarity), int(2 * len(similarity) * wanted / max(count_bits(words), 1)) + 16)
        first = np.argpartition(-similarity, opened - 1)[:opened]
        positions = set_positions(words, self._starts, first[np.argsort(-similarity[first])], min(wanted, videos))
        scores, _ = codes.scores(query, positions)
        return positions[best(scores, int(k * recipe.over), 0.0)]

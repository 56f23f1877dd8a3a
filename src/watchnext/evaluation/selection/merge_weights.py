"""Choose the weights of the merge on held-out requests by coordinate search."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.retrieval.sources.merge import shares, vector
from watchnext.types import SOURCES

GRID = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
ROUNDS = 2


@dataclass(frozen=True)
class MergeProblem:
    """Lists of R requests as flat arrays: the union of a request's lists is rows `starts[r]` to `starts[r + 1]`.

    shares   (N, SOURCES) float32, 1 / (constant + rank) of each candidate in the list of each source, 0 where not listed
    wanted   (W,) candidates (indices into N) that the viewer watched afterwards, and `owner` (W,) their request
    missed   (R,) watched videos that no source lists
    depths   depths of recall, whose mean is the objective
    """

    starts: np.ndarray
    shares: np.ndarray
    wanted: np.ndarray
    owner: np.ndarray
    missed: np.ndarray
    depths: Sequence[int]

    @classmethod
    def of(
        cls,
        ranks: Sequence[np.ndarray],
        watched: Sequence[np.ndarray],
        missed: Sequence[int],
        *,
        constant: float,
        depths: Sequence[int],
    ) -> "MergeProblem":
        """Flatten `ranks` (R arrays (C, SOURCES), 0 not listed) and `watched` (R masks (C,)) with `missed` (R,)."""
        starts = np.concatenate([[0], np.cumsum([len(each) for each in ranks])])
        wanted = np.flatnonzero(np.concatenate(watched))
        owner = np.searchsorted(starts, wanted, side="right") - 1
        return cls(
            starts, shares(np.concatenate(ranks), constant).astype(np.float32), wanted, owner, np.asarray(missed), depths
        )

    def recalls(self, weights: np.ndarray) -> np.ndarray:
        """Return the mean over `depths` of each request's recall (R,), nan without watched videos."""
        ranks = _ranks(self.shares @ weights.astype(np.float32), self.starts, self.wanted, self.owner)
        hits = np.mean([ranks < depth for depth in self.depths], axis=0)
        requests = len(self.missed)
        watched = np.bincount(self.owner, minlength=requests) + self.missed
        return np.divide(np.bincount(self.owner, hits, requests), watched, out=np.full(requests, np.nan), where=watched > 0)

    def quality(self, weights: np.ndarray) -> float:
        recalls = self.recalls(weights)
        return float(np.nanmean(recalls)) if np.isfinite(recalls).any() else 0.0


@kernel
def _ranks(scores, starts, wanted, owner):
    """Return the rank (W,), from 0, of each wanted candidate among those of its request; ties by position."""
    ranks = np.zeros(wanted.size, np.int64)
    for i in range(wanted.size):
        at, score = wanted[i], scores[wanted[i]]
        rank = 0
        for k in range(starts[owner[i]], at):  # two loops without a branch, which the processor runs many at a time
            rank += scores[k] >= score
        for k in range(at + 1, starts[owner[i] + 1]):
            rank += scores[k] > score
        ranks[i] = rank
    return ranks


def chosen_weights(problem: MergeProblem, start: Mapping[str, float]) -> dict[str, float]:
    """Search the weights with the best mean recall, source by source over GRID, for ROUNDS rounds.

    The search begins at the better of `start` and every source alone, and accepts no worse result. Ties keep what stands.
    """
    best = max([vector(start), *np.eye(len(SOURCES))], key=problem.quality)
    quality = problem.quality(best)
    for _ in range(ROUNDS):
        for column in range(len(SOURCES)):
            for weight in GRID:
                tried = best.copy()
                tried[column] = weight
                if weight != best[column] and tried.any() and (found := problem.quality(tried)) > quality:
                    best, quality = tried, found
    return dict(zip(SOURCES, best.tolist(), strict=True))

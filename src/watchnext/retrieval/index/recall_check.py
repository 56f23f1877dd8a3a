"""Recall check before publishing an index: recall against exact search, as built and after changes, under request filters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.features.catalogue import SAFETY, Catalogue
from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError

CHUNK = 32  # queries scored against the whole catalogue at a time
ROUNDING = 1e-6  # tolerance for products summed in different orders


@dataclass(frozen=True)
class Probe:
    """Real queries (B, D), and the rows seen by each viewer."""

    queries: np.ndarray
    seen: Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RecallCheck:
    """Require a recall of at least `floor` at `k` under every filter.

    removed  share of the catalogue that is removed, and equally that gets new vectors, for the second measurement
    """

    k: int
    floor: float
    removed: float = 0.05
    seed: int = 0

    def check(self, index: VideoIndex, vectors: np.ndarray, catalogue: Catalogue, probe: Probe) -> dict[str, dict[str, float]]:
        """Measure recall@k by filter, "as built" and "after changes". Raises VideoIndexError for a filter below the floor, or
        if nothing can be measured."""
        if not len(index):
            raise VideoIndexError("the catalogue is empty, so there is nothing to index; check `dvc repro tables`")
        if not len(probe.queries):
            raise VideoIndexError(f"recall@{self.k} is nan: there are no validation queries to measure it on")
        masks = dict(static_masks_of(catalogue))
        live, now = self._changed(index, vectors)
        results = {
            "as built": self.recall(LiveIndex(index), vectors, np.ones(len(vectors), bool), masks, probe),
            "after changes": self.recall(live, *now, masks, probe),
        }
        for state, recalls in results.items():
            for name, recall in recalls.items():
                if not recall >= self.floor:
                    raise VideoIndexError(
                        f"recall@{self.k} under the filter {name!r}, {state}, is {recall:.4f}, expected at least {self.floor}; "
                        "raise the search parameters in conf/index"
                    )
        return results

    def recall(
        self, live: LiveIndex, vectors: np.ndarray, present: np.ndarray, masks: Mapping[str, StaticMask], probe: Probe
    ) -> dict[str, float]:
        """Measure per filter the share of the exact best k (or of all allowed, if fewer) that the index returns.

        It is 1 if none is allowed. `present` (V,) bool marks rows that were not removed.
        """
        hits, wanted = dict.fromkeys(masks, 0), dict.fromkeys(masks, 0)
        for at in range(0, len(probe.queries), CHUNK):
            queries = np.asarray(probe.queries[at : at + CHUNK], np.float32)
            for i, scores in enumerate(queries @ vectors.T):
                seen = probe.seen[at + i]
                for name, static_mask in masks.items():
                    rows, _ = live.search(queries[i : i + 1], self.k, PreFilter(static_mask, seen))
                    hit, possible = self._hits(rows[0], scores, static_mask.mask & present, seen)
                    hits[name], wanted[name] = hits[name] + hit, wanted[name] + possible
        return {name: hits[name] / wanted[name] if wanted[name] else 1.0 for name in masks}

    def _hits(self, results: np.ndarray, scores: np.ndarray, mask: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
        """Count rows of `results` that score at least the k-th best allowed by `mask`, and the possible number. Scores decide,
        because copies are interchangeable."""
        mask[seen] = False
        rows = np.flatnonzero(mask)
        k = min(self.k, len(rows))
        if not k:
            return 0, 0
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        results = np.unique(results[results >= 0])
        return int((mask[results] & (scores[results] >= least - ROUNDING)).sum().clip(max=k)), k

    def _changed(self, index: VideoIndex, vectors: np.ndarray) -> tuple[LiveIndex, tuple[np.ndarray, np.ndarray]]:
        """Return the index after changes, and (vectors, mask of present rows). New vectors are those of removed videos, so that
        they are realistic."""
        random, count = np.random.default_rng(self.seed), int(len(vectors) * self.removed)
        chosen = random.permutation(len(vectors))[: 2 * count]
        gone, new = chosen[:count], chosen[count:]
        live, vectors, present = LiveIndex(index), vectors.copy(), np.ones(len(vectors), bool)
        vectors[new], present[gone] = vectors[gone], False
        live.remove(gone)
        live.add(new, vectors[new])
        return live, (vectors, present)


def static_masks_of(catalogue: Catalogue) -> Iterator[tuple[str, StaticMask]]:
    """Yield a static mask for every region, and no region, with every allowed safety level."""
    for region, bit in {**catalogue.region_bits, "no region": None}.items():
        allowed = catalogue.regions == 0
        if bit is not None:
            allowed = allowed | (catalogue.regions >> np.uint64(bit) & np.uint64(1) == 1)
        for level, highest in enumerate(SAFETY[:-1]):
            yield f"{region}, {highest}", StaticMask(allowed & (catalogue.safety <= level))


def groups_of(catalogue: Catalogue) -> np.ndarray:
    """Number the videos (V,) by what their static masks ask: videos of one number have the same regions and safety level."""
    pairs = np.stack([catalogue.regions, catalogue.safety.astype(np.uint64)], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)

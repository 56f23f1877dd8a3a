"""Whether an index may be published: its recall against the exact answer, as it is and after changes, under the filters that
requests bring."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.features.catalogue import SAFETY, Catalogue
from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError

CHUNK = 32  # queries whose scores of the whole catalogue are held at a time
ROUNDING = 1e-6  # of one product summed in two orders


@dataclass(frozen=True)
class Probe:
    """Real queries (B, D), and the rows that each of their viewers has seen."""

    queries: np.ndarray
    seen: Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class RecallCheck:
    """k, floor   recall@k may not be lower under any filter
    removed  part of the catalogue that is taken out, and again as much given new vectors, for the second measurement
    """

    k: int
    floor: float
    removed: float = 0.05
    seed: int = 0

    def check(self, index: VideoIndex, vectors: np.ndarray, catalogue: Catalogue, probe: Probe) -> dict[str, dict[str, float]]:
        """Recall@k by filter, "as built" and "after changes". Raises VideoIndexError naming the filter under which it is below
        the floor, or that nothing could be measured."""
        if not len(index):
            raise VideoIndexError("the catalogue is empty, so there is nothing to index; check `dvc repro tables`")
        if not len(probe.queries):
            raise VideoIndexError(f"recall@{self.k} is nan: there are no validation queries to measure it on")
        shelves = dict(static_masks_of(catalogue))
        live, now = self._changed(index, vectors)
        found = {
            "as built": self.recall(LiveIndex(index, compact_at=0), vectors, np.ones(len(vectors), bool), shelves, probe),
            "after changes": self.recall(live, *now, shelves, probe),
        }
        for when, recalls in found.items():
            for name, recall in recalls.items():
                if not recall >= self.floor:
                    raise VideoIndexError(
                        f"recall@{self.k} under the filter {name!r}, {when}, is {recall:.4f}, expected at least {self.floor}; "
                        "raise the search parameters in conf/index"
                    )
        return found

    def recall(
        self, live: LiveIndex, vectors: np.ndarray, there: np.ndarray, shelves: Mapping[str, StaticMask], probe: Probe
    ) -> dict[str, float]:
        """By filter, the share of the exact best k (fewer where fewer are allowed) that is found; 1 where nothing is allowed.
        `there` (V,) bool are the rows that were not removed."""
        hits, wanted = dict.fromkeys(shelves, 0), dict.fromkeys(shelves, 0)
        for at in range(0, len(probe.queries), CHUNK):
            queries = np.asarray(probe.queries[at : at + CHUNK], np.float32)
            for i, scores in enumerate(queries @ vectors.T):
                seen = probe.seen[at + i]
                for name, shelf in shelves.items():
                    rows, _ = live.search(queries[i : i + 1], self.k, PreFilter(shelf, seen))
                    hit, of = self._hits(rows[0], scores, shelf.mask & there, seen)
                    hits[name], wanted[name] = hits[name] + hit, wanted[name] + of
        return {name: hits[name] / wanted[name] if wanted[name] else 1.0 for name in shelves}

    def _hits(self, found: np.ndarray, scores: np.ndarray, mask: np.ndarray, seen: np.ndarray) -> tuple[int, int]:
        """How many of `found` are as good as the k-th of what `mask` allows, and how many there could be. By score, as of
        copies either is right."""
        mask[seen] = False
        rows = np.flatnonzero(mask)
        k = min(self.k, len(rows))
        if not k:
            return 0, 0
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        found = np.unique(found[found >= 0])
        return int((mask[found] & (scores[found] >= least - ROUNDING)).sum().clip(max=k)), k

    def _changed(self, index: VideoIndex, vectors: np.ndarray) -> tuple[LiveIndex, tuple[np.ndarray, np.ndarray]]:
        """The index after changes, and (vectors, which rows are there) as they are then. What is new has another video's
        vector, so that it lies where vectors lie."""
        random, count = np.random.default_rng(self.seed), int(len(vectors) * self.removed)
        chosen = random.permutation(len(vectors))[: 2 * count]
        gone, new = chosen[:count], chosen[count:]
        live, vectors, there = LiveIndex(index, compact_at=0), vectors.copy(), np.ones(len(vectors), bool)
        vectors[new], there[gone] = vectors[gone], False
        live.remove(gone)
        live.add(new, vectors[new])
        return live, (vectors, there)


def static_masks_of(catalogue: Catalogue) -> Iterator[tuple[str, StaticMask]]:
    """Every region, and a viewer of none, with every safety level that may be allowed."""
    for region, bit in {**catalogue.region_bits, "no region": None}.items():
        here = catalogue.regions == 0
        if bit is not None:
            here = here | (catalogue.regions >> np.uint64(bit) & np.uint64(1) == 1)
        for level, highest in enumerate(SAFETY[:-1]):
            yield f"{region}, {highest}", StaticMask(here & (catalogue.safety <= level))

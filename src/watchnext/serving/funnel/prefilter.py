"""What the filters of the re-ranking would let through, told to the search before it looks: 300 asked for are 300 usable.

The rules keep the last word. What they say of everybody in a region alike is asked of them once, over the whole catalogue.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext.reranking.rules import (
    CatalogueFacts,
    DuplicateFilter,
    RegionFilter,
    Rule,
    RuleContext,
    SafetyFilter,
    SeenFilter,
    UnavailableFilter,
)
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.types import Viewer

NOBODY = np.zeros(0, np.int64)


class Eligible:
    """Safe to call from any thread.

    rules  as configured; a rule that is not among them hides nothing
    """

    def __init__(self, rules: Sequence[Rule], facts: CatalogueFacts, region_bits: Mapping[str, int]) -> None:
        self._alike = [rule for rule in rules if isinstance(rule, SafetyFilter | RegionFilter)]
        self._unavailable, self._seen = (
            any(isinstance(rule, kind) for rule in rules) for kind in (UnavailableFilter, SeenFilter)
        )
        self._of_seen = any(isinstance(rule, DuplicateFilter) and rule.of_seen for rule in rules)
        self._copies = Copies(facts.fingerprints if any(isinstance(rule, DuplicateFilter) for rule in rules) else NOBODY)
        self._facts, self._region_bits = facts, region_bits
        self._upload_ms = np.nan_to_num(np.asarray(facts.upload_ms, np.float64), nan=-np.inf)
        self._by_upload = np.argsort(self._upload_ms, kind="stable")
        self._uploads = self._upload_ms[self._by_upload]
        self._shelves: dict[str | None, StaticMask] = {}

    def of(self, viewer: Viewer, *, as_of_ms: float, unavailable: np.ndarray) -> PreFilter:
        """What `viewer` may be given; what is uploaded after `as_of_ms` does not exist yet."""
        hidden = [self._by_upload[np.searchsorted(self._uploads, as_of_ms, side="right") :]]
        if self._unavailable:
            hidden.append(np.flatnonzero(unavailable))
        if self._seen:
            hidden.append(viewer.seen)
        if self._of_seen:
            seen = np.asarray(viewer.seen, np.int64)
            hidden += [self._copies.of(seen), seen[self._facts.fingerprints[seen] != 0]]
        return PreFilter(self._shelf(viewer.region), np.concatenate(hidden).astype(np.int64))

    def without_copies(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `rows` (n,), best first, of all but the copies of better ones, if a rule takes copies out."""
        return self._copies.first(rows)

    def _shelf(self, region: str | None) -> StaticMask:
        region = region if region in self._region_bits else None
        if region not in self._shelves:
            rows = np.arange(len(self._upload_ms))
            somebody = RuleContext(
                viewer=Viewer(-1, np.zeros(0), NOBODY, region), facts=self._facts, region_bits=self._region_bits
            )
            out = [rule.removes(rows, somebody) for rule in self._alike]
            self._shelves[region] = StaticMask(~np.any(out, axis=0) if out else np.ones(len(rows), bool))
        return self._shelves[region]


class Copies:
    """Which videos have the fingerprint of another one; 0 is none. Only those are kept, few in a large catalogue."""

    def __init__(self, fingerprints: np.ndarray) -> None:
        prints, counts = np.unique(fingerprints, return_counts=True)
        self._prints = prints[(counts > 1) & (prints != 0)]
        rows = np.flatnonzero(np.isin(fingerprints, self._prints))
        self._rows = rows[np.argsort(fingerprints[rows], kind="stable")]
        self._starts = np.append(np.searchsorted(fingerprints[self._rows], self._prints), len(self._rows))
        self._group = np.full(len(fingerprints), -1, np.int32)
        self._group[self._rows] = np.searchsorted(self._prints, fingerprints[self._rows])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """All copies of `rows` (n,), they themselves included."""
        groups = np.unique(self._group[rows])
        return np.concatenate([NOBODY, *(self._rows[self._starts[g] : self._starts[g + 1]] for g in groups[groups >= 0])])

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Positions in `rows`, ascending, that repeat no earlier one's content."""
        if not len(self._rows):
            return np.arange(len(rows))
        groups = self._group[rows]
        keys = np.where(groups < 0, -1 - np.arange(len(rows)), groups)
        return np.sort(np.unique(keys, return_index=True)[1])

"""Pre-filter the vector search by the rules of re-ranking, so that all the videos it returns are usable.

The rules still decide in re-ranking. Rules that depend only on the region are evaluated once, over the whole catalogue.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext.reranking.rules import CatalogueFacts, Rule, RuleContext
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.types import Query

NOBODY = np.zeros(0, np.int64)


class RulePreFilter:
    """Compute which videos a viewer may get. Safe to call from any thread.

    rules  as configured; a rule that is not among them excludes nothing
    """

    def __init__(self, rules: Sequence[Rule], facts: CatalogueFacts, region_bits: Mapping[str, int]) -> None:
        by_name = {rule.name: rule for rule in rules}
        self._static_rules = [by_name[name] for name in ("safety", "region") if name in by_name]
        self._excludes_unavailable, self._excludes_seen = "unavailable" in by_name, "seen" in by_name
        duplicate = by_name.get("duplicate")
        self._excludes_copies_of_seen = duplicate is not None and duplicate.of_seen
        self._copies = Copies(facts.fingerprints if duplicate else NOBODY)
        self._facts, self._region_bits = facts, region_bits
        self._upload_ms = np.nan_to_num(np.asarray(facts.upload_ms, np.float64), nan=-np.inf)
        self._by_upload = np.argsort(self._upload_ms, kind="stable")
        self._uploads = self._upload_ms[self._by_upload]
        self._static_masks: dict[str | None, StaticMask] = {}

    def of(self, query: Query, *, unavailable: np.ndarray) -> PreFilter:
        """Return the videos that the viewer may get; one uploaded after the request does not exist yet."""
        excluded = [query.excluded, self._by_upload[np.searchsorted(self._uploads, query.as_of_ms, side="right") :]]
        if self._excludes_unavailable:
            excluded.append(np.flatnonzero(unavailable))
        if self._excludes_seen:
            excluded.append(query.seen)
        if self._excludes_copies_of_seen:
            excluded.append(self._copies.of(query.seen))
            if not self._excludes_seen:
                excluded.append(query.seen[self._facts.fingerprints[query.seen] != 0])
        return PreFilter(self._static_mask(query.region), np.concatenate(excluded).astype(np.int64))

    def without_copies(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions in `rows` (n,), best first, without copies of better ones if a rule excludes copies."""
        return self._copies.first(rows)

    def _static_mask(self, region: str | None) -> StaticMask:
        region = region if region in self._region_bits else None
        if region not in self._static_masks:
            rows = np.arange(len(self._upload_ms))
            context = RuleContext(seen=NOBODY, region=region, facts=self._facts, region_bits=self._region_bits)
            removed = [rule.removes(rows, context) for rule in self._static_rules]
            self._static_masks[region] = StaticMask(~np.any(removed, axis=0) if removed else np.ones(len(rows), bool))
        return self._static_masks[region]


class Copies:
    """Groups of videos with the same fingerprint; 0 is none. Few videos of a large catalogue are in one."""

    def __init__(self, fingerprints: np.ndarray) -> None:
        prints, counts = np.unique(fingerprints, return_counts=True)
        self._prints = prints[(counts > 1) & (prints != 0)]
        rows = np.flatnonzero(np.isin(fingerprints, self._prints))
        self._rows = rows[np.argsort(fingerprints[rows], kind="stable")]
        self._starts = np.append(np.searchsorted(fingerprints[self._rows], self._prints), len(self._rows))
        self._group = np.full(len(fingerprints), -1, np.int32)
        self._group[self._rows] = np.searchsorted(self._prints, fingerprints[self._rows])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return all copies of `rows` (n,), the rows themselves included."""
        groups = self._group[rows]
        groups = np.unique(groups[groups >= 0])
        return np.concatenate([NOBODY, *(self._rows[self._starts[g] : self._starts[g + 1]] for g in groups)])

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions in `rows`, ascending, whose content does not repeat an earlier one."""
        if not len(self._rows):
            return np.arange(len(rows))
        groups = self._group[rows]
        keys = np.where(groups < 0, -1 - np.arange(len(rows)), groups)
        return np.sort(np.unique(keys, return_index=True)[1])

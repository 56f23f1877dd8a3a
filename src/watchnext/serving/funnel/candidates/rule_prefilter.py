"""Pre-filter the vector search by the rules of re-ranking, so that all the videos it returns are usable.

The rules still decide in re-ranking. Rules that depend only on region and age are evaluated once, over the whole catalogue, and
again for videos that are posted or changed.
"""

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from watchnext.reranking.rules.registry import Rule
from watchnext.reranking.rules.rule import CatalogueFacts, RuleContext
from watchnext.reranking.rules.safety import SafetyFilter
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.retrieval.sources.changes import ByUpload, CatalogueChanges, unchanged
from watchnext.retrieval.sources.refreshed import Refreshed
from watchnext.types import Query, first_of

NOBODY = np.zeros(0, np.int64)
UPLOADED_S = 300.0  # after which what is uploaded is marked anew


class RulePreFilter:
    """Compute which videos a viewer may get. Safe to call from any thread.

    rules    as configured; a rule that is not among them excludes nothing
    changes  () > the videos that were posted or changed; `facts` has room for them
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        facts: CatalogueFacts,
        region_bits: Mapping[str, int],
        *,
        changes: Callable[[], CatalogueChanges] = unchanged,
    ) -> None:
        by_name = {rule.name: rule for rule in rules}
        self._static_rules = [by_name[name] for name in ("safety", "region") if name in by_name]
        self._safety = by_name.get("safety", SafetyFilter(highest="mature"))
        self._excludes_unavailable, self._excludes_seen = "unavailable" in by_name, "seen" in by_name
        duplicate = by_name.get("duplicate")
        self._excludes_copies_of_seen = duplicate is not None and duplicate.of_seen
        self._copies = Copies(facts.fingerprints if duplicate else NOBODY, changes if duplicate else unchanged)
        self._facts, self._region_bits, self._changes = facts, region_bits, changes
        self._by_upload = ByUpload(facts.upload_ms, changes)
        self._uploaded = Refreshed(self._uploaded_by, refresh_s=UPLOADED_S)
        self._static_masks: dict[tuple[str | None, bool], tuple[StaticMask, RuleContext]] = {}
        self._version, self._updating = changes().version, threading.Lock()

    def of(self, query: Query, *, unavailable: np.ndarray) -> PreFilter:
        """Return the videos that the viewer may get; one uploaded after the request does not exist yet."""
        until_ms, uploaded = self._uploaded.of(query.as_of_ms)
        soon = self._by_upload.between(np.nextafter(query.as_of_ms, np.inf), np.nextafter(until_ms, np.inf))
        excluded = [query.excluded, soon, self._changes().between(np.nextafter(until_ms, np.inf), np.inf)]
        if self._excludes_unavailable:
            excluded.append(np.flatnonzero(unavailable))
        if self._excludes_seen:
            excluded.append(query.seen)
        if self._excludes_copies_of_seen:
            excluded.append(self._copies.of(query.seen))
        return PreFilter(self.static_mask(query.region, query.age), np.concatenate(excluded).astype(np.int64), uploaded)

    def refresh(self, as_of_ms: float) -> PreFilter:
        """Mark anew what is uploaded, before a request would, and return the videos that everyone may get."""
        return PreFilter(self.static_mask(None), NOBODY, self._uploaded.refresh(as_of_ms)[1])

    def _uploaded_by(self, as_of_ms: float) -> tuple[float, StaticMask | None]:
        """Return a time, and the videos uploaded by then, None for all. A request hides those between its time and that one."""
        until_ms = as_of_ms + 1000.0 * UPLOADED_S
        later = self._facts.upload_ms > until_ms
        return until_ms, StaticMask(~later) if later.any() else None

    def without_copies(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions in `rows` (n,), best first, without copies of better ones if a rule excludes copies."""
        return self._copies.first(rows)

    def static_mask(self, region: str | None, age: str | None = None) -> StaticMask:
        """Return the videos that the rules allow to everyone of an age in a region, None for unknown.

        Videos that are changed later change it in place. Ages under one policy share a mask.
        """
        key = region if region in self._region_bits else None, self._safety.action(region, age) == "drop"
        if key not in self._static_masks or self._version != self._changes().version:
            with self._updating:
                self._update()
                if key not in self._static_masks:
                    context = RuleContext(seen=NOBODY, region=region, age=age, facts=self._facts, region_bits=self._region_bits)
                    allowed = self._allowed(context, np.arange(len(self._facts.upload_ms)))
                    self._static_masks[key] = StaticMask(allowed), context
        return self._static_masks[key][0]

    def in_one_slate(self, region: str | None, age: str | None, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of `rows`, best first, that the rules allow to everyone of an age in a region, in one slate."""
        mask = self.static_mask(region, age).mask[rows]
        context = RuleContext(seen=NOBODY, region=region, age=age, facts=self._facts, region_bits=self._region_bits)
        mask[mask] = ~self._safety.beyond(rows[mask], context)
        return mask

    def _update(self) -> None:
        """Evaluate the rules again for the videos that changed. The index compares these one by one, by the mask itself."""
        changes = self._changes()
        rows = changes.latest if changes.version == self._version + 1 else changes.rows
        for static, context in self._static_masks.values():
            static.mask[rows] = self._allowed(context, rows)
        self._version = changes.version

    def _allowed(self, context: RuleContext, rows: np.ndarray) -> np.ndarray:
        removed = [rule.removes(rows, context) for rule in self._static_rules]
        return ~np.any(removed, axis=0) if removed else np.ones(len(rows), bool)


class Copies:
    """Videos by fingerprint (V,), equal for copies of the same content; 0 is none."""

    def __init__(self, fingerprints: np.ndarray, changes: Callable[[], CatalogueChanges] = unchanged) -> None:
        self._fingerprints, self._changes = fingerprints, changes
        rows = np.flatnonzero(fingerprints[: changes().released])
        self._rows = rows[np.argsort(fingerprints[rows], kind="stable")]
        self._prints = fingerprints[self._rows]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return all videos with the content of one of `rows` (n,), the rows themselves included; of those without a
        fingerprint nothing is known."""
        changes = self._changes()
        if not len(self._fingerprints) or not len(prints := self._known(rows)):
            return NOBODY
        first, end = (np.searchsorted(self._prints, prints, side) for side in ("left", "right"))
        counts = end - first
        found = self._rows[np.repeat(end - np.cumsum(counts), counts) + np.arange(counts.sum())]
        if not len(changes.rows):
            return found
        later = changes.rows[np.isin(self._fingerprints[changes.rows], prints)]
        return np.concatenate([found[~changes.changed[found]], later])

    def _known(self, rows: np.ndarray) -> np.ndarray:
        prints = self._fingerprints[rows]
        return np.unique(prints[prints != 0])

    def first(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions in `rows`, ascending, whose content does not repeat an earlier one."""
        if not len(self._fingerprints):
            return np.arange(len(rows))
        prints = self._fingerprints[rows]
        is_first = prints == 0
        is_first[first_of(prints)] = True
        return np.flatnonzero(is_first)

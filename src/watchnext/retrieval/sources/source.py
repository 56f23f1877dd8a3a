"""Interface of candidate sources, and sources without a model or graph: fresh uploads, followed creators, continue watching."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from watchnext.features.state.counters import LN2
from watchnext.features.state.fold import HOUR_MS
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.kernels import kernel
from watchnext.retrieval.sources.changes import ByUpload, CatalogueChanges, last, unchanged
from watchnext.retrieval.sources.refreshed import Refreshed
from watchnext.schema import StateSpec
from watchnext.types import Query, among, descending, first_of


class CandidateSource(Protocol):
    """Propose videos for a request. Thread-safe."""

    def candidates(self, query: Query, k: int) -> np.ndarray:
        """Return at most `k` distinct rows, int64, best first; possibly none."""


@runtime_checkable
class RefreshedSource(Protocol):
    """Rank the whole catalogue now and then. `refresh` does so ahead of the requests, which otherwise wait for it."""

    def refresh(self, as_of_ms: float) -> None:
        """Rank as of a time."""


def eligible(rows: np.ndarray, k: int, *, hidden: np.ndarray, upload_ms: np.ndarray, as_of_ms: float) -> np.ndarray:
    """Return the first `k` of `rows` that are uploaded by `as_of_ms` (or at an unknown time) and not in `hidden` (sorted),
    without the padding -1."""
    out = np.empty(min(k, len(rows)), np.int64)
    return out[: _eligible(np.ascontiguousarray(rows, np.int64), hidden, upload_ms, as_of_ms, out)]


@kernel
def _eligible(rows, hidden, upload_ms, as_of_ms, out):
    """Write the first rows that pass into `out` until it is full, and return their number."""
    found = 0
    for i in range(len(rows)):
        if found == len(out):
            break
        if rows[i] < 0 or upload_ms[rows[i]] > as_of_ms:
            continue
        at = np.searchsorted(hidden, rows[i])
        if at == len(hidden) or hidden[at] != rows[i]:
            out[found] = rows[i]
            found += 1
    return found


def ranked(rows: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the best `k` scores, best first, ties by row, without sorting all."""
    if not 0 < k < len(rows):
        return descending(scores, rows)[:k]
    places = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return places[descending(scores[places], rows[places])][:k]


def distinct(rows: np.ndarray) -> np.ndarray:
    """Keep the first occurrence of each row."""
    return rows[first_of(rows)]


def interleaved(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Take rows of two lists in turn, each row once."""
    both = np.full((max(len(first), len(second)), 2), -1, np.int64)
    both[: len(first), 0], both[: len(second), 1] = first, second
    return distinct(both[both >= 0])


def slot_of(state: StateSpec, count: str, half_life_h: float | None = None) -> int:
    """Return the slot of a count in a counter block, by default at the longest half-life. Raises ValueError if absent."""
    wanted = max(state.half_lives_h) if half_life_h is None else half_life_h
    if count not in state.counts or wanted not in state.half_lives_h:
        raise ValueError(
            f"{count!r} at {wanted} h is not kept; the state has {', '.join(state.counts)} at {list(state.half_lives_h)} h"
        )
    return state.counts.index(count) * len(state.half_lives_h) + state.half_lives_h.index(wanted)


def decayed(
    records: np.ndarray, slot: int, as_of_ms: float, half_life_h: float, rows: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Read one count (n,) of the counter records (V, 1 + block) of `rows` (n,) as of a time; `slot` is its position in a
    record."""
    gap_ms = np.maximum(as_of_ms - records[rows, 0], 0.0)
    return records[rows, slot] * np.exp(-gap_ms * LN2 / (half_life_h * HOUR_MS))


NOTICED_S = 0.5  # a posted video may wait this long for its place in a list that is kept


class FreshSource:
    """Propose uploads younger than `max_age_h` with fewer than `min_impressions`, least exposed first; then the newest.

    Every upload is proposed until it has that many impressions; ranking and re-ranking decide whether to show it. Exposure is
    the video's impression counter at its longest half-life, so it decays slowly. The underexposed videos are refreshed every
    `refresh_s`; those that were posted or changed come first, and are refreshed every NOTICED_S. Videos of unknown upload time
    are not fresh.

    videos   () > the counters of all videos (V, 1 + block), as of now
    changes  () > the videos that were posted or changed
    """

    def __init__(
        self,
        *,
        upload_ms: np.ndarray,
        videos: Callable[[], np.ndarray],
        state: StateSpec,
        max_age_h: float,
        min_impressions: float,
        refresh_s: float,
        changes: Callable[[], CatalogueChanges] = unchanged,
    ) -> None:
        self._by_upload, self._videos, self._changes = ByUpload(upload_ms, changes), videos, changes
        self._slot = 1 + slot_of(state, "impression")
        self._half_life_h = max(state.half_lives_h)
        self._max_age_ms, self._fewest = max_age_h * HOUR_MS, min_impressions
        self._under = Refreshed(lambda at: self._underexposed(self._young(at), at), refresh_s=refresh_s)
        self._posted = Refreshed(lambda at: self._underexposed(self._young_posted(at), at), refresh_s=min(NOTICED_S, refresh_s))

    def candidates(self, query: Query, k: int) -> np.ndarray:
        under, posted = self._under.of(query.as_of_ms), self._posted.of(query.as_of_ms)
        newest = self._by_upload.between(-np.inf, query.as_of_ms, most=k)[::-1]
        return distinct(np.concatenate([posted[:k], under[:k], newest]))[:k]

    def refresh(self, as_of_ms: float) -> None:
        self._under.refresh(as_of_ms)

    def _young(self, as_of_ms: float) -> np.ndarray:
        return self._by_upload.between(as_of_ms - self._max_age_ms, as_of_ms)

    def _young_posted(self, as_of_ms: float) -> np.ndarray:
        return self._changes().between(as_of_ms - self._max_age_ms, as_of_ms)

    def _underexposed(self, young: np.ndarray, as_of_ms: float) -> np.ndarray:
        """Return those of the rows `young` (n,), oldest first, that have too few impressions, least exposed first."""
        young = young[::-1]
        shown = decayed(self._videos(), self._slot, as_of_ms, self._half_life_h, young)
        order = np.argsort(shown, kind="stable")  # ties: newer first
        return young[order][shown[order] < self._fewest]


class FollowedSource:
    """Propose the newest videos of creators the viewer follows (per the remembered watches), then of those liked most.

    At most `creators` creators with `per_creator` videos each, newest first. Videos of unknown creator or upload time are
    excluded.

    changes  () > the videos that were posted or changed
    """

    def __init__(
        self,
        *,
        creator_rows: np.ndarray,
        upload_ms: np.ndarray,
        per_creator: int,
        creators: int,
        changes: Callable[[], CatalogueChanges] = unchanged,
    ) -> None:
        released = slice(changes().released)
        known = np.flatnonzero((creator_rows[released] >= 0) & np.isfinite(upload_ms[released]))
        order = known[np.lexsort((-known, upload_ms[known], creator_rows[known]))]  # oldest first
        self._rows, self._uploads = order, upload_ms[order]
        self._starts = np.searchsorted(creator_rows[order], np.arange(creator_rows[order].max(initial=-1) + 2))
        self._creator_rows, self._upload_ms, self._changes = creator_rows, upload_ms, changes
        self._per_creator, self._creators = per_creator, creators

    def candidates(self, query: Query, k: int) -> np.ndarray:
        changes = self._changes()
        later = changes.rows[: np.searchsorted(changes.uploads, query.as_of_ms)]
        of = self._creator_rows[later]
        lists = [
            self._newest(creator, query.as_of_ms, later[of == creator], changes) for creator in self._chosen(query).tolist()
        ]
        rows = np.concatenate([np.zeros(0, np.int64), *lists])
        return rows[np.lexsort((rows, -self._upload_ms[rows]))][:k]

    def _chosen(self, query: Query) -> np.ndarray:
        """Return followed creators, latest first, then the most liked."""
        followed = self._creator_rows[query.history_rows[query.bits & OUTCOME_BITS["follow"] > 0]]
        liked = query.engagement > 0
        best = query.creators[liked][np.argsort(-query.engagement[liked], kind="stable")]
        return distinct(np.concatenate([followed[followed >= 0], best]))[: self._creators]

    def _newest(self, creator: int, as_of_ms: float, later: np.ndarray, changes: CatalogueChanges) -> np.ndarray:
        """Return a creator's last uploads strictly before `as_of_ms`; `later` (n,) are those that were posted or changed."""
        first, end = self._starts[min(creator, len(self._starts) - 1)], self._starts[min(creator + 1, len(self._starts) - 1)]
        uploaded = self._rows[first : first + np.searchsorted(self._uploads[first:end], as_of_ms)]
        rows = last(uploaded, self._per_creator + changes.replaced)
        if len(changes.rows):
            rows = np.concatenate([rows[~changes.changed[rows]], later])
            rows = rows[np.lexsort((-rows, self._upload_ms[rows]))]
        return last(rows, self._per_creator)


class ContinueSource:
    """Propose partially watched videos, latest first: watched for at least `min_s` but less than `max_share` of the duration,
    at most `max_age_h` ago. The latest watch of a video counts. Hidden videos and videos of unknown duration are excluded."""

    def __init__(self, *, duration_ms: np.ndarray, min_s: float, max_share: float, max_age_h: float) -> None:
        self._duration_ms = duration_ms
        self._min_s, self._max_share, self._max_age_s = min_s, max_share, max_age_h * 3600.0

    def candidates(self, query: Query, k: int) -> np.ndarray:
        watches = np.flatnonzero(query.watch_s > 0)
        last = watches[first_of(query.history_rows[watches])]
        rows, watch_s = query.history_rows[last], query.watch_s[last]
        duration_s = np.nan_to_num(self._duration_ms[rows]) / 1000.0
        midway = (watch_s >= self._min_s) & (watch_s < self._max_share * duration_s)
        hidden = among(rows, np.sort(query.history_rows[query.bits & OUTCOME_BITS["hide"] > 0]))
        return rows[midway & ~hidden & (query.ago_s[last] <= self._max_age_s)][:k]

"""Apply the events of a held-out log to a store, as far as the freshness regime allows for each request."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from watchnext.data.tables import OUTCOMES, known_at
from watchnext.features.state.event_order import in_order
from watchnext.features.state.fold import SHOWN
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event


@contextmanager
def fresh_store(release: Release) -> Iterator[Store]:
    """Yield a store with the state of a release, in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="watchnext-evaluation-") as folder:
        store = Store.open(Path(folder), release, durable=False)
        try:
            yield store
        finally:
            store.close()


def events_of(impressions: pl.DataFrame, since_ms: int = 0) -> list[Event]:
    """Return the events of the impressions in fold order, without those known before `since_ms`."""
    later = impressions.filter(known_at() >= since_ms)
    times = later.select("time_ms", known_at()).cast(pl.Float64)
    ids, at = in_order(*(times[name].to_numpy() for name in times.columns))
    rows = later.select("user_id", "video_id", pl.col("surface").fill_null(""), "watch_ms", *OUTCOMES).rows()
    chosen = at >= since_ms
    return [_event(rows[id >> 1], id & 1, known) for id, known in zip(ids[chosen].tolist(), at[chosen].tolist(), strict=True)]


def _event(row: tuple, kind: int, at: float) -> Event:
    user_id, video_id, surface, watch_ms, *flags = row
    shared = {"user_id": user_id, "video_id": video_id, "surface": surface, "known_at": int(at)}
    if kind == SHOWN:
        return Event(kind="shown", **shared)
    return Event(kind="outcome", watch_ms=watch_ms, **shared, **dict(zip(OUTCOMES, flags, strict=True)))


class EventStream:
    """Hold the events of the days read so far that no request has seen yet."""

    def __init__(self, store: Store, *, regime: str) -> None:
        self._store, self._regime = store, regime
        self._events: list[Event] = []
        self._next, self._days_ms = 0, np.zeros(0)

    def add(self, events: list[Event], days_ms: np.ndarray) -> None:
        """Add the events of later impressions, in fold order; `days_ms` (n,) are the first times of their days, ascending."""
        if self._regime != "frozen":
            left = [*self._events[self._next :], *events]
            self._events, self._next = sorted(left, key=lambda event: event.known_at), 0  # stable: ties stay by row
        self._days_ms = days_ms if len(days_ms) else self._days_ms

    def advance(self, as_of_ms: int) -> None:
        """Apply every event that a request at `as_of_ms` may see."""
        until = as_of_ms
        if self._regime == "daily":
            until = self._days_ms[np.searchsorted(self._days_ms, as_of_ms, side="right") - 1]
        end = self._next
        while end < len(self._events) and self._events[end].known_at < until:
            end += 1
        if end > self._next:
            self._store.apply(self._events[self._next : end])
            self._next = end

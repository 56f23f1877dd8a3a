"""The online store: records of viewers, videos and creators, folded event by event, and the journal of these events."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.serving.release.live_catalogue import LiveIds
from watchnext.serving.release.release import Release
from watchnext.serving.store.building.opening import build, build_shared, opened, opened_for_reading, opened_shared
from watchnext.serving.store.engines.engine import CHUNK, Changes, Engine, Listener, Transaction, batched, number_key
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import locked
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.erasure import (
    KEYS_STAY,
    PAGES_STAY,
    STATES_STAY,
    UNTIL_COMPACTED,
    UNTIL_FOLLOWED,
    Receipt,
    erase_again,
    erase_here,
    erase_viewer,
)
from watchnext.serving.store.folding import Folding
from watchnext.serving.store.reading import Reading
from watchnext.serving.store.tables.item_records import ItemRecords
from watchnext.serving.store.tables.journal import Event, encoded, event_of, id_of, latest_of
from watchnext.serving.store.tables.live_videos import changes_catalogue, live_catalogue, take_changes
from watchnext.serving.store.tables.meta import journal_length, meta_number
from watchnext.serving.store.tables.retention import ACCEPTED, UNKNOWN, Bounds, Retention, queue_viewers
from watchnext.serving.store.tables.seal import SEAL_BYTES, sealed, unsealed
from watchnext.serving.store.tables.slate_table import SlateTable
from watchnext.serving.store.tables.trending_now import TrendingNow

CATCH_UP_EVENTS = 1_000_000  # of the journal, counted again for trending when a store is opened


class Store(Reading):
    """Records, journal, and the keys that keep events from counting twice; made by `Store.open`. Any thread may call it.

    catalogue                                            the videos of the release, and those that were posted since
    videos (V, layout.item), creators (R, layout.item)   float64, as of the last commit; other threads read them by `counters`
                                                         and `video_records`, never half of a commit
    unavailable (V,) bool                                withdrawn since the release was built
    slates                                               computed ahead of time
    trending                                             counts by surface and region, as of the last commit
    known_beside                                         ids of the videos of a challenger that follows the journal: events
                                                         about them are accepted too, and count in its store alone
    """

    def __init__(self, engine: Engine, release: Release, lock: IO | None = None, bounds: Bounds | None = None) -> None:
        self._engine, self._lock = engine, lock
        self._as_of_ms = release.as_of_ms
        self.layout: Layout = release.layout
        self._applied: dict[bytes, Event] = {}  # events of the transaction under way, so that `publish` decodes them not again
        self._retention = Retention(self.layout, release.as_of_ms, bounds or Bounds())
        position = journal_length(engine)
        self.catalogue = live_catalogue(engine, release, room=self._retention.bounds.live_videos)
        self._writing = threading.Lock()
        room, creators = self.catalogue.room, max(len(release.catalogue.creator_names), 1)
        self._items = ItemRecords(self.layout, videos=len(release.catalogue) + room, creators=creators + room)
        self._folding = Folding(engine, release, self.catalogue, self._items)
        self.trending = TrendingNow(release, room=room)
        self.slates = SlateTable(engine)
        self.known_beside: LiveIds | None = None
        self.position = self.last_known_at = 0
        self._differs, self._erases = False, True
        self._load()
        self._follow_catalogue([event for at, event in self.entries(position) if at < self.position])  # made meanwhile
        self._loaded = self.position
        engine.listeners.append(self)

    @classmethod
    def open(
        cls,
        folder: Path | str,
        release: Release,
        *,
        durable: bool = True,
        map_bytes: int = MAP_BYTES,
        bounds: Bounds | None = None,
    ) -> "Store":
        """Open the store in a folder or at a URL of Redis; take over one that was built beside it for the release, or build the
        first from the release's state.

        Raises StoreError for a store of another schema or catalogue, and StoreDamagedError for a damaged one, if it is to be
        `durable`; others are not searched for damages.
        """
        if is_url(folder):
            return cls._open_shared(str(folder), release, durable=durable, bounds=bounds)
        folder = Path(folder)
        lock = locked(folder)
        try:
            environment = opened(folder, release, _replayed, durable=durable, map_bytes=map_bytes)
            return cls._caught_up(environment, release, lock, bounds)
        except BaseException:
            lock.close()
            raise

    @property
    def origin(self) -> tuple[str, int]:
        """Return the release from whose state the records were folded, and from when on events count on top of it, in ms."""
        return (self._engine.get("meta", b"release") or b"").decode(), meta_number(self._engine, "since")

    @classmethod
    def reader(cls, folder: Path | str, release: Release, *, map_bytes: int = MAP_BYTES) -> "Store":
        """Open the store for reading alone, beside the process that writes it; records of videos and creators stay as of now.

        Raises StoreError for a missing store, or one of another schema or catalogue.
        """
        engine = opened_for_reading(folder, release, map_bytes=map_bytes)
        return cls._caught_up(engine, release, None, None)

    @classmethod
    def _open_shared(cls, url: str, release: Release, *, durable: bool, bounds: Bounds | None) -> "Store":
        engine = opened_shared(url, release, _replayed, durable=durable)
        try:
            store = cls._caught_up(engine, release, None, bounds)
            engine.follow()
            store.catch_up()
            engine.start()
            return store
        except BaseException:
            engine.close()
            raise

    def reopened(self, release: Release) -> "Store":
        """Return a store over the same records for another release of the same state."""
        store = Store._caught_up(self._engine, release, self._lock, self._retention.bounds)
        store.follow(self)
        return store

    def beside(self, environment: Environment, release: Release) -> "Store":
        """Return a store over another environment of the same folder, which takes its lock over."""
        return Store._caught_up(environment, release, self._lock, self._retention.bounds)

    def at(self, url: str, release: Release) -> "Store":
        """Return a store in the same Redis for a release of another state."""
        return Store.open(url, release, bounds=self._retention.bounds)

    @classmethod
    def _caught_up(cls, engine: Engine, release: Release, lock: IO | None, bounds: Bounds | None) -> "Store":
        store = cls(engine, release, lock, bounds)
        store._catch_up()
        return store

    def close(self, *, successor: "Store | None" = None) -> None:
        """Release the folder; acknowledged events are on disk already. A second call does nothing.

        What a `successor` uses stays open. Raises StoreError where the disk fails.
        """
        with self._writing:
            if self in self._engine.listeners:
                self._engine.listeners.remove(self)
            try:
                if successor is None or successor._engine is not self._engine:
                    self._engine.close()
            finally:
                if self._lock is not None and (successor is None or successor._lock is not self._lock):
                    self._lock.close()

    @property
    def is_shared(self) -> bool:
        """Return True where other processes write too, and a read goes over a network."""
        return self._engine.is_shared

    @property
    def behind_s(self) -> float:
        """Return the seconds since the moment as of which all that other processes committed is in memory."""
        return self._engine.behind_s

    @property
    def listeners(self) -> list[Listener]:
        """Return the list of what every commit is handed to, in this order."""
        return self._engine.listeners

    @property
    def failed(self) -> str | None:
        """Return the message of the write that failed and ended all writing, else None."""
        return self._engine.failed

    def require_writable(self) -> None:
        """Raise StoreError after a failed write."""
        self._engine.require_writable()

    def warm(self) -> None:
        """Compile the fold before the first event needs it."""
        self._folding.warm()

    # ---- write -------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[Event]) -> list[str]:
        """Fold `events` in their order, in one transaction: ACCEPTED, DUPLICATE or UNKNOWN (video) for each.

        When it returns, they are on disk. When it raises StoreError, none was stored. Events that post or change videos come in
        calls of their own, perhaps with withdrawals and restorations: CREATED for a video that was not known.
        """
        if changes_catalogue(events):
            return self._apply_to_catalogue(events)
        video_ids = [event.video_id for event in events]
        rows = self.catalogue.ids.rows(video_ids)
        known = rows if self.known_beside is None else np.maximum(rows, self.known_beside.rows(video_ids))
        with self._writing, self._changing(), self._engine.write() as txn:
            results = self._retention.admit(txn, events, known)
            chosen = [i for i, result in enumerate(results) if result == ACCEPTED]
            accepted = [events[i] for i in chosen]
            own = [i for i in chosen if rows[i] >= 0]
            late = self._folding.fold_behind(txn, [events[i] for i in own], rows[own])
            packed = encoded(accepted)
            self._applied = dict(zip(packed, accepted, strict=True))
            txn.append_many("journal", packed, sealed)
            self._retention.drop_excess(txn, len(accepted) + late, results.count(UNKNOWN))
            if accepted:
                self._folding.mark_folded(txn, accepted, txn.end("journal"))
        self._applied = {}
        return results

    def _apply_to_catalogue(self, events: Sequence[Event]) -> list[str]:
        self.catch_up()
        with self._writing, self._changing(), self._engine.write() as txn:
            self._folding.fold_behind(txn)
            results = self._folding.fold_catalogue(txn, events, self.known_beside)
            accepted = [event for event, result in zip(events, results, strict=True) if result != UNKNOWN]
            for event in accepted:
                txn.append_many("journal", [event.to_bytes()], sealed)
            if accepted:
                self._folding.mark_folded(txn, accepted, txn.end("journal"))
        return results

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Mark that what is stored and what is in memory differ."""
        self._differs = True
        try:
            yield
        finally:
            self._differs = False

    @property
    def settled(self) -> int | None:
        """Return the number of events that every read has in it, None while a commit changes that, or other processes commit.
        What was read between two equal numbers is the state after so many events."""
        return None if self._differs or self._engine.is_shared else self.position

    def erase(self, user_id: int | str, now_ms: int) -> Receipt:
        """Erase a viewer: record, what they have seen, slate, and who the events were about. Raises StoreError."""
        removed = erase_viewer(self._engine, [user_id], now_ms)
        if self.is_shared:
            return Receipt("store", removed, f"{KEYS_STAY}; {STATES_STAY}", UNTIL_FOLLOWED)
        return Receipt("store", removed, f"{KEYS_STAY}; {PAGES_STAY}", UNTIL_COMPACTED)

    def publish(self, changes: Changes) -> None:
        """Bring the memory up to date with one commit, of this process or of another that shares the store."""
        self._items.publish(changes)
        self._erases |= "erased" in changes
        positions = [(int.from_bytes(key, "big"), key, packed) for key, packed in changes.get("journal", ())]
        if journal := [(key, packed) for position, key, packed in positions if position >= self.position]:
            if (first := int.from_bytes(journal[0][0], "big")) > self.position:  # made while this store was loading
                self._count_until(first)
            self._count([self._applied.get(packed[:-SEAL_BYTES]) or event_of(key, packed) for key, packed in journal])
            self.position = int.from_bytes(journal[-1][0], "big") + 1

    def _count_until(self, end: int) -> None:
        missed = (event for at, event in self.entries(self.position) if at < end)
        for part in batched(missed, CHUNK):
            self._count(part)

    def _count(self, events: Sequence[Event]) -> None:
        """Let events of the journal act on the catalogue, and on what is available and trending."""
        self.last_known_at = max(self.last_known_at, *(event.known_at for event in events))
        if not (events := [event for event in events if event.kind != "shown"]):  # which counts in the records alone
            return
        self._follow_catalogue(events)
        rows = self.catalogue.ids.rows([event.video_id for event in events])
        known = [(event, row) for event, row in zip(events, rows.tolist(), strict=True) if row >= 0]
        for event, row in known:
            if event.kind in ("withdrawn", "restored", "posted"):
                self._items.unavailable[row] = event.kind == "withdrawn"
        self.trending.add([event for event, _ in known], rows[rows >= 0])

    def _follow_catalogue(self, events: Sequence[Event]) -> None:
        """Let the catalogue follow what `events` of the journal posted and changed in the tables."""
        if changed := [event.video_id for event in events if event.kind in ("posted", "changed")]:
            with self._engine.read() as txn:
                take_changes(txn, self.catalogue, changed, self._as_of_ms)

    # ---- load --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        with self._engine.read() as txn:
            self._items.load(txn)
            self._load_withdrawn(txn)
        if not self._engine.readonly:
            queue_viewers(self._engine)
        self.position = journal_length(self._engine)
        self.last_known_at = meta_number(self._engine, "last_known_at")

    def _load_withdrawn(self, txn: Transaction) -> None:
        keys = [key for key, packed in txn.items("withdrawn") if unsealed("withdrawn", key, packed)]
        withdrawn = self.catalogue.ids.rows([*map(id_of, keys)])
        self.unavailable[:] = np.isin(np.arange(len(self.unavailable)), withdrawn)

    def reload(self) -> None:
        """Load everything again, and count the events of the journal that came meanwhile."""
        position = self.position
        self._load()
        self._erases = True
        self.position, end = position, self.position
        self._count_until(end)
        self.position = end

    def _catch_up(self) -> None:
        """Count the recent events of the journal for trending, at most CATCH_UP_EVENTS."""
        since_ms = self.trending.since_ms(self.last_known_at)
        with self._engine.read() as txn:
            for part in batched(latest_of(txn, self._loaded, since_ms, CATCH_UP_EVENTS), CHUNK):
                rows = self.catalogue.ids.rows([event.video_id for event in part])
                self.trending.add([event for event, row in zip(part, rows, strict=True) if row >= 0], rows[rows >= 0])

    def replay(self) -> int:
        """Fold the journal on top of the state that the store was built from; return the number of events folded.

        It skips events known before `since` in `meta`, because the folded log holds them, events about removed videos, and
        events of viewers with the other kind of id. A second call continues after `replayed` in `meta`.
        """
        start, folded = meta_number(self._engine, "replayed"), 0
        for part in batched(self.entries(start), CHUNK):
            for changes, run in groupby(part, key=lambda entry: changes_catalogue([entry[1]])):
                positions, events = zip(*run, strict=True)
                folded += self._replay(events, positions[-1] + 1, changes_videos=changes)
        return folded

    def _replay(self, events: Sequence[Event], end: int, *, changes_videos: bool) -> int:
        """Fold events of the journal before position `end`; return the number of those that count."""
        with self._engine.write() as txn:
            foldable, rows = self._folding.foldable(txn, events)
            if changes_videos:
                self._folding.fold_catalogue(txn, foldable)
            else:
                self._folding.fold(txn, foldable, rows)
            txn.put("meta", b"replayed", number_key(end))
            self._folding.mark_folded(txn, events, end)
        if changes_videos:
            self._follow_catalogue(foldable)
            with self._engine.read() as txn:
                self._load_withdrawn(txn)
        return len(foldable)

    def follow(self, earlier: "Store") -> int:
        """Take over what the `earlier` store accepted since this one was opened, or since the last call; return the number of
        events. Call it until few are left, and once more while nothing is committed."""
        if self._engine is earlier._engine:  # which hands every commit to both, but for those made while this one was loading
            with self._engine.sequence:
                self._items.mirror(earlier._items)
                self._count_until(earlier.position)
                self.position = max(self.position, earlier.position)
            return 0
        taken = 0
        for part in batched(earlier.entries(self.position), CHUNK):
            self.take(part)
            taken += len(part)
        return taken

    def take(self, entries: Sequence[tuple[int, Event]]) -> None:
        """Append events of another store's journal at their positions, and fold them."""
        with self._changing():
            self._copy(entries)
            self.replay()

    def _copy(self, entries: Sequence[tuple[int, Event]]) -> None:
        """Append events that another store accepted to the journal, at their positions, and remember their keys."""
        with self._writing, self._engine.write() as txn:
            self._retention.remember(txn, [event for _, event in entries])
            for position, event in entries:
                key = number_key(position)
                txn.put("journal", key, sealed(key, event.to_bytes()))
            self._retention.drop_excess(txn, len(entries), 0)
            self._folding.mark_folded(txn, [event for _, event in entries], entries[-1][0] + 1)

    def erase_again(self, earlier: "Store") -> None:
        """Erase the viewers who were erased from the `earlier` store since this one was built."""
        if self._engine is not earlier._engine:
            erase_again(earlier._engine, self._engine)

    def take_quarantine(self, earlier: "Store") -> None:
        """Replace the quarantined events by those of the `earlier` store."""
        if self._engine is not earlier._engine:
            with earlier._engine.read() as source, self._engine.write() as txn:
                txn.clear("quarantine")
                txn.put_many("quarantine", list(source.items("quarantine")))

    def catch_up(self) -> None:
        """Fold the events of the journal that servers of another catalogue wrote to the store that they share; then erase whom
        they erased, whose last events may be among these."""
        while self._engine.is_shared and meta_number(self._engine, "folded") < journal_length(self._engine):
            with self._writing, self._engine.write() as txn:
                self._retention.drop_viewers(txn, 2 * self._folding.fold_behind(txn))
        if self._engine.is_shared and self._erases:
            self._erases = False
            try:
                erase_here(self._engine)
            except BaseException:
                self._erases = True
                raise


def build_store(folder: Path | str, release: Release, *, map_bytes: int = MAP_BYTES) -> int:
    """Rebuild the store for a release: its folded state, then the journal from its `as_of` on. The old store stays until then.

    The old store may be damaged. Returns the number of its events that are and were left out.
    Raises StoreError while a server holds the store: events that it acknowledges meanwhile would be lost. Servers that share a
    Redis go on: those of the same state answer cold slates, and 503 to events, until it is built.
    """
    if is_url(folder):
        build_shared(str(folder), release, _replayed, durable=True)
        return 0
    lock = locked(folder)
    try:
        return build(Path(folder), release, _replayed, durable=True, map_bytes=map_bytes)
    finally:
        lock.close()


def _replayed(engine: Engine, release: Release) -> None:
    Store(engine, release).replay()

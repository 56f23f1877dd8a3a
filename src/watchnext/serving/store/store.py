"""The online store: records of viewers, videos and creators, folded event by event, and the journal of these events."""

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice, takewhile
from pathlib import Path
from typing import IO

import numpy as np

from watchnext.features.state import counters, history
from watchnext.features.state.fold import OUTCOME, SHOWN, Layout, fold_event, read_candidates
from watchnext.features.state.seen import SeenSet, days_of, keys_of
from watchnext.files import link
from watchnext.serving.release.release import Release
from watchnext.serving.store.bootstrap import (
    CHUNK,
    carry,
    journal_length,
    load_state,
    meta_number,
    put_meta,
    put_origin,
    salvage,
)
from watchnext.serving.store.engines.engine import (
    REPAIR,
    TABLES,
    Changes,
    Engine,
    StoreError,
    Transaction,
    batched,
    number_key,
    state_of,
)
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment, lengthened
from watchnext.serving.store.engines.folder import claim_next, clear, commit_claim, locked, new_environment
from watchnext.serving.store.engines.redis_engine import RedisEngine, is_url
from watchnext.serving.store.erasure import (
    KEYS_STAY,
    OF_VIEWER,
    PAGES_STAY,
    UNTIL_COMPACTED,
    Receipt,
    drop_erased,
    erase_again,
    erase_viewer,
    is_erased,
)
from watchnext.serving.store.integrity import require_sound
from watchnext.serving.store.tables.journal import SESSION_KEYS, VIEWERLESS, Event, id_key, id_of, is_session, outcome_columns
from watchnext.serving.store.tables.live_videos import LiveDraft, changes_catalogue, live_catalogue, take_changes
from watchnext.serving.store.tables.recent_keys import EventKeys, RecentKeys
from watchnext.serving.store.tables.records import Records, queued, seen_of, unpacked
from watchnext.serving.store.tables.seal import SEAL_BYTES, sealed, unsealed
from watchnext.serving.store.tables.slate_table import SlateTable
from watchnext.serving.store.tables.trending_now import TrendingNow

log = logging.getLogger(__name__)

ACCEPTED, DUPLICATE, UNKNOWN, CREATED = "accepted", "duplicate", "unknown", "created"
HOUR_MS = 3_600_000
KEYS_KEPT, KEYS_KEPT_MS = 10_000_000, 7 * 24 * HOUR_MS  # a client may repeat an event for this long
SHOWN_KEPT, SHOWN_KEPT_MS = 1_000_000, 24 * HOUR_MS
VIEWERS_KEPT, JOURNAL_BYTES, LIVE_VIDEOS = 2_000_000, 4 << 30, 100_000
QUARANTINE_KEPT = 10_000
NO_ROWS = np.zeros(0, np.int64)
CATCH_UP_EVENTS = 1_000_000  # of the journal, counted again for trending when a store is opened


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bound what a store keeps.

    viewers        number of records; above it those without a recent event go, and before all others those without a watch
    journal_bytes  size of the journal: above it the oldest events go that the release holds; the others always stay
    live_videos    number of videos that are posted or changed between two releases; more are refused
    """

    viewers: int = VIEWERS_KEPT
    journal_bytes: int = JOURNAL_BYTES
    live_videos: int = LIVE_VIDEOS


class Store:
    """Records, journal, and the keys that keep events from counting twice; made by `Store.open`. Any thread may call it.

    catalogue                                            the videos of the release, and those that were posted since
    videos (V, layout.item), creators (R, layout.item)   float64, as of the last commit; other threads read them by `counters`
                                                         and `video_records`, never half of a commit
    unavailable (V,) bool                                withdrawn since the release was built
    slates                                               computed ahead of time
    trending                                             counts by surface and region, as of the last commit
    """

    def __init__(self, engine: Engine, release: Release, lock: IO | None = None, bounds: Bounds | None = None) -> None:
        self._engine, self._lock, self._bounds = engine, lock, bounds or Bounds()
        self._as_of_ms = release.as_of_ms
        self.layout: Layout = release.layout
        self._counts = release.pipeline.schema.state.counts
        self._user_ids, position = release.user_ids, journal_length(engine)
        self.catalogue = live_catalogue(engine, release, room=self._bounds.live_videos)
        self._writing, self._publishing = threading.Lock(), threading.Lock()
        self._keys = EventKeys(
            keys=RecentKeys("keys", limit=KEYS_KEPT, keep_ms=KEYS_KEPT_MS),
            shown=RecentKeys("shown", limit=SHOWN_KEPT, keep_ms=SHOWN_KEPT_MS),
        )
        self._applied: dict[bytes, Event] = {}  # events of the transaction under way, so that `publish` decodes them not again
        # Rows that no video or creator has yet take no memory.
        room, creators = self.catalogue.room, max(len(release.catalogue.creator_names), 1)
        self._videos = np.zeros((len(release.catalogue) + room, self.layout.item))
        self._creators = np.zeros((creators + room, self.layout.item))
        self._unavailable = np.zeros(len(self._videos), bool)
        self.trending = TrendingNow(release, room=room)
        self.slates = SlateTable(engine)
        self.position = self.last_known_at = 0
        self._differs = False
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
            _take_over(folder, release, durable=durable, map_bytes=map_bytes)
            if not os.path.lexists(folder / "current"):
                log.info("no store in %s yet: building it from the release %s", folder, release.id)
                _build(folder, release, durable=durable, map_bytes=map_bytes)
            elif durable:
                require_sound(folder / "current")
            environment = Environment(folder / "current", durable=durable, map_bytes=map_bytes)
            if (held := state_of(environment)) != release.state_fingerprint:
                environment.close()
                raise misfit(folder, held, release.id, release.state_fingerprint)
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
        if is_url(folder):
            engine = RedisEngine(str(folder), state=release.state_fingerprint, durable=False)
        else:
            engine = Environment(Path(folder) / "current", durable=False, map_bytes=map_bytes, readonly=True)
        if (held := state_of(engine)) != release.state_fingerprint:
            engine.close()
            raise misfit(folder, held, release.id, release.state_fingerprint)
        return cls._caught_up(engine, release, None, None)

    @classmethod
    def _open_shared(cls, url: str, release: Release, *, durable: bool, bounds: Bounds | None) -> "Store":
        engine = RedisEngine(url, state=release.state_fingerprint, durable=durable)
        try:
            if state_of(engine) != release.state_fingerprint:
                log.info("no state for %s in %s yet: building it", release.id, engine.shown)
                _build_shared(url, release, durable=durable)
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
        return Store._caught_up(self._engine, release, self._lock, self._bounds)

    def beside(self, environment: Environment, release: Release) -> "Store":
        """Return a store over another environment of the same folder, which takes its lock over."""
        return Store._caught_up(environment, release, self._lock, self._bounds)

    def at(self, url: str, release: Release) -> "Store":
        """Return a store in the same Redis for a release of another state."""
        return Store.open(url, release, bounds=self._bounds)

    @classmethod
    def _caught_up(cls, engine: Engine, release: Release, lock: IO | None, bounds: Bounds | None) -> "Store":
        store = cls(engine, release, lock, bounds)
        store._catch_up()
        return store

    def close(self, *, successor: "Store | None" = None) -> None:
        """Release the folder; acknowledged events are on disk already. A second call does nothing.

        What a `successor` uses stays open.
        """
        with self._writing:
            if self in self._engine.listeners:
                self._engine.listeners.remove(self)
            if successor is None or successor._engine is not self._engine:
                self._engine.close()
            if self._lock is not None and (successor is None or successor._lock is not self._lock):
                self._lock.close()

    @property
    def failed(self) -> str | None:
        """Return the message of the write that failed and ended all writing, else None."""
        return self._engine.failed

    def require_writable(self) -> None:
        """Raise StoreError after a failed write."""
        self._engine.require_writable()

    @property
    def videos(self) -> np.ndarray:
        return self._videos[: len(self.catalogue)]

    @property
    def creators(self) -> np.ndarray:
        return self._creators[: max(len(self.catalogue.creator_names), 1)]

    @property
    def unavailable(self) -> np.ndarray:
        return self._unavailable[: len(self.catalogue)]

    def warm(self) -> None:
        """Compile the fold before the first event needs it."""
        item = np.zeros(self.layout.item)
        viewer, amounts = np.zeros(self.layout.viewer), np.zeros(len(self._counts))
        SeenSet.empty().with_events(np.zeros(1, np.uint32), np.zeros(1, np.uint16))
        fold_event(self.layout, viewer, item, item.copy(), SHOWN, 0.0, 0, -1, self.catalogue.tag_rows[0], amounts, 0.0, 0.0)

    # ---- read --------------------------------------------------------------------------------------------------------

    def viewer(self, user_id: int | str) -> np.ndarray:
        """Return a viewer's record (layout.viewer,) float64; zeros for an unknown viewer. Raises StoreError."""
        key = id_key(user_id)
        return unpacked("viewers", key, self._engine.get("viewers", key), self.layout.viewer)

    def seen(self, user_id: int | str) -> SeenSet:
        """Return what a viewer has seen; nothing for an unknown viewer. Raises StoreError."""
        key = id_key(user_id)
        return seen_of(key, self._engine.get("seen", key))

    def counters(self, viewer: np.ndarray, rows: np.ndarray, as_of: float) -> np.ndarray:
        """Return counters (C, 4, block) of the candidates `rows` (C,) for a viewer's record, as of `as_of` and one commit."""
        out, creator_rows = np.empty((len(rows), 4, self.layout.block)), self.catalogue.creator_rows[rows]
        with self._publishing:
            videos, creators = self._videos[rows], self._creators[creator_rows]
        read_candidates(self.layout, viewer, videos, creators, as_of, creator_rows, self.catalogue.tag_rows[rows], out)
        return out

    def video_records(self, rows: np.ndarray) -> np.ndarray:
        """Return records (n, layout.item) of the videos `rows` (n,), as of one commit."""
        with self._publishing:
            return self._videos[rows]

    def viewer_ids(self, limit: int) -> list[int | str]:
        """Return the first `limit` known viewers, in id order, without anonymous sessions."""
        first, end = SESSION_KEYS
        with self._engine.read() as txn:
            before = takewhile(lambda item: item[0] < first, txn.items("viewers"))
            return [id_of(key) for key, _ in islice(chain(before, txn.items("viewers", end)), limit)]

    def journal(self, start: int = 0) -> Iterator[Event]:
        """Yield the accepted events from position `start` on that the journal keeps, as of the start of the reading."""
        for _, event in self.entries(start):
            yield event

    def entries(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield positions and events from position `start` on, as `journal` does."""
        with self._engine.read() as txn:
            yield from journal_of(txn, start)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return table > number of entries, and bytes."""
        with self._engine.read() as txn:
            return {name: (txn.count(name), txn.size(name)) for name in TABLES}

    def quarantined(self) -> list[Event]:
        """Return events about videos that the catalogue does not know, oldest first, at most QUARANTINE_KEPT."""
        with self._engine.read() as txn:
            return [Event.from_bytes(packed) for _, packed in txn.items("quarantine")]

    # ---- write -------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[Event]) -> list[str]:
        """Fold `events` in their order, in one transaction: ACCEPTED, DUPLICATE or UNKNOWN (video) for each.

        When it returns, they are on disk. When it raises StoreError, none was stored. Events that post or change videos come in
        calls of their own, perhaps with withdrawals and restorations: CREATED for a video that was not known.
        """
        if changes_catalogue(events):
            return self._apply_to_catalogue(events)
        rows = self.catalogue.ids.rows([event.video_id for event in events])
        with self._writing, self._changing(), self._engine.write() as txn:
            results = self._admit(txn, events, rows)
            chosen = [i for i, result in enumerate(results) if result == ACCEPTED]
            accepted = [events[i] for i in chosen]
            late = self._fold_behind(txn, accepted, rows[chosen])
            packed = [event.to_bytes() for event in accepted]
            self._applied = dict(zip(packed, accepted, strict=True))
            for each in packed:
                txn.append("journal", each, sealed)
            self._drop_excess(txn, len(accepted) + late, results.count(UNKNOWN))
            if accepted:
                self._mark_folded(txn, accepted, txn.end("journal"))
        self._applied = {}
        return results

    def _apply_to_catalogue(self, events: Sequence[Event]) -> list[str]:
        self.catch_up()
        with self._writing, self._changing(), self._engine.write() as txn:
            self._fold_behind(txn)
            results = self._fold_catalogue(txn, events)
            accepted = [event for event, result in zip(events, results, strict=True) if result != UNKNOWN]
            for event in accepted:
                txn.append("journal", event.to_bytes(), sealed)
            if accepted:
                self._mark_folded(txn, accepted, txn.end("journal"))
        return results

    def _fold_catalogue(self, txn: Transaction, events: Sequence[Event]) -> list[str]:
        """Write what events about videos alone say into the transaction; return what each was: ACCEPTED, CREATED or UNKNOWN."""
        draft, results = LiveDraft(txn, self.catalogue, self._as_of_ms), []
        for event in events:
            known = draft.knows(event.video_id)
            results.append(ACCEPTED if known else CREATED if event.kind == "posted" else UNKNOWN)
            if results[-1] == UNKNOWN:
                continue
            if event.kind in ("posted", "changed"):
                draft.change(event)
            _withdraw(txn, event)
        draft.write()
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

    def _mark_folded(self, txn: Transaction, events: Sequence[Event], end: int) -> None:
        """Remember the time of the latest of `events`, and where the journal is shared, the `end` of what is folded."""
        before = int.from_bytes(txn.get("meta", b"last_known_at") or b"", "big")
        txn.put("meta", b"last_known_at", number_key(max([before, *(event.known_at for event in events)])))
        if self._engine.is_shared:
            txn.put("meta", b"folded", number_key(end))

    def erase(self, user_id: int | str, now_ms: int) -> Receipt:
        """Erase a viewer: record, what they have seen, slate, and who the events were about. Raises StoreError."""
        stays = f"{KEYS_STAY}; {PAGES_STAY}"
        return Receipt("store", erase_viewer(self._engine, [user_id], now_ms), stays, UNTIL_COMPACTED)

    def is_erased(self, user_id: int | str) -> bool:
        """Return True for a viewer who was erased and has not come back. Raises StoreError."""
        with self._engine.read() as txn:
            return is_erased(txn, id_key(user_id))

    def _admit(self, txn: Transaction, events: Sequence[Event], rows: np.ndarray) -> list[str]:
        """Decide which events count, and remember their keys; those about unknown videos (row -1) are quarantined."""
        for table in ("viewers", "seen"):
            txn.prefetch(table, {id_key(event.user_id) for event in events})
        known = (rows >= 0).tolist()
        new = iter(self._keys.admit(txn, [event for event, is_known in zip(events, known, strict=True) if is_known]))
        results = [(ACCEPTED if next(new) else DUPLICATE) if is_known else UNKNOWN for is_known in known]
        for event, is_known in zip(events, known, strict=True):
            if not is_known:
                txn.append("quarantine", event.to_bytes())
        return results

    def _fold(self, txn: Transaction, events: Sequence[Event], rows: np.ndarray) -> None:
        """Fold events about the videos `rows` into working copies, and write these into the transaction."""
        records, catalogue = Records(txn, self.layout, self._videos, self._creators), self.catalogue
        outcomes = outcome_columns(events) | {"duration_ms": np.nan_to_num(catalogue.duration_ms[rows])}
        amounts = counters.amounts(self._counts, outcomes)
        bits = history.outcome_bits(outcomes)
        seen_keys = keys_of(rows, outcomes["watch_ms"], bits).tolist()
        days = days_of(np.array([event.known_at for event in events], np.int64)).tolist()
        of_creators = catalogue.creator_rows[rows].tolist()
        for i, (event, row, creator_row) in enumerate(zip(events, rows.tolist(), of_creators, strict=True)):
            if event.kind in VIEWERLESS:
                _withdraw(txn, event)
                continue
            kind = SHOWN if event.kind == "shown" else OUTCOME
            touched = records.viewer(id_key(event.user_id)), records.video(row), records.creator(creator_row)
            details = catalogue.tag_rows[row], amounts[i], float(event.watch_ms), float(bits[i])
            fold_event(self.layout, *touched, kind, float(event.known_at), row, creator_row, *details)
            records.see(id_key(event.user_id), seen_keys[i], days[i])
        records.write()

    def _drop_excess(self, txn: Transaction, added: int, unknown: int) -> None:
        """Drop what is above the bounds: a few more than were added, so that no call pays for many others."""
        self._keys.purge(txn, added)
        for position, _ in txn.head("quarantine", min(2 * unknown, max(txn.count("quarantine") - QUARANTINE_KEPT, 0))):
            txn.delete("quarantine", position)
        self._drop_viewers(txn, 2 * added)
        if txn.size("journal") > self._bounds.journal_bytes:
            self._drop_events(txn, 2 * added)

    def _drop_events(self, txn: Transaction, most: int) -> None:
        for key, packed in txn.head("journal", most):
            if txn.size("journal") <= self._bounds.journal_bytes or event_of(key, packed).known_at >= self._as_of_ms:
                return
            txn.delete("journal", key)

    def _drop_viewers(self, txn: Transaction, most: int) -> None:
        """Drop viewers above the bound, by the second-chance algorithm (Corbató, 1968).

        They stand in a queue. Who is at its head goes without an event since being queued, or without any watch; others are
        queued again.
        """
        if (excess := txn.count("viewers") - self._bounds.viewers) <= 0:
            return
        queue = [(position, int.from_bytes(value[:8], "big"), value[8:]) for position, value in txn.head("viewers_order", most)]
        for table in OF_VIEWER:
            txn.prefetch(table, [key for _, _, key in queue if key])
        for position, queued_ms, key in queue:
            if not key:  # of a viewer who was erased
                txn.delete("viewers_order", position)
                continue
            record = unpacked("viewers", key, txn.get("viewers", key), self.layout.viewer)
            txn.delete("viewers_order", position)
            if record[0] > queued_ms and record[self.layout.at_history]:
                txn.append("viewers_order", queued(key, record))
                continue
            excess -= txn.delete("viewers", key)
            txn.delete("seen", key)
            txn.delete("slates", key)
            if excess <= 0:
                return

    def publish(self, changes: Changes) -> None:
        """Bring the memory up to date with one commit, of this process or of another that shares the store."""
        records = [
            (array, int.from_bytes(key, "big"), np.frombuffer(unsealed(name, key, packed)))
            for name, array in (("videos", self._videos), ("creators", self._creators))
            for key, packed in changes.get(name, ())
        ]
        with self._publishing:
            for array, row, record in records:
                array[row] = record
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
        events = [event for event in events if event.kind != "shown"]  # which counts in the records alone
        self._follow_catalogue(events)
        rows = self.catalogue.ids.rows([event.video_id for event in events])
        known = [(event, row) for event, row in zip(events, rows.tolist(), strict=True) if row >= 0]
        for event, row in known:
            if event.kind in ("withdrawn", "restored", "posted"):
                self._unavailable[row] = event.kind == "withdrawn"
        self.trending.add([event for event, _ in known], rows[rows >= 0])

    def _follow_catalogue(self, events: Sequence[Event]) -> None:
        """Let the catalogue follow what `events` of the journal posted and changed in the tables."""
        if changed := [event.video_id for event in events if event.kind in ("posted", "changed")]:
            with self._engine.read() as txn:
                take_changes(txn, self.catalogue, changed, self._as_of_ms)

    # ---- load --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        with self._engine.read() as txn:
            for name, array in (("videos", self._videos), ("creators", self._creators)):
                for part in batched(txn.items(name), CHUNK):
                    rows = [int.from_bytes(key, "big") for key, _ in part]
                    records = b"".join(unsealed(name, key, packed) for key, packed in part)
                    array[rows] = np.frombuffer(records).reshape(len(part), -1)
            self._load_withdrawn(txn)
        if not self._engine.readonly:
            self._queue_viewers()
        self.position = journal_length(self._engine)
        self.last_known_at = meta_number(self._engine, "last_known_at")

    def _load_withdrawn(self, txn: Transaction) -> None:
        withdrawn = self.catalogue.ids.rows([id_of(key) for key, _ in txn.items("withdrawn")])
        self.unavailable[:] = np.isin(np.arange(len(self.unavailable)), withdrawn)

    def _queue_viewers(self) -> None:
        """Queue all viewers of a store that was just built, or by a version that had no queue."""
        with self._engine.read() as txn:
            if txn.count("viewers") == txn.count("viewers_order"):
                return
        with self._engine.write() as txn:
            txn.clear("viewers_order")
            for key, packed in txn.items("viewers"):
                txn.append("viewers_order", queued(key, np.frombuffer(packed, count=1)))

    def reload(self) -> None:
        """Load everything again, and count the events of the journal that came meanwhile."""
        position = self.position
        self._load()
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
            foldable, rows = self._foldable(txn, events)
            if changes_videos:
                self._fold_catalogue(txn, foldable)
            else:
                self._fold(txn, foldable, rows)
            txn.put("meta", b"replayed", number_key(end))
            self._mark_folded(txn, events, end)
        if changes_videos:
            self._follow_catalogue(foldable)
            with self._engine.read() as txn:
                self._load_withdrawn(txn)
        return len(foldable)

    def _foldable(self, txn: Transaction, events: Sequence[Event]) -> tuple[list[Event], np.ndarray]:
        """Return those of the journal's `events` that the state lacks and can hold, and the rows of their videos."""
        since_ms = int.from_bytes(txn.get("meta", b"since") or b"", "big")
        events = [event for event in events if event.known_at >= since_ms]
        rows = self.catalogue.ids.rows([event.video_id for event in events])
        known = np.flatnonzero([self._is_known(event, row) for event, row in zip(events, rows, strict=True)])
        return [events[i] for i in known], rows[known]

    def follow(self, earlier: "Store") -> int:
        """Take over what the `earlier` store accepted since this one was opened, or since the last call; return the number of
        events. Call it until few are left, and once more while nothing is committed."""
        if self._engine is earlier._engine:  # which hands every commit to both
            self._mirror(earlier)
            return 0
        taken = 0
        for part in batched(earlier.entries(self.position), CHUNK):
            self.take(part)
            taken += len(part)
        return taken

    def take(self, entries: Sequence[tuple[int, Event]]) -> None:
        """Append events of another store's journal at their positions, and fold them."""
        self._copy(entries)
        self.replay()

    def _copy(self, entries: Sequence[tuple[int, Event]]) -> None:
        """Append events that another store accepted to the journal, at their positions, and remember their keys."""
        with self._writing, self._engine.write() as txn:
            self._keys.admit(txn, [event for _, event in entries])
            for position, event in entries:
                key = number_key(position)
                txn.put("journal", key, sealed(key, event.to_bytes()))
            self._drop_excess(txn, len(entries), 0)
            self._mark_folded(txn, [event for _, event in entries], entries[-1][0] + 1)

    def _mirror(self, earlier: "Store") -> None:
        """Copy the arrays of a store over the same records."""
        with self._engine.sequence, earlier._publishing, self._publishing:
            for name in ("videos", "creators", "unavailable"):
                mine, theirs = getattr(self, name), getattr(earlier, name)
                mine[: len(theirs)] = theirs[: len(mine)]

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

    def _is_known(self, event: Event, row: int) -> bool:
        if event.kind not in ("shown", "outcome"):
            # A shared table is common to all catalogues, and up to date.
            return not self._engine.is_shared and (row >= 0 or event.kind == "posted")
        return row >= 0 and (is_session(event.user_id) or self._user_ids.takes(event.user_id))

    def catch_up(self) -> None:
        """Fold the events of the journal that servers of another catalogue wrote to the store that they share."""
        while self._engine.is_shared and meta_number(self._engine, "folded") < journal_length(self._engine):
            with self._writing, self._engine.write() as txn:
                self._drop_viewers(txn, 2 * self._fold_behind(txn))

    def _fold_behind(self, txn: Transaction, events: Sequence[Event] = (), rows: np.ndarray = NO_ROWS) -> int:
        """Fold `events` about the videos `rows`, and before them those that servers of another catalogue wrote to the journal.

        Returns the number of the latter. Raises StoreError where they are too many for a transaction with others.
        """
        late, late_rows = [], NO_ROWS
        start, end = int.from_bytes(txn.get("meta", b"folded") or b"", "big"), txn.end("journal")
        if self._engine.is_shared and start < end:
            part = list(islice(journal_of(txn, start), CHUNK))
            first, until = (part[0][0], part[-1][0] + 1) if part else (end, end)
            if 0 < start < first:
                raise StoreError(f"the journal dropped {first - start} events that the records lack; run `{REPAIR}`")
            if events and until < end:
                raise StoreError(
                    f"the records lack {end - start} events that other servers wrote; they are being folded, retry"
                )
            late, late_rows = self._foldable(txn, [event for _, event in part])
            self._mark_folded(txn, late, until)
        self._fold(txn, [*late, *events], np.concatenate([late_rows, rows]))
        return len(late)


def build_store(folder: Path | str, release: Release, *, map_bytes: int = MAP_BYTES) -> int:
    """Rebuild the store for a release: its folded state, then the journal from its `as_of` on. The old store stays until then.

    The old store may be damaged. Returns the number of its events that are and were left out.
    Raises StoreError while a server holds the store: events that it acknowledges meanwhile would be lost. Servers that share a
    Redis go on: those of the same state answer cold slates, and 503 to events, until it is built.
    """
    if is_url(folder):
        _build_shared(str(folder), release, durable=True)
        return 0
    lock = locked(folder)
    try:
        return _build(Path(folder), release, durable=True, map_bytes=map_bytes)
    finally:
        lock.close()


def _build(folder: Path, release: Release, *, durable: bool, map_bytes: int) -> int:
    lost, built = 0, new_environment(folder)
    environment = Environment(built, durable=False, map_bytes=map_bytes)  # synced once, when it closes
    put_origin(environment, release, since_ms=release.as_of_ms)
    load_state(environment, release)
    if os.path.lexists(folder / "current"):
        try:
            lengthened(folder / "current")
            with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as old:
                lost = salvage(old, environment)
        except StoreError as error:
            log.error("nothing of the old store can be read, the new one holds the release's state alone: %s", error)
    drop_erased(environment, release.user_ids, release.as_of_ms)
    store = Store(environment, release)
    store.replay()
    store.close()
    link(folder, "current", built.name)
    clear(folder)
    return lost


def _build_shared(url: str, release: Release, *, durable: bool) -> None:
    """Build the records of a release in Redis, unless another process does; journal and keys are common to all releases."""
    engine = RedisEngine(url, state=release.state_fingerprint, durable=durable, builds=True)
    with closing(engine), engine.building() as is_needed:
        if not is_needed:
            return
        with engine.write() as txn:
            for name, table in TABLES.items():
                if not table.carried:
                    txn.clear(name)
        put_meta(engine, since=number_key(release.as_of_ms), built=uuid.uuid4().hex.encode())
        load_state(engine, release)
        Store(engine, release).replay()
        put_origin(engine, release, since_ms=release.as_of_ms)  # from here on servers take it


def carry_current(folder: Path, environment: Environment, *, map_bytes: int) -> None:
    """Copy journal, keys and the other carried tables of the serving store, if there is one, to `environment`.

    The serving store may stay open in another process.
    """
    if os.path.lexists(folder / "current"):
        with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as old:
            carry(old, environment)


def _take_over(folder: Path, release: Release, *, durable: bool, map_bytes: int) -> None:
    """Replace the store by the environment that `from_log` built beside it, plus all events acknowledged meanwhile.

    An environment for another schema or catalogue waits for its release. A takeover killed at any point is resumed.
    """
    if (claimed := claim_next(folder)) is None:
        return
    with closing(Environment(claimed, durable=durable, map_bytes=map_bytes)) as environment:
        if state_of(environment) != release.state_fingerprint:
            return
        carry_current(folder, environment, map_bytes=map_bytes)
        Store(environment, release).replay()
    commit_claim(folder, claimed)
    log.info("the store %s is now %s, built from a log", folder, claimed.name)


class StoreMisfitError(StoreError):
    """Records of another schema or catalogue, under which they have another meaning."""


def misfit(folder: Path, held: str, release_id: str, needed: str) -> StoreMisfitError:
    return StoreMisfitError(f"the store {folder} holds state {held}, but release {release_id} needs {needed}; run `{REPAIR}`")


def journal_of(txn: Transaction, start: int) -> Iterator[tuple[int, Event]]:
    """Yield positions and events of a journal from position `start` on."""
    for key, packed in txn.items("journal", number_key(start)):
        yield int.from_bytes(key, "big"), event_of(key, packed)


def event_of(key: bytes, packed: bytes) -> Event:
    """Decode an event of the journal. Raises StoreDamagedError."""
    return Event.from_bytes(unsealed("journal", key, packed))


def latest_of(txn: Transaction, end: int, since_ms: float, most: int) -> Iterator[Event]:
    """Yield at most `most` events of a journal before the position `end`, latest first, until one known before `since_ms`."""
    for key, packed in islice(txn.items("journal", reverse=True), most):
        if key >= number_key(end):
            continue
        event = event_of(key, packed)
        if event.known_at < since_ms:
            return
        yield event


def _withdraw(txn: Transaction, event: Event) -> None:
    if event.kind == "withdrawn":
        txn.put("withdrawn", id_key(event.video_id), number_key(event.known_at))
    elif event.kind in ("restored", "posted"):
        txn.delete("withdrawn", id_key(event.video_id))

"""The online state: what the fold keeps of viewers, videos and creators, event by event, and the journal behind it."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import IO

import lmdb
import numpy as np

from watchnext.features.state import counters, history
from watchnext.features.state.fold import OUTCOME, SHOWN, Layout, fold_event, read_candidates
from watchnext.files import link
from watchnext.serving.release.release import Release
from watchnext.serving.store.bootstrap import CHUNK, carry, journal_length, load_state, number, put_built_from
from watchnext.serving.store.environment import (
    MAP_BYTES,
    Bounded,
    Environment,
    StoreError,
    append,
    claim,
    clear,
    fresh,
    locked,
    parts,
    place,
    settle,
    state_of,
)
from watchnext.serving.store.events import Event, id_key, id_of, outcome_columns
from watchnext.serving.store.records import Records, unpacked
from watchnext.serving.store.trending import TrendingNow

log = logging.getLogger(__name__)

ACCEPTED, DUPLICATE, UNKNOWN = "accepted", "duplicate", "unknown"
HOUR_MS = 3_600_000
KEYS_KEPT, KEYS_KEPT_MS = 1_000_000, 7 * 24 * HOUR_MS  # a client may repeat itself for this long
SHOWN_KEPT, SHOWN_KEPT_MS = 1_000_000, 24 * HOUR_MS
QUARANTINE_KEPT = 10_000
CAUGHT_UP = 1_000_000  # events of the journal that are counted again for what is trending, when a store is opened
REPAIR = "python -m watchnext.serving build-store"


class Store:
    """State, journal and what keeps events from counting twice; made by `Store.open`. Any thread may call it.

    videos (V, layout.item), creators (R, layout.item)   float64, as of the last commit; other threads read them by `counters`
                                                         and `video_records`, never half of a commit
    unavailable (V,) bool                                withdrawn since the release was built
    trending                                             what is watched now by surface and region, as of the last commit
    """

    def __init__(self, environment: Environment, release: Release, lock: IO | None) -> None:
        self._environment, self._lock = environment, lock
        self.tables = environment.tables
        self.layout: Layout = release.layout
        self._counts = release.pipeline.schema.state.counts
        self._user_ids, self._video_ids = release.user_ids, release.video_ids
        # Writable copies, as the fold was compiled for: a read-only map is another type to numba.
        self._creator_rows, self._tag_rows = np.array(release.catalogue.creator_rows), np.array(release.catalogue.tag_rows)
        self._duration_ms = np.nan_to_num(release.catalogue.duration_ms)
        self._writing, self._publishing = threading.Lock(), threading.Lock()
        self._keys = Bounded.of(environment, "keys", limit=KEYS_KEPT, keep_ms=KEYS_KEPT_MS)
        self._shown = Bounded.of(environment, "shown", limit=SHOWN_KEPT, keep_ms=SHOWN_KEPT_MS)
        self.videos = np.zeros((len(release.catalogue), self.layout.item))
        self.creators = np.zeros((max(len(release.catalogue.creator_names), 1), self.layout.item))
        self.unavailable = np.zeros(len(release.catalogue), bool)
        self.trending = TrendingNow(release)
        self.position = self.last_known_at = 0
        self._load()

    @classmethod
    def open(cls, folder: Path, release: Release, *, durable: bool = True, map_bytes: int = MAP_BYTES) -> "Store":
        """Open, or build it from the release's state at first; one that was built beside it for such a release takes its place.
        Raises StoreError for one of another schema or catalogue."""
        folder = Path(folder)
        lock = locked(folder)
        try:
            _take_over(folder, release, durable=durable, map_bytes=map_bytes)
            if not os.path.lexists(folder / "current"):
                log.info("no store in %s yet: building it from the release %s", folder, release.id)
                _build(folder, release, durable=durable, map_bytes=map_bytes)
            environment = Environment(folder / "current", durable=durable, map_bytes=map_bytes)
            _require(environment, folder, release)
            store = cls(environment, release, lock)
            store._catch_up()
            return store
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Everything acknowledged is on disk already; this only lets go of the folder. A second call does nothing."""
        with self._writing:
            self._environment.close()
            if self._lock is not None:
                self._lock.close()

    def warm(self) -> None:
        """Compile the fold before the first event needs it."""
        item = np.zeros(self.layout.item)
        viewer, amounts = np.zeros(self.layout.viewer), np.zeros(len(self._counts))
        fold_event(self.layout, viewer, item, item.copy(), SHOWN, 0.0, 0, -1, self._tag_rows[0], amounts, 0.0, 0.0)

    # ---- read --------------------------------------------------------------------------------------------------------

    def viewer(self, user_id: int | str) -> np.ndarray:
        """A viewer's record (layout.viewer,) float64; zeros for somebody unknown. Raises StoreError."""
        return unpacked(self._environment.get("viewers", id_key(user_id)), self.layout.viewer)

    def counters(self, viewer: np.ndarray, rows: np.ndarray, as_of: float) -> np.ndarray:
        """Counters (C, 4, block) of the candidates `rows` (C,) for a viewer's record, as of `as_of` and one commit."""
        out, creator_rows = np.empty((len(rows), 4, self.layout.block)), self._creator_rows[rows]
        with self._publishing:
            videos, creators = self.videos[rows], self.creators[creator_rows]
        read_candidates(self.layout, viewer, videos, creators, as_of, creator_rows, self._tag_rows[rows], out)
        return out

    def video_records(self, rows: np.ndarray) -> np.ndarray:
        """Records (n, layout.item) of the videos `rows` (n,), as of one commit."""
        with self._publishing:
            return self.videos[rows]

    def viewer_ids(self, limit: int) -> list[int | str]:
        """The first `limit` known viewers, in id order."""
        with self._environment.read() as txn, txn.cursor(self.tables["viewers"]) as cursor:
            keys = (bytes(key) for key in cursor.iternext(keys=True, values=False))
            return [id_of(key) for key, _ in zip(keys, range(limit), strict=False)]

    def journal(self, start: int = 0) -> Iterator[Event]:
        """Every accepted event from position `start` on, as it was when the reading began."""
        with self._environment.read() as txn:
            yield from journal_of(txn, self.tables["journal"], start)

    def slate(self, user_id: int | str) -> bytes | None:
        """What `put_slates` left for a viewer."""
        return self._environment.get("slates", id_key(user_id))

    def quarantined(self) -> list[Event]:
        """Events about videos that the catalogue does not know, oldest first, at most QUARANTINE_KEPT."""
        with self._environment.read() as txn, txn.cursor(self.tables["quarantine"]) as cursor:
            return [Event.from_bytes(packed) for packed in cursor.iternext(keys=False, values=True)]

    # ---- write -------------------------------------------------------------------------------------------------------

    def apply(self, events: Sequence[Event]) -> list[str]:
        """Count `events` in their order, in one transaction: ACCEPTED, DUPLICATE or UNKNOWN (video) for each.

        When it returns, they are on disk. When it raises StoreError, none of them counted.
        """
        rows = self._video_ids.rows([event.video_id for event in events])
        with self._writing:
            with self._environment.write() as txn:
                results = [self._admit(txn, event, row) for event, row in zip(events, rows, strict=True)]
                chosen = [i for i, result in enumerate(results) if result == ACCEPTED]
                accepted = [events[i] for i in chosen]
                records = self._fold(txn, accepted, rows[chosen])
                for event in accepted:
                    append(txn, self.tables["journal"], event.to_bytes())
                latest = max([self.last_known_at, *(event.known_at for event in accepted)])
                txn.put(b"last_known_at", place(latest), db=self.tables["meta"])
            with self._publishing:
                records.publish()
            self._publish_withdrawals(accepted, rows[chosen])
            self.trending.take(accepted, rows[chosen])
            self.position, self.last_known_at = self.position + len(accepted), latest
        return results

    def put_slates(self, slates: Sequence[tuple[int | str, bytes]]) -> None:
        """Keep precomputed slates, one a viewer."""
        with self._writing, self._environment.write() as txn:
            for user_id, packed in slates:
                txn.put(id_key(user_id), packed, db=self.tables["slates"])

    def _admit(self, txn: lmdb.Transaction, event: Event, row: int) -> str:
        """Whether an event counts; its key is taken."""
        if row < 0:
            append(txn, self.tables["quarantine"], event.to_bytes())
            _trim(txn, self.tables["quarantine"], QUARANTINE_KEPT)
            return UNKNOWN
        seen = self._shown if event.kind == "shown" else self._keys
        if (key := event.once) is not None:
            if seen.holds(txn, key):
                return DUPLICATE
            seen.add(txn, key, event.known_at)
        return ACCEPTED

    def _fold(self, txn: lmdb.Transaction, events: Sequence[Event], rows: np.ndarray) -> Records:
        """Fold events about the videos `rows` into working copies, and those into the transaction."""
        records = Records(txn, self.tables, self.layout, self.videos, self.creators)
        outcomes = outcome_columns(events) | {"duration_ms": self._duration_ms[rows]}
        amounts = counters.amounts(self._counts, outcomes)
        bits = history.outcome_bits(outcomes)
        for i, (event, row) in enumerate(zip(events, rows.tolist(), strict=True)):
            if event.kind in ("withdrawn", "restored"):
                _withdraw(txn, self.tables["withdrawn"], event)
                continue
            creator_row, kind = int(self._creator_rows[row]), SHOWN if event.kind == "shown" else OUTCOME
            mine = records.viewer(id_key(event.user_id)), records.video(row), records.creator(creator_row)
            what = self._tag_rows[row], amounts[i], float(event.watch_ms), float(bits[i])
            fold_event(self.layout, *mine, kind, float(event.known_at), row, creator_row, *what)
        records.write()
        return records

    def _publish_withdrawals(self, events: Sequence[Event], rows: np.ndarray) -> None:
        for event, row in zip(events, rows, strict=True):
            if event.kind in ("withdrawn", "restored"):
                self.unavailable[row] = event.kind == "withdrawn"

    # ---- load --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        with self._environment.read() as txn:
            for name, array in (("videos", self.videos), ("creators", self.creators)):
                for key, packed in txn.cursor(self.tables[name]):
                    array[int.from_bytes(key, "big")] = np.frombuffer(packed)
            withdrawn = self._video_ids.rows([id_of(key) for key, _ in txn.cursor(self.tables["withdrawn"])])
            self.unavailable[withdrawn[withdrawn >= 0]] = True
        self.position = journal_length(self._environment)
        self.last_known_at = number(self._environment, "last_known_at")

    def _catch_up(self) -> None:
        """Count what is trending of the journal: its end, as far as it matters, and no more than CAUGHT_UP events of it."""
        since_ms = self.trending.since_ms(self.last_known_at)
        with self._environment.read() as txn:
            for part in parts(latest_of(txn, self.tables["journal"], since_ms, CAUGHT_UP), CHUNK):
                rows = self._video_ids.rows([event.video_id for event in part])
                self.trending.take([event for event, row in zip(part, rows, strict=True) if row >= 0], rows[rows >= 0])

    def replay(self) -> int:
        """Fold what the journal holds on top of the state that the store was built from; returns how many events.

        An event known before `since`, in `meta`, is passed over, as the log that was folded holds it. So is one about a video
        that is gone, or of a viewer under another kind of id. A second call goes on after `replayed`, which `meta` keeps too.
        """
        start, since_ms, folded = number(self._environment, "replayed"), number(self._environment, "since"), 0
        for part in parts(self.journal(start), CHUNK):
            events = [event for event in part if event.known_at >= since_ms]
            rows = self._video_ids.rows([event.video_id for event in events])
            known = np.flatnonzero([row >= 0 and self._is_known(event) for event, row in zip(events, rows, strict=True)])
            start, folded = start + len(part), folded + len(known)
            with self._environment.write() as txn:
                records = self._fold(txn, [events[i] for i in known], rows[known])
                txn.put(b"replayed", place(start), db=self.tables["meta"])
            records.publish()
        return folded

    def _is_known(self, event: Event) -> bool:
        return event.kind in ("withdrawn", "restored") or self._user_ids.takes(event.user_id)


def build_store(folder: Path, release: Release, *, map_bytes: int = MAP_BYTES) -> None:
    """Rebuild the store for a release: its folded state, then the journal from its `as_of` on. The old one stays till the end.

    Raises StoreError while a server holds the store: what it acknowledged meanwhile would be lost.
    """
    lock = locked(folder)
    try:
        _build(Path(folder), release, durable=True, map_bytes=map_bytes)
    finally:
        lock.close()


def _build(folder: Path, release: Release, *, durable: bool, map_bytes: int) -> None:
    built = fresh(folder)
    environment = Environment(built, durable=False, map_bytes=map_bytes)  # synced once, when it closes
    put_built_from(environment, release, since_ms=release.as_of_ms)
    load_state(environment, release)
    carry_current(folder, environment, map_bytes=map_bytes)
    store = Store(environment, release, None)
    store.replay()
    store.close()
    link(folder, "current", built.name)
    clear(folder)


def carry_current(folder: Path, environment: Environment, *, map_bytes: int) -> None:
    """Bring `environment` up to the journal, the keys and the rest of the store that serves, if there is one; it may go on
    serving meanwhile, in another process."""
    if os.path.lexists(folder / "current"):
        with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as old:
            carry(old, environment)


def _take_over(folder: Path, release: Release, *, durable: bool, map_bytes: int) -> None:
    """Let what `serving.state` built beside the store be the store, with all that was acknowledged meanwhile. What was built
    for a release of another schema or catalogue waits for that one. Cut off at any point, it goes on where it was."""
    if (taken := claim(folder)) is None:
        return
    with closing(Environment(taken, durable=durable, map_bytes=map_bytes)) as environment:
        if state_of(environment) != release.state_fingerprint:
            return
        carry_current(folder, environment, map_bytes=map_bytes)
        Store(environment, release, None).replay()
    settle(folder, taken)
    log.info("the store %s is now %s, built from a log", folder, taken.name)


def _require(environment: Environment, folder: Path, release: Release) -> None:
    """Records mean nothing under another schema or catalogue."""
    found = state_of(environment)
    if found != release.state_fingerprint:
        environment.close()
        raise StoreError(
            f"the store {folder} holds state {found}, release {release.id} needs {release.state_fingerprint}; run `{REPAIR}`"
        )


def journal_of(txn: lmdb.Transaction, table: object, start: int) -> Iterator[Event]:
    with txn.cursor(table) as cursor:
        if cursor.set_range(place(start)):
            for packed in cursor.iternext(keys=False, values=True):
                yield Event.from_bytes(packed)


def latest_of(txn: lmdb.Transaction, table: object, since_ms: float, most: int) -> Iterator[Event]:
    """The last `most` events of a journal at most, latest first, back to the first that was known before `since_ms`."""
    with txn.cursor(table) as cursor:
        for packed in islice(cursor.iterprev(keys=False, values=True), most) if cursor.last() else ():
            event = Event.from_bytes(packed)
            if event.known_at < since_ms:
                return
            yield event


def _withdraw(txn: lmdb.Transaction, table: object, event: Event) -> None:
    if event.kind == "withdrawn":
        txn.put(id_key(event.video_id), place(event.known_at), db=table)
    else:
        txn.delete(id_key(event.video_id), db=table)


def _trim(txn: lmdb.Transaction, table: object, limit: int) -> None:
    with txn.cursor(table) as cursor:
        while txn.stat(table)["entries"] > limit and cursor.first():
            cursor.delete()

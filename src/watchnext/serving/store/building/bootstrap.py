"""Fill a new environment: from the folded state of a release, and with the parts of an older store that stay valid."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from watchnext.features.catalogue import Ids
from watchnext.features.state.seen import SeenSets
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import CHUNK, TABLES, Engine, Order, StoreError, batched, number_key
from watchnext.serving.store.tables.journal import id_key
from watchnext.serving.store.tables.meta import journal_length, meta_number, put_meta
from watchnext.serving.store.tables.records import queued
from watchnext.serving.store.tables.seal import SEAL_BYTES, SEALED, is_intact, sealed, unsealed

log = logging.getLogger(__name__)

CARRIED_TABLES = [name for name, table in TABLES.items() if table.carried]


def load_state(engine: Engine, release: Release, viewers: np.ndarray | None = None) -> None:
    """Write the folded state of the release; of its viewers, only those at the rows `viewers` (n,), None is all."""
    state, layout = release.state, release.layout
    viewers = np.arange(len(state.viewers)) if viewers is None else viewers
    known = viewers[state.viewers[viewers, 0] != 0]
    known = known[np.argsort(release.user_ids.ids[known], kind="stable")]  # in the order of their keys
    for first in range(0, len(known), CHUNK):
        users = known[first : first + CHUNK]
        put_viewers(engine, release.user_ids, users, state.viewers[users])
    users = len(release.user_ids.ids)
    for first in range(0, users, CHUNK):
        put_seen(engine, release.user_ids, first, release.seen.part(first, min(first + CHUNK, users)))
    for name, records in (("videos", state.videos), ("creators", state.creators)):
        if records.shape[1] != layout.item:
            raise StoreError(
                f"the release {release.id} holds {name} records of {records.shape[1]}, expected {layout.item}; run `dvc repro`"
            )
        put_items(engine, name, records)


def put_viewers(engine: Engine, ids: Ids, users: np.ndarray, records: np.ndarray) -> None:
    """Write the non-empty `records` (n, layout.viewer) of the viewers at the rows `users` (n,) of `ids`, and queue them."""
    keyed = [(id_key(ids.value(int(users[i]))), records[i]) for i in np.flatnonzero(records[:, 0])]
    keyed.sort(key=lambda item: item[0])
    _put(engine, "viewers", [(key, record.tobytes()) for key, record in keyed])
    for part in batched(keyed, CHUNK):
        with engine.write() as txn:
            txn.append_many("viewers_order", [queued(key, record) for key, record in part])


def put_seen(engine: Engine, ids: Ids, first: int, sets: SeenSets) -> None:
    """Write the non-empty sets of the viewers from row `first` of `ids` on."""
    users = np.flatnonzero(np.diff(sets.starts)).tolist()
    _put(engine, "seen", sorted((id_key(ids.value(first + user)), sets.viewer(user).to_bytes()) for user in users))


def put_items(engine: Engine, name: str, records: np.ndarray) -> None:
    """Write the non-empty `records` (n, layout.item) of videos or creators; row numbers are their keys."""
    _put(engine, name, [(number_key(int(row)), records[row].tobytes()) for row in np.flatnonzero(records[:, 0])])


def _put(engine: Engine, name: str, records: Iterable[tuple[bytes, bytes]]) -> None:
    for part in batched(records, CHUNK):
        with engine.write() as txn:
            txn.put_many(name, [(key, sealed(key, record)) for key, record in part])


def put_origin(engine: Engine, release: Release, *, since_ms: int) -> None:
    """Store the release of the records, and `since_ms`: the folded log holds the events of the journal that were known before,
    and later ones count on top."""
    put_meta(
        engine,
        sealed_state=release.state_fingerprint.encode(),
        has_seen=b"1",
        release=release.id.encode(),
        since=number_key(since_ms),
    )


def carry(old: Engine, new: Engine) -> None:
    """Copy the tables that stay valid under another catalogue, as they hold ids and not row numbers. A second call brings `new`
    up to date with `old`. Raises StoreDamagedError for a journal that is damaged."""
    is_sealed = old.get("meta", b"sealed_state") is not None  # the journal of an older version is not
    with old.read() as source:
        for name in CARRIED_TABLES:
            # The journal is copied from where the new store ends; the other tables change anywhere.
            first = b"" if name != "journal" else number_key(journal_length(new))
            if not first:
                with new.write() as txn:
                    txn.clear(name)
            for part in batched(source.items(name, first), CHUNK):
                if name == "journal":
                    part = [(key, sealed(key, unsealed(name, key, packed) if is_sealed else packed)) for key, packed in part]
                with new.write() as txn:
                    txn.put_many(name, part)
        latest = int.from_bytes(source.get("meta", b"last_known_at") or b"", "big")
    if latest > meta_number(new, "last_known_at"):
        put_meta(new, last_known_at=number_key(latest))


def salvage(old: Engine, new: Engine) -> int:
    """Copy from a store that may be damaged what `carry` copies and is intact; return the number of events left out.

    Events keep their order and close up, so that the journal has no gap.
    """
    is_sealed, lost = old.get("meta", b"sealed_state") is not None, 0
    for name in CARRIED_TABLES:
        rows = _readable(old, name)
        if TABLES[name].order is Order.QUEUE and name in SEALED:
            rows = _resealed(rows, is_sealed)
        elif name in SEALED:
            rows = _intact(name, rows)
        for part in batched(rows, CHUNK):
            with new.write() as txn:
                txn.put_many(name, part)
        if name == "journal":
            lost = entries_of(old, name) - entries_of(new, name)
    put_meta(new, last_known_at=number_key(meta_number(old, "last_known_at")))
    return lost


def _readable(engine: Engine, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of a table up to the first page that cannot be read, then those behind the last one."""
    last, tail = b"", []
    try:
        with engine.read() as txn:
            for key, packed in txn.items(name):
                last = key
                yield key, packed
        return
    except StoreError as error:
        log.warning("table %s is damaged: %s", name, error)
    try:
        with engine.read() as txn:
            for key, packed in txn.items(name, reverse=True):
                if key <= last:
                    break
                tail.append((key, packed))
    except StoreError as error:
        log.warning("table %s is damaged from its end too: %s", name, error)
    yield from reversed(tail)


def _intact(name: str, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the intact rows of a table, sealed also where they were bare."""
    for key, packed in rows:
        if is_intact(name, key, packed):
            yield key, sealed(key, unsealed(name, key, packed))
        else:
            log.warning("%s %s is damaged and left out", name, key.hex())


def _resealed(rows: Iterable[tuple[bytes, bytes]], is_sealed: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the intact values of a queue at consecutive positions, the first at its own."""
    position = None
    for key, packed in rows:
        position = int.from_bytes(key, "big") if position is None else position
        if not is_sealed or is_intact("", key, packed):
            at = number_key(position)
            yield at, sealed(at, packed[:-SEAL_BYTES] if is_sealed else packed)
            position += 1


def entries_of(engine: Engine, name: str) -> int:
    with engine.read() as txn:
        return txn.count(name)

"""Fill a new environment: from the folded state of a release, and with the parts of an older store that stay valid."""

import logging
from collections.abc import Iterable, Iterator

import numpy as np

from watchnext.features.catalogue import Ids
from watchnext.serving.release.release import Release
from watchnext.serving.store.environment import Environment, StoreError, batched, number_key
from watchnext.serving.store.journal import id_key
from watchnext.serving.store.seal import SEAL_BYTES, is_intact, sealed, unsealed

log = logging.getLogger(__name__)

CHUNK = 5_000  # records or events a transaction during a build
CARRIED_TABLES = (
    "journal",
    "keys",
    "keys_order",
    "shown",
    "shown_order",
    "quarantine",
    "withdrawn",
)  # keyed by ids, not rows


def load_state(environment: Environment, release: Release) -> None:
    """Write the folded state of the release."""
    state, layout = release.state, release.layout
    known = np.flatnonzero(state.viewers[:, 0])
    known = known[np.argsort(release.user_ids.ids[known], kind="stable")]  # in the order of their keys
    for first in range(0, len(known), CHUNK):
        users = known[first : first + CHUNK]
        put_viewers(environment, release.user_ids, users, state.viewers[users])
    for name, records in (("videos", state.videos), ("creators", state.creators)):
        if records.shape[1] != layout.item:
            raise StoreError(
                f"the release {release.id} holds {name} records of {records.shape[1]}, expected {layout.item}; run `dvc repro`"
            )
        put_items(environment, name, records)


def put_viewers(environment: Environment, ids: Ids, users: np.ndarray, records: np.ndarray) -> None:
    """Write the non-empty `records` (n, layout.viewer) of the viewers at the rows `users` (n,) of `ids`."""
    keyed = [(id_key(ids.value(int(users[i]))), records[i]) for i in np.flatnonzero(records[:, 0])]
    _put(environment, "viewers", sorted(keyed, key=lambda item: item[0]))


def put_items(environment: Environment, name: str, records: np.ndarray) -> None:
    """Write the non-empty `records` (n, layout.item) of videos or creators; row numbers are their keys."""
    _put(environment, name, [(number_key(int(row)), records[row]) for row in np.flatnonzero(records[:, 0])])


def _put(environment: Environment, name: str, records: Iterable[tuple[bytes, np.ndarray]]) -> None:
    for part in batched(records, CHUNK):
        with environment.write() as txn, txn.cursor(environment.tables[name]) as cursor:
            cursor.putmulti([(key, sealed(key, np.asarray(record).tobytes())) for key, record in part])


def put_meta(environment: Environment, **values: bytes) -> None:
    with environment.write() as txn:
        for name, value in values.items():
            txn.put(name.encode(), value, db=environment.tables["meta"])


def put_origin(environment: Environment, release: Release, *, since_ms: int) -> None:
    """Store the release of the records, and `since_ms`: the folded log holds the events of the journal that were known before,
    and later ones count on top."""
    put_meta(
        environment, sealed_state=release.state_fingerprint.encode(), release=release.id.encode(), since=number_key(since_ms)
    )


def meta_number(environment: Environment, name: str) -> int:
    """Read a number in `meta`, 0 if absent."""
    return int.from_bytes(environment.get("meta", name.encode()) or b"", "big")


def carry(old: Environment, new: Environment) -> None:
    """Copy the tables that stay valid under another catalogue, as they hold ids and not row numbers. A second call brings `new`
    up to date with `old`. Raises StoreDamagedError for a journal that is damaged."""
    is_sealed = old.get("meta", b"sealed_state") is not None  # the journal of an older version is not
    with old.read() as source:
        for name in CARRIED_TABLES:
            # The journal is copied from where the new store ends; the other tables change anywhere.
            first = b"" if name != "journal" else number_key(journal_length(new))
            if not first:
                with new.write() as txn:
                    txn.drop(new.tables[name], delete=False)
            with source.cursor(old.tables[name]) as cursor:
                for part in batched(cursor, CHUNK) if cursor.set_range(first) else []:
                    if name == "journal":
                        part = [
                            (key, sealed(key, unsealed(name, key, packed) if is_sealed else packed)) for key, packed in part
                        ]
                    with new.write() as txn, txn.cursor(new.tables[name]) as target:
                        target.putmulti(part)
        latest = int.from_bytes(source.get(b"last_known_at", b"", db=old.tables["meta"]), "big")
    if latest > meta_number(new, "last_known_at"):
        put_meta(new, last_known_at=number_key(latest))


def salvage(old: Environment, new: Environment) -> int:
    """Copy from a store that may be damaged what `carry` copies and is intact; return the number of events left out.

    Events keep their order and close up, so that the journal has no gap.
    """
    is_sealed, lost = old.get("meta", b"sealed_state") is not None, 0
    for name in CARRIED_TABLES:
        rows = _readable(old, name)
        if name == "journal":
            rows = _resealed(rows, is_sealed)
        for part in batched(rows, CHUNK):
            with new.write() as txn, txn.cursor(new.tables[name]) as cursor:
                cursor.putmulti(part)
        if name == "journal":
            lost = entries_of(old, name) - entries_of(new, name)
    put_meta(new, last_known_at=number_key(meta_number(old, "last_known_at")))
    return lost


def _readable(environment: Environment, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of a table up to the first page that cannot be read, then those behind the last one."""
    last, tail = b"", []
    try:
        with environment.read() as txn, txn.cursor(environment.tables[name]) as cursor:
            for key, packed in cursor:
                last = key
                yield key, packed
        return
    except StoreError as error:
        log.warning("table %s is damaged: %s", name, error)
    try:
        with environment.read() as txn, txn.cursor(environment.tables[name]) as cursor:
            for key, packed in cursor.iterprev() if cursor.last() else ():
                if key <= last:
                    break
                tail.append((key, packed))
    except StoreError:
        pass
    yield from reversed(tail)


def _resealed(rows: Iterable[tuple[bytes, bytes]], is_sealed: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield the intact events of a journal at consecutive positions, the first at its own."""
    position = None
    for key, packed in rows:
        position = int.from_bytes(key, "big") if position is None else position
        if not is_sealed or is_intact(key, packed):
            at = number_key(position)
            yield at, sealed(at, packed[:-SEAL_BYTES] if is_sealed else packed)
            position += 1


def entries_of(environment: Environment, name: str) -> int:
    with environment.read() as txn:
        return txn.stat(environment.tables[name])["entries"]


def journal_length(environment: Environment) -> int:
    with environment.read() as txn, txn.cursor(environment.tables["journal"]) as cursor:
        return int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0

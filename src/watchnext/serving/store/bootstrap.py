"""What a new environment starts from: a release's folded state, and what an older store knows that still holds."""

from collections.abc import Iterable

import numpy as np

from watchnext.features.catalogue import Ids
from watchnext.serving.release.release import Release
from watchnext.serving.store.environment import Environment, StoreError, parts, place
from watchnext.serving.store.events import id_key

CHUNK = 5_000  # records or events a transaction while building aside
CARRIED = ("journal", "keys", "keys_order", "shown", "shown_order", "quarantine", "withdrawn")  # their keys are ids, not rows


def load_state(environment: Environment, release: Release) -> None:
    """What the release folded."""
    state, layout = release.state, release.layout
    known = np.flatnonzero(state.viewers[:, 0])
    known = known[np.argsort(release.user_ids.ids[known], kind="stable")]  # the order of their keys
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
    """Records (n, layout.viewer) of the viewers that are rows `users` (n,) of `ids`."""
    keys = [id_key(ids.value(row)) for row in users.tolist()]
    _put(environment, "viewers", sorted(zip(keys, records, strict=True), key=lambda item: item[0]))


def put_items(environment: Environment, name: str, records: np.ndarray) -> None:
    """All `records` (n, layout.item) of videos or creators in which something is; row numbers are their keys."""
    _put(environment, name, [(place(int(row)), records[row]) for row in np.flatnonzero(records[:, 0])])


def _put(environment: Environment, name: str, records: Iterable[tuple[bytes, np.ndarray]]) -> None:
    for part in parts(records, CHUNK):
        with environment.write() as txn, txn.cursor(environment.tables[name]) as cursor:
            cursor.putmulti([(key, np.asarray(record).tobytes()) for key, record in part])


def put_meta(environment: Environment, **values: bytes) -> None:
    with environment.write() as txn:
        for name, value in values.items():
            txn.put(name.encode(), value, db=environment.tables["meta"])


def put_built_from(environment: Environment, release: Release, *, since_ms: int) -> None:
    """Note which release the records are of, and from when on the journal's events count on top of them: those known before are
    in the log that was folded."""
    put_meta(environment, state=release.state_fingerprint.encode(), release=release.id.encode(), since=place(since_ms))


def number(environment: Environment, name: str) -> int:
    """A number in `meta`, 0 where there is none."""
    return int.from_bytes(environment.get("meta", name.encode()) or b"", "big")


def carry(old: Environment, new: Environment) -> None:
    """Copy what stays valid under another catalogue: ids are in it, row numbers are not. Doing it again brings `new` up to what
    `old` is by then."""
    with old.read() as source:
        for name in CARRIED:
            first = b"" if name != "journal" else place(journal_length(new))  # which only grows; the others forget
            if not first:
                with new.write() as txn:
                    txn.drop(new.tables[name], delete=False)
            with source.cursor(old.tables[name]) as cursor:
                for part in parts(cursor, CHUNK) if cursor.set_range(first) else []:
                    with new.write() as txn, txn.cursor(new.tables[name]) as target:
                        target.putmulti(part)
        latest = int.from_bytes(source.get(b"last_known_at", b"", db=old.tables["meta"]), "big")
    if latest > number(new, "last_known_at"):
        put_meta(new, last_known_at=place(latest))


def journal_length(environment: Environment) -> int:
    with environment.read() as txn, txn.cursor(environment.tables["journal"]) as cursor:
        return int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0

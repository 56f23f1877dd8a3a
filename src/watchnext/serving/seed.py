"""What a new environment starts from: a release's folded state, and what an older store knows that still holds."""

from collections.abc import Sequence

import numpy as np

from watchnext.serving.environment import Environment, StoreError, parts, place
from watchnext.serving.events import id_key
from watchnext.serving.release import Release

CHUNK = 5_000  # records or events a transaction while building aside
CARRIED = ("journal", "keys", "keys_order", "shown", "shown_order", "quarantine", "withdrawn")  # their keys are ids, not rows


def load_state(environment: Environment, release: Release) -> None:
    state, layout = release.state, release.layout
    viewers = [(id_key(release.user_ids.value(row)), state.viewers[row]) for row in np.flatnonzero(state.viewers[:, 0])]
    _put(environment, "viewers", sorted(viewers, key=lambda item: item[0]))
    for name, records in (("videos", state.videos), ("creators", state.creators)):
        if records.shape[1] != layout.item:
            raise StoreError(
                f"the release {release.id} holds {name} records of {records.shape[1]}, expected {layout.item}; run `dvc repro`"
            )
        _put(environment, name, [(place(int(row)), records[row]) for row in np.flatnonzero(records[:, 0])])


def _put(environment: Environment, name: str, records: Sequence[tuple[bytes, np.ndarray]]) -> None:
    for part in parts(records, CHUNK):
        with environment.write() as txn, txn.cursor(environment.tables[name]) as cursor:
            cursor.putmulti([(key, np.asarray(record).tobytes()) for key, record in part])


def carry(old: Environment, new: Environment) -> None:
    """Copy what stays valid under another catalogue: ids are in it, row numbers are not."""
    with old.read() as source:
        for name in CARRIED:
            for part in parts(source.cursor(old.tables[name]), CHUNK):
                with new.write() as txn, txn.cursor(new.tables[name]) as cursor:
                    cursor.putmulti(part)
        latest = source.get(b"last_known_at", db=old.tables["meta"])
    if latest is not None:
        with new.write() as txn:
            txn.put(b"last_known_at", latest, db=new.tables["meta"])

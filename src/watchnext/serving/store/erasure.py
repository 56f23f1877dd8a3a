"""Erase a viewer from a store. Of each event a tombstone stays, without the viewer, so that the journal has no gap."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import orjson

from watchnext.features.catalogue import Ids
from watchnext.serving.store.engines.engine import Engine, batched, number_key
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import LINKS, clear, locked, new_environment, point
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.tables.journal import VIEWERLESS, Event, id_key, id_of
from watchnext.serving.store.tables.records import OF_VIEWER, digest_of
from watchnext.serving.store.tables.seal import SEALED, sealed, unsealed

BATCH = 1_000
KEYS_STAY = "idempotency keys, as digests that name nobody"
PAGES_STAY = "freed pages of the store's file"
STATES_STAY = "what the records of other releases in the same Redis have of the viewer"
UNTIL_FOLLOWED = "a moment where a server of such a release runs, else when one starts; the keys for seven days"
ERASE_COMMAND = "python -m watchnext.data erase"
UNTIL_COMPACTED = (
    f"the pages until they are written over, or `{ERASE_COMMAND}` with the server stopped; the keys for seven days"
)


@dataclass(frozen=True)
class Receipt:
    """Where a viewer was erased: `removed` counts by kind; what `stays` there, and `until` when; None where nothing stays."""

    place: str
    removed: dict[str, int] = field(default_factory=dict)
    stays: str | None = None
    until: str | None = None


def erase_viewer(engine: Engine, user_ids: Iterable[int | str], now_ms: int) -> dict[str, int]:
    """Erase viewers; return the number of rows of each table that held them. Events that arrive later make new viewers.

    Their counts in the records of videos and creators stay, as they name nobody. Raises StoreError.
    """
    users, removed = list(user_ids), Counter()
    keys = {id_key(user_id) for user_id in users}
    with engine.write() as txn:  # first of all, so that a rebuild brings nobody back
        for table in ("erased", "erased_here"):
            txn.put_many(table, [(key, sealed(key, number_key(now_ms))) for key in map(digest_of, keys)])
        for name in OF_VIEWER:
            removed[name] = sum(txn.delete(name, key) for key in keys)
    removed["viewers_order"] = _replace(engine, "viewers_order", lambda _, value: value[:8] if value[8:] in keys else None)
    names = [orjson.dumps(user_id) for user_id in users]
    for table in ("journal", "quarantine"):
        removed[table] = _replace(engine, table, partial(_tombstone, table, users, names))
    return dict(removed)


def erase_here(engine: Engine) -> None:
    """Erase from the records of this state whoever was erased by a server of another state that shares the store.

    The common tables are without them already. Raises StoreError.
    """
    with engine.read() as txn:
        here = dict(txn.items("erased_here"))
        since = {digest: at for digest, at in txn.items("erased") if here.get(digest) != at}
        queue = txn.items("viewers_order") if since else ()
        keys = {value[8:] for _, value in queue if digest_of(value[8:]) in since}
    if not since:
        return
    with engine.write() as txn:
        for name in OF_VIEWER:
            txn.prefetch(name, keys)
            for key in keys:
                txn.delete(name, key)
    _replace(engine, "viewers_order", lambda _, value: value[:8] if value[8:] in keys else None)
    with engine.write() as txn:  # last, so that one that was killed begins again
        txn.put_many("erased_here", list(since.items()))


def erase_again(old: Engine, new: Engine) -> int:
    """Erase from the store `new`, which was built beside `old`, whoever was erased from `old` since; return their number.

    The table names nobody, so those are found by the digests of all viewers of `new`. Events that they have sent since go too.
    """
    with old.read() as before, new.read() as after:
        known = dict(after.items("erased"))
        since = {digest: at for digest, at in before.items("erased") if known.get(digest, b"") < at}
        users = [id_of(key) for key, _ in after.items("viewers") if digest_of(key) in since] if since else []
    if users:
        erase_viewer(new, users, max(_erased_ms(*each) for each in since.items()))
    with new.write() as txn:
        txn.put_many("erased", list(since.items()))
    return len(users)


def _erased_ms(digest: bytes, packed: bytes) -> int:
    return int.from_bytes(unsealed("erased", digest, packed), "big")


def _tombstone(table: str, users: Sequence, names: Sequence[bytes], key: bytes, packed: bytes) -> bytes | None:
    if not any(name in packed for name in names):  # most events are of others: they are not decoded
        return None
    is_sealed = table in SEALED
    event = Event.from_bytes(unsealed(table, key, packed) if is_sealed else packed)
    if event.kind in VIEWERLESS or event.user_id not in users:
        return None
    tombstone = Event(kind="erased", user_id="", video_id=event.video_id, known_at=event.known_at).to_bytes()
    return sealed(key, tombstone) if is_sealed else tombstone


def _replace(engine: Engine, table: str, change: Callable[[bytes, bytes], bytes | None]) -> int:
    """Put `change(key, value)` in the place of each value for which it is not None, a batch a transaction."""
    with engine.read() as txn:
        found = [(key, changed) for key, value in txn.items(table) if (changed := change(key, value)) is not None]
    for part in batched(found, BATCH):
        with engine.write() as txn:
            for key, changed in part:
                txn.replace(table, key, changed)
    return len(found)


def drop_erased(engine: Engine, ids: Ids, until_ms: int) -> None:
    """Remove from a store that was just built the viewers of `ids` who were erased at `until_ms` or later: the release or log
    that it was built from still has them."""
    with engine.read() as txn:
        erased = {digest for digest, at in txn.items("erased") if _erased_ms(digest, at) >= until_ms}
    if not erased:
        return
    keys = (id_key(ids.value(row)) for row in range(len(ids.ids)))
    for part in batched((key for key in keys if digest_of(key) in erased), BATCH):
        with engine.write() as txn:
            for key in part:
                for name in OF_VIEWER:
                    txn.delete(name, key)


def erase_from_folder(folder: Path | str, user_ids: Sequence[int | str], now_ms: int, *, map_bytes: int = MAP_BYTES) -> Receipt:
    """Erase viewers from the store in `folder`, which no server may hold, and write its file anew without freed pages.

    What `state build` keeps there to go on from, and a store that waits for its server, are removed: they are built again.
    Raises StoreError.
    """
    if is_url(folder):
        return Receipt("the store in Redis", {}, "all, as servers share it", "`DELETE /v1/viewers/ID` of one of them")
    folder, removed = Path(folder), {}
    if not os.path.lexists(folder / "current"):
        return Receipt(str(folder))
    with closing(locked(folder)):
        for name in LINKS[1:]:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "state", ignore_errors=True)
        path = new_environment(folder)
        with closing(Environment(folder / "current", durable=True, map_bytes=map_bytes)) as environment:
            removed = erase_viewer(environment, user_ids, now_ms)
            environment.copy(path)
        point(folder, "current", path.name)
        clear(folder)
    return Receipt(str(folder), removed, stays=KEYS_STAY, until="seven days after each")

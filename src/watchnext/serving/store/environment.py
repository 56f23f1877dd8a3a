"""The store's folder: one LMDB environment behind a `current` link, held by one process.

env-7/  env-8/     environments; one without a link was left by a process that died
current            link to the environment that a server opens
next               link to one that was built beside it, which the next server takes over
taking             the same link during the takeover, so that a newer `next` leaves the environment alone
lock  names        locks: held by a server while it runs, and by any process for the moment in which links change
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import lmdb

from watchnext.files import link

LINKS = ("current", "next", "taking")
MAP_BYTES = 16 << 30  # address space, not disk: the file grows as it is written
TABLES = (
    "meta",
    "journal",
    "viewers",
    "videos",
    "creators",
    "keys",
    "keys_order",
    "shown",
    "shown_order",
    "slates",
    "quarantine",
    "withdrawn",
)


class StoreError(RuntimeError):
    """A store that cannot be opened, read or written; the message names the store and the next command."""


class StoreHeldError(StoreError):
    """Another process holds the lock."""


class StoreFullError(StoreError):
    """A transaction that does not fit; nothing of it was written, and a smaller one may fit."""


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Yield `items` in lists of `size`; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def number_key(number: int) -> bytes:
    """Encode a position or row number as a key: big-endian, so that keys sort like numbers."""
    return number.to_bytes(8, "big")


class Environment:
    """The tables of one LMDB environment. Without `durable`, a power cut may lose commits; kill -9 never does.

    `readonly` reads beside the writing process without blocking it. A process must not open an environment twice.

    failed  message of the first write or fsync that failed, else None. Nothing is written after it: the kernel may have dropped
            the pages, and a later fsync that succeeds would not say so
    """

    def __init__(self, path: Path, *, durable: bool, map_bytes: int, readonly: bool = False) -> None:
        self.path, self._readonly = Path(path).resolve(), readonly
        self.failed: str | None = None
        try:
            self._env = lmdb.open(
                str(self.path),
                map_size=map_bytes,
                max_dbs=len(TABLES),
                max_readers=512,
                sync=durable,
                metasync=durable,
                readonly=readonly,
                create=not readonly,
            )
            self.tables = {name: self._env.open_db(name.encode(), create=not readonly) for name in TABLES}
            self._env.reader_check()  # a killed reader would keep every page that it saw
        except lmdb.Error as error:
            raise StoreError(
                f"the store {self.path} cannot be opened ({error}); stop its process, or remove it to start again"
            ) from error
        self._map_bytes = map_bytes
        self._closed = False

    @contextmanager
    def write(self) -> Iterator[lmdb.Transaction]:
        """Open one transaction: all of it is on disk when the block ends, or none of it. Raises StoreError, and after a failed
        write always."""
        self.require_writable()
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.MapFullError as error:
            raise StoreFullError(
                f"the store {self.path} is full at {self._map_bytes} bytes; open it with a larger map_bytes"
            ) from error
        except lmdb.Error as error:
            self.failed = f"the store {self.path} cannot be written: {error}; check its disk, then restart the server"
            raise StoreError(self.failed) from error

    def require_writable(self) -> None:
        """Raise StoreError after a failed write."""
        if self.failed:
            raise StoreError(self.failed)

    @contextmanager
    def read(self) -> Iterator[lmdb.Transaction]:
        try:
            with self._env.begin() as txn:
                yield txn
        except lmdb.Error as error:
            raise StoreError(f"the store {self.path} cannot be read: {error}") from error

    def get(self, table: str, key: bytes) -> bytes | None:
        with self.read() as txn:
            return txn.get(key, db=self.tables[table])

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if not self._readonly:
                self._env.sync(True)
            self._env.close()


def state_of(environment: Environment) -> str:
    """Return the fingerprint of the state that the records belong to."""
    return (environment.get("meta", b"state") or b"nothing").decode()


@dataclass(frozen=True)
class RecentKeys:
    """Remember at most `limit` keys for at most `keep_ms`; the oldest is forgotten first."""

    table: object
    order: object
    limit: int
    keep_ms: int

    @classmethod
    def of(cls, environment: Environment, name: str, *, limit: int, keep_ms: int) -> "RecentKeys":
        return cls(environment.tables[name], environment.tables[f"{name}_order"], limit, keep_ms)

    def holds(self, txn: lmdb.Transaction, key: bytes) -> bool:
        return txn.get(key, db=self.table) is not None

    def add(self, txn: lmdb.Transaction, key: bytes, at_ms: int) -> None:
        txn.put(key, number_key(at_ms), db=self.table)
        append(txn, self.order, key)
        with txn.cursor(self.order) as cursor:
            while cursor.first() and self._is_expired(txn, cursor.value(), at_ms):
                txn.delete(cursor.value(), db=self.table)
                cursor.delete()

    def _is_expired(self, txn: lmdb.Transaction, key: bytes, now_ms: int) -> bool:
        added_ms = txn.get(key, db=self.table)
        return txn.stat(self.table)["entries"] > self.limit or int.from_bytes(added_ms or b"", "big") < now_ms - self.keep_ms


def append(txn: lmdb.Transaction, table: object, value: bytes) -> int:
    """Append `value` to a table; return its position, from 0."""
    with txn.cursor(table) as cursor:
        position = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
    txn.put(number_key(position), value, db=table, append=True)
    return position


def locked(folder: Path) -> IO:
    """Take the folder's lock, held until it is closed or the process dies. Raises StoreHeldError naming the holder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = open(Path(folder) / "lock", "a+")  # noqa: SIM115 (held while the store is open)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise StoreHeldError(
            f"the store {folder} is open in process {holder}; stop that server first, or name another folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


@contextmanager
def link_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time change the links of the folder, for moments only, with or without a running server."""
    with open(Path(folder) / "names", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def new_environment(folder: Path) -> Path:
    """Make an empty folder for a new environment, and remove those that killed builds left. Needs the lock."""
    with link_lock(folder):
        _clear(folder)
        path = _next_path(folder)
        path.mkdir()
    return path


def clear(folder: Path) -> None:
    """Remove every environment that no link points at. Needs the lock."""
    with link_lock(folder):
        _clear(folder)


def _clear(folder: Path) -> None:
    linked = {target_of(folder, name) for name in LINKS}
    for path in Path(folder).glob("env-*"):
        if path.name not in linked:
            shutil.rmtree(path)


def _next_path(folder: Path) -> Path:
    numbers = [int(path.name.removeprefix("env-")) for path in Path(folder).glob("env-*")]
    return Path(folder) / f"env-{max(numbers, default=0) + 1}"


def target_of(folder: Path, name: str) -> str | None:
    """Return the name of the environment that the link `name` points at; None without a link, or for a broken one."""
    path = Path(folder) / name
    return path.resolve().name if path.exists() else None


def publish_next(folder: Path, built: Path) -> None:
    """Move the environment `built` (on the same disk) to `next`, and remove the previous `next`. Needs no lock."""
    with link_lock(folder):
        previous, path = target_of(folder, "next"), _next_path(folder)
        os.rename(built, path)
        link(folder, "next", path.name)
        if previous not in (None, target_of(folder, "current"), target_of(folder, "taking")):
            shutil.rmtree(Path(folder) / previous)


def claim_next(folder: Path) -> Path | None:
    """Return the environment `next`, or None; it is kept until `commit_claim` or another claim. Needs the lock."""
    with link_lock(folder):
        name = target_of(folder, "next")
        if name == target_of(folder, "current"):  # a process died between two steps of `commit_claim`
            (Path(folder) / "next").unlink(missing_ok=True)
            name = None
        if name is not None:
            link(folder, "taking", name)
    return Path(folder) / name if name else None


def commit_claim(folder: Path, claimed: Path) -> None:
    """Make the claimed environment `current`; a `next` that was published meanwhile stays. Needs the lock."""
    with link_lock(folder):
        link(folder, "current", claimed.name)
        if target_of(folder, "next") == claimed.name:
            (Path(folder) / "next").unlink()
        (Path(folder) / "taking").unlink(missing_ok=True)
        _clear(folder)

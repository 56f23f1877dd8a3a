"""The store's folder: one LMDB environment behind a `current` link, held by one process."""

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
    """A store that cannot be opened, read or written; the message names it and the next command."""


def parts(items: Iterable, size: int) -> Iterator[list]:
    """`items` in lists of `size`; the last may be shorter."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part


def place(number: int) -> bytes:
    """A position or row number as a key: big-endian, so that keys sort as numbers do."""
    return number.to_bytes(8, "big")


class Environment:
    """Named tables of one LMDB environment. Without `durable`, a power cut may lose commits; kill -9 never does."""

    def __init__(self, path: Path, *, durable: bool, map_bytes: int) -> None:
        self.path = Path(path).resolve()
        try:
            self._env = lmdb.open(
                str(self.path), map_size=map_bytes, max_dbs=len(TABLES), sync=durable, max_readers=512, metasync=durable
            )
            self.tables = {name: self._env.open_db(name.encode()) for name in TABLES}
        except lmdb.Error as error:
            raise StoreError(
                f"the store {self.path} cannot be opened ({error}); stop what holds it, or remove it to start anew"
            ) from error
        self._map_bytes = map_bytes
        self._closed = False

    @contextmanager
    def write(self) -> Iterator[lmdb.Transaction]:
        """One transaction: all of it is on disk when the block ends, or none of it."""
        try:
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.MapFullError as error:
            raise StoreError(
                f"the store {self.path} is full at {self._map_bytes} bytes; open it with a larger map_bytes"
            ) from error
        except lmdb.Error as error:
            raise StoreError(f"the store {self.path} cannot be written: {error}") from error

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
            self._env.sync(True)
            self._env.close()


@dataclass(frozen=True)
class Bounded:
    """Keys remembered up to `limit` of them and `keep_ms` long, the oldest forgotten first."""

    table: object
    order: object
    limit: int
    keep_ms: int

    @classmethod
    def of(cls, environment: Environment, name: str, *, limit: int, keep_ms: int) -> "Bounded":
        return cls(environment.tables[name], environment.tables[f"{name}_order"], limit, keep_ms)

    def holds(self, txn: lmdb.Transaction, key: bytes) -> bool:
        return txn.get(key, db=self.table) is not None

    def add(self, txn: lmdb.Transaction, key: bytes, at_ms: int) -> None:
        txn.put(key, place(at_ms), db=self.table)
        append(txn, self.order, key)
        with txn.cursor(self.order) as cursor:
            while cursor.first() and self._is_over(txn, cursor.value(), at_ms):
                txn.delete(cursor.value(), db=self.table)
                cursor.delete()

    def _is_over(self, txn: lmdb.Transaction, key: bytes, now_ms: int) -> bool:
        known = txn.get(key, db=self.table)
        return txn.stat(self.table)["entries"] > self.limit or int.from_bytes(known or b"", "big") < now_ms - self.keep_ms


def append(txn: lmdb.Transaction, table: object, value: bytes) -> int:
    """Put `value` behind the last entry; returns its position, from 0."""
    with txn.cursor(table) as cursor:
        position = int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0
    txn.put(place(position), value, db=table, append=True)
    return position


def locked(folder: Path) -> IO:
    """The folder's lock, held until closed or the process dies. Raises StoreError naming who holds it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = open(Path(folder) / "lock", "a+")  # noqa: SIM115 (held as long as the store)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise StoreError(
            f"the store {folder} is open in process {holder}; stop that server first, or name another folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def fresh(folder: Path) -> Path:
    """An empty place in the folder to build an environment aside; what a killed build left is removed."""
    clear(folder)
    now = (Path(folder) / "current").resolve().name
    number = int(now.removeprefix("env-")) + 1 if now.startswith("env-") else 1
    built = Path(folder) / f"env-{number}"
    built.mkdir()
    return built


def clear(folder: Path) -> None:
    """Remove every environment that `current` does not point at."""
    now = (Path(folder) / "current").resolve()
    for path in Path(folder).glob("env-*"):
        if path.resolve() != now:
            shutil.rmtree(path)


def link(folder: Path, name: str, target: str) -> None:
    """Point the link `name` in `folder` at `target`, in one step that a crash cannot halve."""
    folder = Path(folder)
    aside = folder / f".{name}-{os.getpid()}"
    aside.unlink(missing_ok=True)
    os.symlink(target, aside)
    os.replace(aside, folder / name)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

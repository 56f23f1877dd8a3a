"""The store's folder: one LMDB environment behind a `current` link, held by one process.

env-7/  env-8/     environments; what no link points at was left by a process that died
current            the one that a server opens
next               one that was built beside it, for the next server to take over
taking             the same while that goes on, so that a newer `next` leaves it alone
lock  names        held by a server as long as it runs, and by anyone for the moment in which links change
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
    """A store that cannot be opened, read or written; the message names it and the next command."""


class StoreHeldError(StoreError):
    """Another process holds the lock."""


def parts(items: Iterable, size: int) -> Iterator[list]:
    """`items` in lists of `size`; the last may be shorter."""
    left = iter(items)
    while part := list(islice(left, size)):
        yield part


def place(number: int) -> bytes:
    """A position or row number as a key: big-endian, so that keys sort as numbers do."""
    return number.to_bytes(8, "big")


class Environment:
    """Named tables of one LMDB environment. Without `durable`, a power cut may lose commits; kill -9 never does.

    `readonly` reads beside the process that writes, without holding it up; in one process an environment is open once.
    """

    def __init__(self, path: Path, *, durable: bool, map_bytes: int, readonly: bool = False) -> None:
        self.path, self._readonly = Path(path).resolve(), readonly
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
            self._env.reader_check()  # a reader that was killed would keep every page that it saw
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
            if not self._readonly:
                self._env.sync(True)
            self._env.close()


def state_of(environment: Environment) -> str:
    """Fingerprint of the state that the records belong to."""
    return (environment.get("meta", b"state") or b"nothing").decode()


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
    """The folder's lock, held until closed or the process dies. Raises StoreHeldError naming who holds it."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    lock = open(Path(folder) / "lock", "a+")  # noqa: SIM115 (held as long as the store)
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
def naming(folder: Path) -> Iterator[None]:
    """One process at a time changes what is called what in the folder, be a server up or not; it takes moments."""
    with open(Path(folder) / "names", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fresh(folder: Path) -> Path:
    """An empty place in the folder to build an environment aside; what a killed build left is removed. Needs the lock."""
    with naming(folder):
        _clear(folder)
        built = _another(folder)
        built.mkdir()
    return built


def clear(folder: Path) -> None:
    """Remove every environment that no link points at. Needs the lock."""
    with naming(folder):
        _clear(folder)


def _clear(folder: Path) -> None:
    linked = {target_of(folder, name) for name in LINKS}
    for path in Path(folder).glob("env-*"):
        if path.name not in linked:
            shutil.rmtree(path)


def _another(folder: Path) -> Path:
    numbers = [int(path.name.removeprefix("env-")) for path in Path(folder).glob("env-*")]
    return Path(folder) / f"env-{max(numbers, default=0) + 1}"


def target_of(folder: Path, name: str) -> str | None:
    """The environment that the link `name` points at; None where there is no link, or it points at nothing."""
    path = Path(folder) / name
    return path.resolve().name if path.exists() else None


def offer(folder: Path, built: Path) -> None:
    """Let `next` be the environment `built`, from elsewhere on the same disk; the `next` before it goes. Needs no lock."""
    with naming(folder):
        before, place = target_of(folder, "next"), _another(folder)
        os.rename(built, place)
        link(folder, "next", place.name)
        if before not in (None, target_of(folder, "current"), target_of(folder, "taking")):
            shutil.rmtree(Path(folder) / before)


def claim(folder: Path) -> Path | None:
    """The environment that is `next`, kept until `settle` or another claim, or None. Needs the lock."""
    with naming(folder):
        name = target_of(folder, "next")
        if name == target_of(folder, "current"):  # a process died between the two steps of `settle`
            (Path(folder) / "next").unlink(missing_ok=True)
            name = None
        if name is not None:
            link(folder, "taking", name)
    return Path(folder) / name if name else None


def settle(folder: Path, taken: Path) -> None:
    """Let what was claimed be `current`; a `next` that came meanwhile stays. Needs the lock."""
    with naming(folder):
        link(folder, "current", taken.name)
        if target_of(folder, "next") == taken.name:
            (Path(folder) / "next").unlink()
        (Path(folder) / "taking").unlink(missing_ok=True)
        _clear(folder)

"""One LMDB environment as an engine."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NoReturn

import lmdb

from watchnext.serving.store.engines.engine import (
    FOLLOWED,
    REPAIR,
    TABLES,
    Changes,
    Engine,
    StoreError,
    StoreFullError,
    Transaction,
    number_key,
)

MAP_BYTES = 64 << 30  # address space, not disk: the file grows as it is written
READERS_CHECKED = 256  # transactions between two looks for readers that died


class LmdbTransaction(Transaction):
    """A table that an older version did not make is empty for a reader."""

    def __init__(self, txn: lmdb.Transaction, tables: dict[str, object | None]) -> None:
        self._txn, self._tables = txn, tables
        self.changes: Changes = {}
        self._ends: dict[str, int] = {}  # of the queues that this transaction appended to

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._txn.get(key, db=opened) if (opened := self._tables[table]) else None

    def items(self, table: str, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if not (opened := self._tables[table]):
            return
        with self._txn.cursor(opened) as cursor:
            if reverse:
                yield from cursor.iterprev() if cursor.last() else ()
            else:
                yield from cursor.iternext() if cursor.set_range(start) else ()

    def count(self, table: str) -> int:
        return self._txn.stat(opened)["entries"] if (opened := self._tables[table]) else 0

    def size(self, table: str) -> int:
        stat = self._txn.stat(self._tables[table])
        return stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])

    def end(self, table: str) -> int:
        for key, _ in islice(self.items(table, reverse=True), 1):
            return int.from_bytes(key, "big") + 1
        return 0

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.put_many(table, [(key, value)])

    def append_many(self, table: str, values: Sequence[bytes], seal: Callable[[bytes, bytes], bytes] | None = None) -> None:
        first = self._ends[table] if table in self._ends else self.end(table)
        self._ends[table] = first + len(values)
        keys = [number_key(position) for position in range(first, first + len(values))]
        self._put(table, list(zip(keys, map(seal, keys, values) if seal else values, strict=True)), append=True)

    def put_many(self, table: str, items: list[tuple[bytes, bytes]]) -> None:
        self._put(table, items)

    def _put(self, table: str, items: list[tuple[bytes, bytes]], *, append: bool = False) -> None:
        if not items:
            return
        with self._txn.cursor(self._tables[table]) as cursor:
            cursor.putmulti(items, append=append)
        self._follow(table, items)

    def _follow(self, table: str, items: list[tuple[bytes, bytes]]) -> None:
        if table in FOLLOWED:
            self.changes.setdefault(table, []).extend(items)

    def replace(self, table: str, key: bytes, value: bytes) -> bool:
        if self.get(table, key) is None:
            return False
        self.put(table, key, value)
        return True

    def delete(self, table: str, key: bytes) -> bool:
        return self._txn.delete(key, db=self._tables[table])

    def clear(self, table: str) -> None:
        self._ends.pop(table, None)
        self._txn.drop(self._tables[table], delete=False)


class Environment(Engine):
    """The tables of one LMDB environment. Without `durable`, a power cut may lose commits; kill -9 never does.

    `readonly` reads beside the writing process without blocking it. A process must not open an environment twice.

    failed  message of the first write or fsync that failed, else None. Nothing is written after it: the kernel may have dropped
            the pages, and a later fsync that succeeds would not say so
    """

    def __init__(self, path: Path, *, durable: bool, map_bytes: int, readonly: bool = False) -> None:
        super().__init__()
        self.path, self.readonly = Path(path).resolve(), readonly
        self.name = self.path.name
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
            self._require_whole()
            self._tables = {name: self._table(name) for name in TABLES}
        except (lmdb.Error, FileNotFoundError) as error:
            raise StoreError(
                f"the store {self.path} cannot be opened ({error}); stop its process, or remove it to start again"
            ) from error
        self._map_bytes, self._inodes = map_bytes, self._inodes_now()
        self._written = 0
        self._closed = False

    def _require_whole(self) -> None:
        """Raise StoreError for a file that was cut short: what reads a mapped page beyond its end dies by SIGBUS."""
        expected, size = bytes_of(self._env), os.stat(self.path / "data.mdb").st_size
        if size < expected:
            self._env.close()
            raise StoreError(
                f"the store {self.path} is damaged: its file has {size} bytes, expected {expected}; run `{REPAIR}`"
            )

    def _table(self, name: str) -> object | None:
        """Open a table; None for one that an older version did not make and a reader may not."""
        try:
            return self._env.open_db(name.encode(), create=not self.readonly)
        except lmdb.NotFoundError:
            return None

    @contextmanager
    def write(self) -> Iterator[LmdbTransaction]:
        """Open one transaction: all of it is on disk when the block ends, or none of it. Raises StoreError, and after a failed
        write always."""
        self.require_writable()
        if gone := [path.name for path, inode in self._inodes_now().items() if inode != self._inodes[path]]:
            self._fail(f"{', '.join(gone)} was removed or replaced under the server")
        try:
            if self._written % READERS_CHECKED == 0:
                self._env.reader_check()  # a killed reader would keep every page that it saw
            self._written += 1
            with self._env.begin(write=True) as txn:
                yield (transaction := LmdbTransaction(txn, self._tables))
        except lmdb.MapFullError as error:
            raise StoreFullError(
                f"the store {self.path} is full at {self._map_bytes} bytes; open it with a larger map_bytes"
            ) from error
        except lmdb.Error as error:
            self._fail(str(error), error)
        self.publish(transaction.changes)

    def _fail(self, reason: str, error: Exception | None = None) -> NoReturn:
        self.failed = f"the store {self.path} cannot be written: {reason}; check its disk, then restart the server"
        raise StoreError(self.failed) from error

    def _inodes_now(self) -> dict[Path, int | None]:
        """Return the inodes of the file, and of the locks that keep others from writing beside: LMDB's, and the folder's."""
        return {path: _inode(path) for path in (self.path / "data.mdb", self.path / "lock.mdb", self.path.parent / "lock")}

    @contextmanager
    def read(self) -> Iterator[LmdbTransaction]:
        try:
            with self._env.begin() as txn:
                yield LmdbTransaction(txn, self._tables)
        except lmdb.Error as error:
            raise StoreError(f"the store {self.path} cannot be read: {error}") from error

    def copy(self, path: Path) -> None:
        """Copy what the tables hold to a new environment in the empty folder `path`, without freed pages. Raises StoreError."""
        try:
            self._env.copy(str(path), compact=True)
        except lmdb.Error as error:
            raise StoreError(f"the store {self.path} cannot be copied to {path}: {error}") from error

    def close(self) -> None:
        """Sync and close the file. Raises StoreError where it cannot be synced; it is closed then, too."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self.readonly:
                self._env.sync(True)
        except lmdb.Error as error:
            raise StoreError(f"the store {self.path} cannot be written: {error}; check its disk") from error
        finally:
            self._env.close()


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def bytes_of(env: lmdb.Environment) -> int:
    """Return the size that the file of an environment has at least."""
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def lengthened(path: Path) -> None:
    """Give a file that was cut short its size again, so that what is left can be read. No process may hold it open.

    Raises StoreError if it is no store.
    """
    try:
        with closing(lmdb.open(str(path), readonly=True, create=False)) as env:
            expected = bytes_of(env)
    except lmdb.Error as error:
        raise StoreError(f"the store {path} cannot be opened: {error}") from error
    if os.stat(path / "data.mdb").st_size < expected:
        os.truncate(path / "data.mdb", expected)

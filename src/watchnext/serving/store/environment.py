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
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, NoReturn

import lmdb

from watchnext.files import link

REPAIR = "python -m watchnext.serving build-store"
LINKS = ("current", "next", "taking")
MAP_BYTES = 64 << 30  # address space, not disk: the file grows as it is written
READERS_CHECKED = 256  # transactions between two looks for readers that died
PURGED, STEP_MS = 4, 60_000  # of RecentKeys
TABLES = (
    "meta",
    "journal",
    "viewers",
    "viewers_order",
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
            self._require_whole()
            self.tables = {name: self._table(name) for name in TABLES}
        except lmdb.Error as error:
            raise StoreError(
                f"the store {self.path} cannot be opened ({error}); stop its process, or remove it to start again"
            ) from error
        self._map_bytes, self._inode = map_bytes, self._inode_of()
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
            return self._env.open_db(name.encode(), create=not self._readonly)
        except lmdb.NotFoundError:
            return None

    @contextmanager
    def write(self) -> Iterator[lmdb.Transaction]:
        """Open one transaction: all of it is on disk when the block ends, or none of it. Raises StoreError, and after a failed
        write always."""
        self.require_writable()
        if self._inode_of() != self._inode:
            self._fail("its file was removed or replaced under the server")
        try:
            if self._written % READERS_CHECKED == 0:
                self._env.reader_check()  # a killed reader would keep every page that it saw
            self._written += 1
            with self._env.begin(write=True) as txn:
                yield txn
        except lmdb.MapFullError as error:
            raise StoreFullError(
                f"the store {self.path} is full at {self._map_bytes} bytes; open it with a larger map_bytes"
            ) from error
        except lmdb.Error as error:
            self._fail(str(error), error)

    def _fail(self, reason: str, error: Exception | None = None) -> NoReturn:
        self.failed = f"the store {self.path} cannot be written: {reason}; check its disk, then restart the server"
        raise StoreError(self.failed) from error

    def _inode_of(self) -> int | None:
        try:
            return os.stat(self.path / "data.mdb").st_ino
        except OSError:
            return None

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


def state_of(environment: Environment) -> str:
    """Return the fingerprint of the state that the records belong to; "nothing" for a store without checksums too."""
    return (environment.get("meta", b"sealed_state") or b"nothing").decode()


class RecentKeys:
    """Remember at most `limit` keys for `keep_ms`; the oldest are forgotten first, PURGED at a time.

    Time is that of the events. None moves it by more than STEP_MS or back, so that a clock that jumps forgets no key too early.
    """

    def __init__(self, environment: Environment, name: str, *, limit: int, keep_ms: int) -> None:
        self._table, self._order = environment.tables[name], environment.tables[f"{name}_order"]
        self._limit, self._keep_ms = limit, keep_ms
        self._now_ms = self._latest_ms = None

    def holds(self, txn: lmdb.Transaction, key: bytes) -> bool:
        return txn.get(key, db=self._table) is not None

    def add(self, txn: lmdb.Transaction, key: bytes, at_ms: int) -> None:
        txn.put(key, number_key(self._time_ms(txn, at_ms)), db=self._table)
        append(txn, self._order, key)
        excess = txn.stat(self._table)["entries"] - self._limit
        with txn.cursor(self._order) as cursor:
            for i in range(PURGED):
                if not cursor.first() or not (i < excess or self._added_ms(txn, cursor.value()) < self._now_ms - self._keep_ms):
                    return
                txn.delete(cursor.value(), db=self._table)
                cursor.delete()

    def _time_ms(self, txn: lmdb.Transaction, at_ms: int) -> int:
        if self._now_ms is None:
            with txn.cursor(self._order) as cursor:
                self._now_ms = self._added_ms(txn, cursor.value()) if cursor.last() else at_ms
            self._latest_ms = at_ms
        self._now_ms += min(max(at_ms - self._latest_ms, 0), STEP_MS)
        self._latest_ms = max(at_ms, self._latest_ms)
        return self._now_ms

    def _added_ms(self, txn: lmdb.Transaction, key: bytes) -> int:
        return int.from_bytes(txn.get(key, db=self._table) or b"", "big")


def append(txn: lmdb.Transaction, table: object, value: bytes, seal: Callable[[bytes, bytes], bytes] | None = None) -> None:
    """Append `value`, or what `seal` makes of its key and itself, to a table; keys are positions, from 0."""
    with txn.cursor(table) as cursor:
        key = number_key(int.from_bytes(cursor.key(), "big") + 1 if cursor.last() else 0)
    txn.put(key, seal(key, value) if seal else value, db=table, append=True)


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


def table_bytes(txn: lmdb.Transaction, table: object) -> int:
    """Return the size of a table's pages."""
    stat = txn.stat(table)
    return stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])


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

"""The key-value engine below a store: named tables, one writer at a time, a transaction is stored whole or not at all."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Protocol

REPAIR = "python -m watchnext.serving build-store"


class Order(Enum):
    """The order in which an engine must keep the keys of a table.

    ANY     none: keys are only looked up, or all read
    SORTED  as bytes
    QUEUE   positions (`number_key`) from a first to a last without gaps: values go in at the end and leave at the front
    """

    ANY = 0
    SORTED = 1
    QUEUE = 2


@dataclass(frozen=True, slots=True)
class Table:
    """order     of its keys
    carried   True where it holds ids and no row numbers, so that it stays valid under another catalogue
    followed  True where a store keeps the values in memory, so that the engine hands it each change
    small     True for a few values that every write transaction needs
    spread    True where it grows with viewers or videos, so that several machines may have to share it
    counted   True where write transactions ask for the number of its keys; they have read each key that they change
    """

    order: Order = Order.ANY
    carried: bool = False
    followed: bool = False
    small: bool = False
    spread: bool = False
    counted: bool = False


TABLES = {
    "meta": Table(small=True),
    "clocks": Table(carried=True, small=True),
    "journal": Table(Order.QUEUE, carried=True, followed=True),
    "viewers": Table(Order.SORTED, spread=True, counted=True),
    "viewers_order": Table(Order.QUEUE),
    "seen": Table(spread=True),
    "videos": Table(followed=True, spread=True),
    "creators": Table(followed=True, spread=True),
    "keys": Table(carried=True, spread=True, counted=True),
    "keys_order": Table(Order.QUEUE, carried=True),
    "shown": Table(carried=True, spread=True, counted=True),
    "shown_order": Table(Order.QUEUE, carried=True),
    "slates": Table(spread=True),
    "quarantine": Table(Order.QUEUE, carried=True),
    "withdrawn": Table(carried=True),
    "live": Table(Order.SORTED, carried=True),
    "names": Table(Order.QUEUE, carried=True),
    "erased": Table(carried=True, followed=True),
    "erased_here": Table(),
}


FOLLOWED = tuple(name for name, table in TABLES.items() if table.followed)
CHUNK = 5_000  # records or events a transaction during a build
Changes = dict[str, list[tuple[bytes, bytes]]]  # table > keys and new values of one commit


class StoreError(RuntimeError):
    """A store that cannot be opened, read or written; the message names the store and the next command."""


class StoreHeldError(StoreError):
    """Another process holds the lock."""


class StoreFullError(StoreError):
    """A transaction that does not fit; nothing of it was written, and a smaller one may fit."""


class StoreDownError(StoreError):
    """The engine does not answer. A transaction that was under way may be stored or not."""


class Transaction(ABC):
    """Read tables, and in a write transaction change them; it sees its own changes."""

    @abstractmethod
    def get(self, table: str, key: bytes) -> bytes | None: ...

    def prefetch(self, table: str, keys: Iterable[bytes]) -> None:  # noqa: B027 (most engines need none)
        """Announce keys that `get` will read, so that an engine behind a network reads them at once."""

    @abstractmethod
    def items(self, table: str, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values from the key `start` on, or all from the last back, in the order of the table."""

    @abstractmethod
    def count(self, table: str) -> int: ...

    @abstractmethod
    def size(self, table: str) -> int:
        """Return the bytes that a table takes."""

    @abstractmethod
    def end(self, table: str) -> int:
        """Return the position behind the last value of a queue, 0 for one that never had any."""

    def head(self, table: str, most: int) -> list[tuple[bytes, bytes]]:
        """Return the first `most` items."""
        return list(islice(self.items(table), most))

    @abstractmethod
    def put(self, table: str, key: bytes, value: bytes) -> None: ...

    def append(self, table: str, value: bytes) -> None:
        """Add a value to the end of a queue."""
        self.append_many(table, [value])

    @abstractmethod
    def append_many(self, table: str, values: Sequence[bytes], seal: Callable[[bytes, bytes], bytes] | None = None) -> None:
        """Add `values`, or what `seal` makes of the key and each, to the end of a queue."""

    @abstractmethod
    def put_many(self, table: str, items: list[tuple[bytes, bytes]]) -> None: ...

    @abstractmethod
    def replace(self, table: str, key: bytes, value: bytes) -> bool:
        """Change a value of a queue in its place; return False where it is gone."""

    @abstractmethod
    def delete(self, table: str, key: bytes) -> bool:
        """Remove a key, of a queue the first; return False if there is none."""

    @abstractmethod
    def clear(self, table: str) -> None: ...


class Listener(Protocol):
    """Keeps in memory what an engine stores."""

    def publish(self, changes: Changes) -> None:
        """Take the changes of FOLLOWED tables by one commit, of this process or of another."""

    def reload(self) -> None:
        """Load everything again: commits were missed."""

    def catch_up(self) -> None:
        """Fold the events that servers of another catalogue wrote to the journal."""


class Engine(ABC):
    """Tables of one store.

    name       which no other build of the store has
    readonly   True where nothing may be written
    failed     message while nothing can be written, else None
    is_shared  True where other processes write too, also for other catalogues: the carried tables are common to all
    behind_s   seconds since the moment as of which all commits of others are in memory
    listeners  that every commit is handed to, in the order of the commits
    sequence   lock that is held meanwhile
    """

    name: str
    readonly: bool
    failed: str | None
    is_shared, behind_s = False, 0.0

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.sequence = threading.RLock()

    def publish(self, changes: Changes) -> None:
        """Hand a commit to the listeners."""
        with self.sequence:
            for listener in self.listeners:
                listener.publish(changes)

    @abstractmethod
    def write(self) -> AbstractContextManager[Transaction]:
        """Open the one write transaction: when the block ends, all of it is stored as durably as the engine was asked to, or
        StoreError was raised and none of it is. Raises StoreError."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Transaction]: ...

    @abstractmethod
    def close(self) -> None: ...

    def get(self, table: str, key: bytes) -> bytes | None:
        with self.read() as txn:
            return txn.get(table, key)

    def require_writable(self) -> None:
        """Raise StoreError while nothing can be written."""
        if self.failed:
            raise StoreError(self.failed)


def batched(items: Iterable, size: int) -> Iterator[list]:
    """Yield `items` in lists of `size`; the last may be shorter."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def number_key(number: int) -> bytes:
    """Encode a position or row number as a key: big-endian, so that keys sort like numbers."""
    return number.to_bytes(8, "big")


def state_of(engine: Engine) -> str:
    """Return the fingerprint of the state that the records belong to; "nothing" for a store of a version without checksums, or
    without the sets of seen videos."""
    fingerprint = engine.get("meta", b"sealed_state") if engine.get("meta", b"has_seen") else None
    return (fingerprint or b"nothing").decode()

"""Redis as an engine: server processes on one or more machines share the state.

Every commit appends one entry to the stream `watchnext:changes`: its number, its id, the id of the one before, and the new
values of what processes hold in memory. A commit is a script that does nothing unless the last entry is the one that the writer
had seen, so a writer that lost its lock stores nothing. All processes follow the stream.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from redis.exceptions import (
    AskError,
    ClusterError,
    ConnectionError,
    LockError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)
from redis.lock import Lock

from watchnext.serving.store.engines.engine import (
    FOLLOWED,
    REPAIR,
    TABLES,
    Changes,
    Engine,
    StoreDownError,
    StoreError,
    StoreFullError,
    state_of,
)
from watchnext.serving.store.engines.redis_commit import RedisCommits, number_of, packed, unpacked_items
from watchnext.serving.store.engines.redis_nodes import CLUSTERS, Names, RedisNodes
from watchnext.serving.store.engines.redis_transaction import RedisTransaction

log = logging.getLogger(__name__)

READ_S, WRITE_S = 0.5, 5.0  # longest wait for an answer of Redis
LOCK_S = 2.0  # a writer that was killed holds up the others for this long; one that takes longer stores nothing
BUILD_S = 120.0  # likewise a build, which renews its lock at every commit
FOLLOW_MS = 100  # longest wait for a commit, after which the connection is checked
RETRY_S = 0.1
CHANGES_KEPT = 1_000  # commits; a process that was away for more loads everything again
NOTHING = (0, b"")  # number and id before the first commit
MOVED = (ClusterError, AskError, TryAgainError, ReadOnlyError, RedisClusterException)  # a replica takes over, or a slot moves
DOWN = (ConnectionError, TimeoutError, *MOVED)


def is_url(location: object) -> bool:
    """Return True for a store in Redis, False for a folder."""
    return urlsplit(str(location)).scheme in ("redis", "rediss", *CLUSTERS)


def location(given: object) -> Path | str:
    """Return a URL of Redis as it is, anything else as a folder."""
    return str(given) if is_url(given) else Path(str(given))


class RedisEngine(Engine):
    """Tables of one state in one database of Redis.

    With `durable`, it refuses a Redis that does not write its log, and warns of one that does not sync it before it answers.
    `builds` writes a state that nobody reads yet.
    """

    is_shared, readonly = True, False

    def __init__(self, url: str, *, state: str, durable: bool, builds: bool = False) -> None:
        super().__init__()
        parts = urlsplit(url)
        self.shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without the password
        self._names, self._builds = Names(state, url), builds
        self._seen, self._down, self._closed = NOTHING, None, threading.Event()
        self._is_behind, self._current_at = False, time.monotonic()
        self._thread: threading.Thread | None = None
        self._build_lock: Lock | None = None
        self._clients: list[RedisNodes] = []
        with self._answers():
            for timeout_s in (READ_S, WRITE_S):
                self._clients.append(self._nodes(url, timeout_s))
            self._reader, self._writer = self._clients
            self._commits = RedisCommits(self._writer, self._names, self.shown)
            if not builds:
                self._require_safe(durable)
            self._seen = _seen(self._commits.last())
            self._commits.settle(self._seen[0])

    def _nodes(self, url: str, timeout_s: float) -> RedisNodes:
        try:
            return RedisNodes(url, self._names.home, timeout_s=timeout_s, connect_s=READ_S)
        except ValueError as error:
            raise StoreError(f"the store {self.shown} is not a URL of Redis ({error}), expected redis://host:6379/0") from error

    def _require_safe(self, durable: bool) -> None:
        """Raise StoreError where Redis, or a node of the cluster, would drop what it acknowledged."""
        try:
            for node in self._writer.all():
                patterns = ("appendonly", "appendfsync", "maxmemory-policy")
                self._require_safe_settings({name: node.config_get(name)[name] for name in patterns}, durable)
        except RedisError as error:
            if isinstance(error, DOWN):
                raise
            log.warning("the settings of %s cannot be read (%s): docs/operations.md lists those it needs", self.shown, error)

    def _require_safe_settings(self, settings: dict[str, str], durable: bool) -> None:
        if settings["maxmemory-policy"] != "noeviction":
            raise StoreError(
                f"the store {self.shown} has maxmemory-policy {settings['maxmemory-policy']}, which drops records, expected "
                "noeviction; run `redis-cli config set maxmemory-policy noeviction`"
            )
        if durable and settings["appendonly"] != "yes":
            raise StoreError(
                f"the store {self.shown} has appendonly {settings['appendonly']}, which keeps nothing after a restart, "
                "expected yes; run `redis-cli config set appendonly yes`"
            )
        if durable and settings["appendfsync"] != "always":
            log.warning(
                "the store %s has appendfsync %s: a power cut may lose the last second of acknowledged events; "
                "`redis-cli config set appendfsync always` loses none",
                self.shown,
                settings["appendfsync"],
            )

    # ---- state -------------------------------------------------------------------------------------------------------

    @property
    def failed(self) -> str | None:
        """Return why Redis cannot be used at the moment; it is tried again until it answers."""
        return self._down

    @property
    def name(self) -> str:
        """Return the id of the build of the state, after its fingerprint."""
        return f"{self._names.state}-{(self.get('meta', b'built') or b'').decode()}"

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Raise StoreError for errors of Redis."""
        if self._closed.is_set():
            raise StoreError(f"the store {self.shown} is closed")
        try:
            yield
        except DOWN as error:
            down = f"the store {self.shown} does not answer ({error}); start its Redis, which is tried again until then"
            self._down = down  # until the thread that follows has an answer, which may be at once
            for nodes in self._clients:
                nodes.refresh()
            raise StoreDownError(down) from error
        except OutOfMemoryError as error:
            raise StoreFullError(f"the store {self.shown} is full ({error}); raise its maxmemory") from error
        except RedisError as error:
            raise StoreError(f"the store {self.shown} refused ({error}); look at its log") from error

    @contextmanager
    def read(self) -> Iterator[RedisTransaction]:
        self.require_writable()  # who finds Redis silent does not wait for it again
        with self._answers():
            yield RedisTransaction(self._reader, self._names)

    @contextmanager
    def write(self) -> Iterator[RedisTransaction]:
        self.require_writable()
        with self._answers():
            lock = self._writer.home().lock(self._names.writer, timeout=LOCK_S, sleep=0.002, thread_local=False)
            if not lock.acquire(blocking_timeout=WRITE_S):
                raise StoreError(f"the store {self.shown} was not free within {WRITE_S:g} s; retry")
            try:
                before = self.follow()
                self._commits.settle(before[0])
                txn = RedisTransaction(self._writer, self._names, writes=True)
                txn.read_ahead()
                if not self._builds and txn.get("meta", b"sealed_state") is None:
                    raise self._misses_state()
                yield txn
                self._store(txn, before)
            finally:
                with suppress(LockError, *DOWN):
                    lock.release()

    def _store(self, txn: RedisTransaction, before: tuple[int, bytes]) -> None:
        """Commit, unless another process did since the commit `before`."""
        if not (commands := txn.commands()):
            return
        if self._build_lock is not None:
            self._build_lock.reacquire()
        with self.sequence:
            seen, changes = (before[0] + 1, uuid.uuid4().bytes), txn.changes()
            entry = {b"id": seen[1], b"before": before[1], b"state": self._names.state}
            entry |= {b"builds": b""} if self._builds else {name: packed(items) for name, items in changes.items()}
            fields = chain.from_iterable(entry.items())
            add = ["XADD", self._names.changes, "MAXLEN", CHANGES_KEPT, f"{seen[0]}-0", *fields]
            commands.setdefault(self._names.home, []).append(add)
            if not self._commits.make(seen[0], commands):
                raise StoreError(f"another server wrote to {self.shown} while this one held its lock too long; retry")
            self._seen = seen
            self.publish(changes)
        self._commits.spread(seen[0], commands)

    # ---- follow ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Follow the commits of other processes from now on."""
        self._thread = threading.Thread(target=self._run, name="store-follows", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._answers():
                    self._writer.home().xread({self._names.changes: f"{self._seen[0]}-0"}, count=1, block=FOLLOW_MS)
                    self.follow()
                self._down = None
                if self._is_behind:
                    self._is_behind = False
                    for listener in list(self.listeners):
                        listener.catch_up()
            except StoreError as error:
                if not self._closed.is_set():
                    log.warning("%s", error)
                    self._closed.wait(RETRY_S)
            except Exception:  # whatever a commit holds, the next one is followed
                log.exception("a commit in %s could not be followed", self.shown)
                self._closed.wait(RETRY_S)

    def follow(self) -> tuple[int, bytes]:
        """Hand on the commits of other processes up to the last, and return its number and id."""
        with self.sequence:
            asked_at = time.monotonic()
            pipe = self._writer.home().pipeline()  # of one moment
            pipe.xrange(self._names.changes, min=f"({self._seen[0]}-0")
            pipe.xrevrange(self._names.changes, count=1)
            entries, last = pipe.execute()
            for key, entry in entries:
                if not self._takes(int(key.partition(b"-")[0]), entry):
                    break
            if _seen(last) != self._seen:
                self._reset(_seen(last))
            self._current_at = asked_at
            return self._seen

    @property
    def behind_s(self) -> float:
        """Return the seconds since the moment as of which all commits of others are in memory."""
        return time.monotonic() - self._current_at

    def _takes(self, number: int, entry: dict[bytes, bytes]) -> bool:
        """Hand on one commit; return False where one before it is missing, or the state is being built again."""
        is_own = entry[b"state"].decode() == self._names.state
        if (number - 1, entry[b"before"]) != self._seen or (is_own and b"builds" in entry and not self._builds):
            return False
        self._seen = (number, entry[b"id"])
        tables = [name for name in FOLLOWED if name.encode() in entry and (is_own or TABLES[name].carried)]
        changes: Changes = {name: unpacked_items(entry[name.encode()]) for name in tables}
        self._is_behind |= not is_own and not changes.keys().isdisjoint(("journal", "erased"))
        self.publish(changes)
        return True

    def _reset(self, seen: tuple[int, bytes]) -> None:
        if self._builds:
            self._seen = seen
            return
        self._commits.settle(seen[0])
        transaction = RedisTransaction(self._writer, self._names)
        if transaction.get("meta", b"sealed_state") is None:
            self._down = str(self._misses_state())
            raise self._misses_state()
        if self._thread is not None:
            log.warning("commits in the store %s were missed or lost; everything is loaded again", self.shown)
        self._seen, self._down = seen, None
        for listener in self.listeners:
            listener.reload()

    def _misses_state(self) -> StoreError:
        return StoreError(f"the store {self.shown} does not hold the state {self._names.state} (yet); run `{REPAIR}`")

    # ---- life --------------------------------------------------------------------------------------------------------

    @contextmanager
    def building(self) -> Iterator[bool]:
        """Let one process at a time build the state; yield False where another one did meanwhile."""
        with self._answers():
            self._build_lock = self._writer.home().lock(self._names.build, timeout=BUILD_S, sleep=0.1, thread_local=False)
            waited = not self._build_lock.acquire(blocking=False) and self._build_lock.acquire()
            try:
                yield not (waited and state_of(self) == self._names.state)
            finally:
                with suppress(LockError, *DOWN):
                    self._build_lock.release()
                self._build_lock = None

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(2 * FOLLOW_MS / 1000)
        self._reader.close()
        self._writer.close()


def _seen(last: list) -> tuple[int, bytes]:
    """Return number and id of the last entry, which XREVRANGE found."""
    return (number_of(last), last[0][1][b"id"]) if last else NOTHING

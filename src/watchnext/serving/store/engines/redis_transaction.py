"""Transactions on Redis: reads are made together where they can be, writes are kept until the commit."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from struct import Struct

from redis import Redis

from watchnext.serving.store.engines.engine import FOLLOWED, TABLES, Changes, Order, StoreError, Transaction, number_key

PAGE = 1_000  # items a command; a reading begins with fewer, as often the first is enough
FIRST_PAGE = 16
QUEUE = Struct(">QQQ")  # first position, end, bytes


class Names:
    """Keys of Redis: those of a state have its fingerprint in them, the carried tables are common to all states."""

    def __init__(self, state: str) -> None:
        self.state, self.changes, self.writer = state, "watchnext:changes", "watchnext:writer"
        self.build = f"watchnext:{state}:build"

    def table(self, table: str) -> str:
        return f"{self._prefix(table)}:{table}"

    def sorted(self, table: str) -> str:
        return f"{self._prefix(table)}:{table}:sorted"

    def queues(self, table: str) -> str:
        return f"{self._prefix(table)}:queues"

    def _prefix(self, table: str) -> str:
        return "watchnext" if TABLES[table].carried else f"watchnext:{self.state}"


class Queue:
    """A list of Redis with values that a transaction adds at the end and takes from the front.

    stored  positions (first, end) of the list
    """

    def __init__(self, packed: bytes | None) -> None:
        self.first, self.end, self.size = QUEUE.unpack(packed) if packed else (0, 0, 0)
        self.stored, self.added, self.is_cleared = (self.first, self.end), [], False
        self.replaced: dict[int, bytes] = {}

    def packed(self) -> bytes:
        return QUEUE.pack(self.first, self.end, self.size)

    def start(self, position: int) -> None:
        """Give a cleared queue its first position."""
        self.first = self.end = position
        self.stored = (position, position)

    def is_changed(self) -> bool:
        return self.is_cleared or bool(self.added) or bool(self.replaced) or self.stored[0] != self.first


class RedisTransaction(Transaction):
    """Read the tables; with `writes`, keep changes for `commands`. Only the holder of the writer's lock may write.

    Without `writes`, a reading that takes several pages is not of one moment, except the end of a queue.
    """

    def __init__(self, client: Redis, names: Names, *, writes: bool = False) -> None:
        self._client, self._names, self._writes = client, names, writes
        self._stored: dict[str, dict[bytes, bytes | None]] = defaultdict(dict)  # values that were read
        self._changed: dict[str, dict[bytes, bytes | None]] = defaultdict(dict)
        self._wanted: dict[str, set[bytes]] = defaultdict(set)
        self._counts: dict[str, int] = {}
        self._queues: dict[str, Queue] = {}
        self._heads: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._cleared: set[str] = set()
        self._whole: set[str] = set()  # tables of which `_stored` has every key

    def read_ahead(self) -> None:
        """Read what every write transaction needs: small tables, the ends of queues, the numbers of items."""
        maps = [name for name, table in TABLES.items() if table.order is not Order.QUEUE]
        queues = [name for name, table in TABLES.items() if table.order is Order.QUEUE]
        pipe = self._client.pipeline(transaction=False)
        small = [name for name in maps if TABLES[name].small]
        for name in small:
            pipe.hgetall(self._names.table(name))
        for name in queues:
            pipe.hget(self._names.queues(name), name)
        for name in maps:
            pipe.hlen(self._names.table(name))
        replies = iter(pipe.execute())
        self._stored.update(zip(small, replies, strict=False))
        self._whole.update(small)
        self._queues.update((name, Queue(next(replies))) for name in queues)
        self._counts.update(zip(maps, replies, strict=True))

    # ---- read --------------------------------------------------------------------------------------------------------

    def get(self, table: str, key: bytes) -> bytes | None:
        if key in self._changed[table]:
            return self._changed[table][key]
        if key not in self._stored[table] and table not in self._whole:
            self.prefetch(table, [key])
            self._read_wanted()
        return self._stored[table].get(key)

    def prefetch(self, table: str, keys: Iterable[bytes]) -> None:
        if table not in self._whole:
            self._wanted[table].update(key for key in keys if key not in self._stored[table])

    def _read_wanted(self) -> None:
        wanted = [(table, list(keys)) for table, keys in self._wanted.items() if keys]
        pipe = self._client.pipeline(transaction=False)
        for table, keys in wanted:
            pipe.hmget(self._names.table(table), keys)
        for (table, keys), values in zip(wanted, pipe.execute(), strict=True):
            self._stored[table].update(zip(keys, values, strict=True))
        self._wanted.clear()

    def count(self, table: str) -> int:
        if TABLES[table].order is Order.QUEUE:
            return self._queue(table).end - self._queue(table).first
        if table not in self._counts:
            self._counts[table] = self._client.hlen(self._names.table(table))
        changed = self._changed[table]
        self.prefetch(table, changed)
        if self._wanted[table]:
            self._read_wanted()
        return self._counts[table] + sum(
            (value is not None) - (self._stored[table].get(key) is not None) for key, value in changed.items()
        )

    def size(self, table: str) -> int:
        """Return the bytes of a queue's values."""
        return self._queue(table).size

    def end(self, table: str) -> int:
        return self._queue(table).end

    def items(self, table: str, start: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if TABLES[table].order is Order.QUEUE:
            return self._queue_items(table, int.from_bytes(start, "big"), reverse)
        changed = self._changed[table]
        added = sorted(((key, value) for key, value in changed.items() if value is not None and key >= start), reverse=reverse)
        if TABLES[table].order is Order.SORTED:
            stored = () if table in self._cleared else self._sorted_items(table, start, reverse)
            return merge((item for item in stored if item[0] not in changed), added, reverse=reverse)
        stored = () if table in self._cleared else self._client.hscan_iter(self._names.table(table), count=PAGE)
        return chain((item for item in stored if item[0] not in changed and item[0] >= start), added)

    def _sorted_items(self, table: str, start: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        name, last = self._names.sorted(table), b"+" if reverse else b"[" + start
        for size in _page_sizes():
            ends = (b"-", last) if reverse else (last, b"+")
            page = self._client.zrevrangebylex if reverse else self._client.zrangebylex
            keys = page(name, *(ends[::-1] if reverse else ends), start=0, num=size)
            if not keys:
                return
            values = self._client.hmget(self._names.table(table), keys)
            yield from ((key, value) for key, value in zip(keys, values, strict=True) if value is not None)
            last = b"(" + keys[-1]

    def _queue_items(self, table: str, start: int, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        queue = self._queue(table)
        first, (_, end) = max(start, queue.first), queue.stored
        added = [(number_key(end + i), value) for i, value in enumerate(queue.added) if end + i >= first]
        if reverse:
            yield from reversed(added)
            sizes = _page_sizes()
            while first < end:
                begin = max(first, end - next(sizes))
                yield from reversed(self._page(table, begin, end))
                end = begin
        else:
            for size in _page_sizes():
                yield from self._page(table, first, min(end, first + size))
                if (first := first + size) >= end:
                    break
            yield from added

    def head(self, table: str, most: int) -> list[tuple[bytes, bytes]]:
        if TABLES[table].order is not Order.QUEUE:
            return super().head(table, most)
        queue = self._queue(table)
        stored = self._page(table, queue.first, min(queue.stored[1], queue.first + most))
        added = [(number_key(queue.stored[1] + i), value) for i, value in enumerate(queue.added)]
        return (stored + added)[:most]

    def _page(self, table: str, first: int, stop: int) -> list[tuple[bytes, bytes]]:
        """Read the values at the positions `first` to `stop`, without those that another process took meanwhile."""
        base = self._queue(table).stored[0]
        while (begin := max(first, base)) < stop:
            pipe = self._client.pipeline()
            pipe.hget(self._names.queues(table), table)
            pipe.lrange(self._names.table(table), begin - base, stop - base - 1)
            packed, values = pipe.execute()
            if (now := Queue(packed).first) == base:
                break
            base = now
        else:
            values = []
        found = list(enumerate(values, begin))
        if self._writes:
            self._heads[table].update(found)
        return [(number_key(position), value) for position, value in found]

    def _queue(self, table: str) -> Queue:
        if table not in self._queues:
            self._queues[table] = Queue(self._client.hget(self._names.queues(table), table))
        return self._queues[table]

    # ---- write -------------------------------------------------------------------------------------------------------

    def put(self, table: str, key: bytes, value: bytes) -> None:
        self.put_many(table, [(key, value)])

    def put_many(self, table: str, items: list[tuple[bytes, bytes]]) -> None:
        self._require_writes()
        if TABLES[table].order is not Order.QUEUE:
            self._changed[table].update(items)
            return
        queue = self._queue(table)
        for key, value in items:
            if queue.is_cleared and not queue.added:
                queue.start(int.from_bytes(key, "big"))
            if key != number_key(queue.end):
                raise StoreError(f"{table} {int.from_bytes(key, 'big')} cannot be added, expected position {queue.end}")
            self.append(table, value)

    def append_many(self, table: str, values: Sequence[bytes], seal: Callable[[bytes, bytes], bytes] | None = None) -> None:
        self._require_writes()
        queue = self._queue(table)
        for value in values:
            packed = seal(number_key(queue.end), value) if seal else value
            queue.added.append(packed)
            queue.end, queue.size = queue.end + 1, queue.size + len(packed)

    def replace(self, table: str, key: bytes, value: bytes) -> bool:
        self._require_writes()
        queue, position = self._queue(table), int.from_bytes(key, "big")
        if not queue.first <= position < queue.stored[1]:
            return False
        before = queue.replaced.get(position) or self._page(table, position, position + 1)[0][1]
        queue.replaced[position], queue.size = value, queue.size + len(value) - len(before)
        return True

    def delete(self, table: str, key: bytes) -> bool:
        self._require_writes()
        if TABLES[table].order is Order.QUEUE:
            return self._take(table, int.from_bytes(key, "big"))
        existed = self.get(table, key) is not None
        self._changed[table][key] = None
        return existed

    def _take(self, table: str, position: int) -> bool:
        queue = self._queue(table)
        if position != queue.first or position >= queue.end:
            raise StoreError(f"{table} {position} cannot be removed, expected the first position {queue.first}")
        at = position - queue.stored[1]
        value = queue.added[at] if at >= 0 else self._heads[table].get(position)
        if value is None:
            value = self._page(table, position, position + 1)[0][1]
        queue.first, queue.size = position + 1, queue.size - len(value)
        return True

    def clear(self, table: str) -> None:
        self._require_writes()
        self._cleared.add(table)
        self._whole.add(table)
        for known in (self._stored, self._changed, self._wanted):
            known[table].clear()
        self._counts[table] = 0
        if TABLES[table].order is Order.QUEUE:
            self._queues[table] = Queue(None)
            self._queues[table].is_cleared = True

    def _require_writes(self) -> None:
        if not self._writes:
            raise StoreError("a transaction that only reads was asked to write")

    # ---- commit ------------------------------------------------------------------------------------------------------

    def changes(self) -> Changes:
        """Return the new values of FOLLOWED tables."""
        changes = {table: list(self._changed[table].items()) for table in FOLLOWED if self._changed[table]}
        for table in FOLLOWED:
            if (queue := self._queues.get(table)) and queue.added:
                changes[table] = [(number_key(queue.stored[1] + i), value) for i, value in enumerate(queue.added)]
        return changes

    def commands(self) -> Iterator[list]:
        """Yield the commands of Redis that make the changes."""
        for table in self._cleared:
            yield ["UNLINK", self._names.table(table), self._names.sorted(table)]
        for table, changed in self._changed.items():
            yield from self._map_commands(table, changed)
        for table, queue in self._queues.items():
            if queue.is_changed():
                yield from self._queue_commands(table, queue)

    def _map_commands(self, table: str, changed: dict[bytes, bytes | None]) -> Iterator[list]:
        name, is_sorted = self._names.table(table), TABLES[table].order is Order.SORTED
        put, gone = [(key, value) for key, value in changed.items() if value is not None], []
        gone = [key for key, value in changed.items() if value is None]
        for part in _parts(put):
            yield ["HSET", name, *chain.from_iterable(part)]
            if is_sorted:
                yield ["ZADD", self._names.sorted(table), *chain.from_iterable((0, key) for key, _ in part)]
        for part in _parts(gone):
            yield ["HDEL", name, *part]
            if is_sorted:
                yield ["ZREM", self._names.sorted(table), *part]

    def _queue_commands(self, table: str, queue: Queue) -> Iterator[list]:
        for position, value in queue.replaced.items():
            yield ["LSET", self._names.table(table), position - queue.stored[0], value]
        for part in _parts(queue.added):
            yield ["RPUSH", self._names.table(table), *part]
        if taken := queue.first - queue.stored[0]:
            yield ["LTRIM", self._names.table(table), taken, -1]
        yield ["HSET", self._names.queues(table), table, queue.packed()]


def _page_sizes() -> Iterator[int]:
    size = FIRST_PAGE
    while True:
        yield size
        size = min(4 * size, PAGE)


def _parts(items: list) -> Iterator[list]:
    return (items[at : at + PAGE] for at in range(0, len(items), PAGE))

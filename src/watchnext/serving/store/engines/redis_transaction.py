"""Transactions on Redis: reads are made together where they can be, writes are kept until the commit."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from struct import Struct

from watchnext.serving.store.engines.engine import FOLLOWED, TABLES, Changes, Order, StoreError, Transaction, number_key
from watchnext.serving.store.engines.redis_nodes import Names, RedisNodes

PAGE = 1_000  # items a command; a reading begins with fewer, as often the first is enough
FIRST_PAGE = 16
QUEUE = Struct(">QQQ")  # first position, end, bytes


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

    def __init__(self, nodes: RedisNodes, names: Names, *, writes: bool = False) -> None:
        self._client, self._home, self._names, self._writes = nodes.client, nodes.home(), names, writes
        self._stored: dict[str, dict[bytes, bytes | None]] = defaultdict(dict)  # values that were read
        self._changed: dict[str, dict[bytes, bytes | None]] = defaultdict(dict)
        self._wanted: dict[str, set[bytes]] = defaultdict(set)
        self._counts: dict[str, int] = {}
        self._queues: dict[str, Queue] = {}
        self._heads: dict[str, dict[int, bytes]] = defaultdict(dict)
        self._cleared: set[str] = set()
        self._whole: set[str] = set()  # tables of which `_stored` has every key

    def read_ahead(self) -> None:
        """Read what every write transaction needs: small tables, the ends of queues, the numbers of keys."""
        small = [name for name, table in TABLES.items() if table.small]
        queues = [name for name, table in TABLES.items() if table.order is Order.QUEUE]
        counted = [name for name, table in TABLES.items() if table.counted]
        pipe = self._home.pipeline(transaction=False)
        for name in small:
            pipe.hgetall(self._names.table(name))
        for name in queues:
            pipe.hget(self._names.queues(name), name)
        for name in counted:
            if self._names.shards:
                pipe.hget(self._names.counts(name), name)
            else:
                pipe.hlen(self._names.table(name))
        replies = iter(pipe.execute())
        self._stored.update(zip(small, replies, strict=False))
        self._whole.update(small)
        self._queues.update((name, Queue(next(replies))) for name in queues)
        self._counts.update((name, int(count or 0)) for name, count in zip(counted, replies, strict=True))

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
        parted = [(table, self._names.parted(table, keys)) for table, keys in self._wanted.items()]
        wanted = [(table, prefix, keys) for table, parts in parted for prefix, keys in parts.items()]
        pipe = self._client.pipeline(transaction=False)
        for table, prefix, keys in wanted:
            pipe.hmget(self._names.table(table, prefix), keys)
        for (table, _, keys), values in zip(wanted, pipe.execute(), strict=True):
            self._stored[table].update(zip(keys, values, strict=True))
        self._wanted.clear()

    def count(self, table: str) -> int:
        if TABLES[table].order is Order.QUEUE:
            return self._queue(table).end - self._queue(table).first
        if table not in self._counts:
            pipe = self._client.pipeline(transaction=False)
            for prefix in self._names.parts(table):
                pipe.hlen(self._names.table(table, prefix))
            self._counts[table] = sum(pipe.execute())
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
        parts = () if table in self._cleared else self._names.parts(table)
        if TABLES[table].order is Order.SORTED:
            stored = merge(*(self._sorted_items(table, part, start, reverse) for part in parts), reverse=reverse)
            return merge((item for item in stored if item[0] not in changed), added, reverse=reverse)
        scans = (self._client.hscan_iter(self._names.table(table, part), count=PAGE) for part in parts)
        stored = chain.from_iterable(scans)
        return chain((item for item in stored if item[0] not in changed and item[0] >= start), added)

    def _sorted_items(self, table: str, part: str, start: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        name, last = self._names.sorted(table, part), b"+" if reverse else b"[" + start
        for size in _page_sizes():
            ends = (b"-", last) if reverse else (last, b"+")
            page = self._client.zrevrangebylex if reverse else self._client.zrangebylex
            keys = page(name, *(ends[::-1] if reverse else ends), start=0, num=size)
            if not keys:
                return
            values = self._client.hmget(self._names.table(table, part), keys)
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
            pipe = self._home.pipeline()
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
            self._queues[table] = Queue(self._home.hget(self._names.queues(table), table))
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

    def commands(self) -> dict[str, list[list]]:
        """Return prefix of keys > the commands of Redis that make the changes of its part; nothing where there are none."""
        commands: dict[str, list[list]] = defaultdict(list)
        for table in self._cleared:
            for part in self._names.parts(table):
                commands[part].append(["UNLINK", self._names.table(table, part), self._names.sorted(table, part)])
        for table, changed in self._changed.items():
            for part, keys in self._names.parted(table, changed).items():
                commands[part] += self._map_commands(table, part, {key: changed[key] for key in keys})
        home = commands[self._names.home]
        for table, queue in self._queues.items():
            if queue.is_changed():
                home += self._queue_commands(table, queue)
        if self._names.shards:
            counted = [name for name in TABLES if TABLES[name].counted and (self._changed[name] or name in self._cleared)]
            home += [["HSET", self._names.counts(name), name, self.count(name)] for name in counted]
        return {part: made for part, made in commands.items() if made}

    def _map_commands(self, table: str, part: str, changed: dict[bytes, bytes | None]) -> Iterator[list]:
        name, is_sorted = self._names.table(table, part), TABLES[table].order is Order.SORTED
        put = [(key, value) for key, value in changed.items() if value is not None]
        gone = [key for key, value in changed.items() if value is None]
        for items in _parts(put):
            yield ["HSET", name, *chain.from_iterable(items)]
            if is_sorted:
                yield ["ZADD", self._names.sorted(table, part), *chain.from_iterable((0, key) for key, _ in items)]
        for keys in _parts(gone):
            yield ["HDEL", name, *keys]
            if is_sorted:
                yield ["ZREM", self._names.sorted(table, part), *keys]

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

"""Commits in one Redis, or in all parts of a cluster.

A commit is a script at home, which does nothing unless the last entry of the stream of commits is the one that the writer had
seen. In a cluster a script changes the keys of one slot alone: the commit keeps the commands for the other parts under `redo`,
and each part takes them afterwards, unless it has that commit or a later one. So they may be sent again, by anyone, and who
writes or loads first sees to it that all parts have the last commit.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from struct import Struct

from redis import Redis
from redis.exceptions import OutOfMemoryError, TimeoutError

from watchnext.serving.store.engines.engine import REPAIR, StoreDownError, StoreError
from watchnext.serving.store.engines.redis_nodes import Names, RedisNodes

log = logging.getLogger(__name__)

COPY_MS = 2_000  # longest wait for a replica
LENGTHS = Struct(">II")
RUN = """
local at = 2
while at <= #ARGV do
  local length = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + length))
  at = at + length + 1
end
"""
COMMIT = f"""
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '0-0') ~= ARGV[1] then return 0 end
{RUN}
return 1
"""
APPLY = f"""
local applied, number = tonumber(redis.call('GET', KEYS[1]) or '0'), tonumber(ARGV[1])
if applied >= number then return applied end
{RUN}
redis.call('SET', KEYS[1], ARGV[1])
return number
"""
TOUCH = "return redis.call('SET', KEYS[1], ARGV[1])"


class RedisCommits:
    """Make commits, and bring them to all parts of a cluster.

    There a commit counts once a replica of each node that it changed has it, if the node has any.
    """

    def __init__(self, nodes: RedisNodes, names: Names, shown: str) -> None:
        self._nodes, self._names, self._shown = nodes, names, shown
        self._alone: set[str] = set()  # names of nodes without a replica

    def last(self) -> list:
        """Return the last entry of the stream in a list, which is empty before the first commit."""
        return self._nodes.home().xrevrange(self._names.changes, count=1)

    def make(self, number: int, commands: dict[str, list[list]]) -> bool:
        """Make a commit of commands by the prefix of their part, one of which appends the entry `number`.

        Returns False, and does nothing, where the last commit is not the one before it. `spread` has to follow.
        """
        home = commands.get(self._names.home, [])
        if self._names.shards:
            home = [*home, ["SET", self._names.redo, self._redo(number, commands)]]
        key = self._names.changes
        return bool(self._run(*self._nodes.of(key), [(COMMIT, key, [f"{number - 1}-0", *_flat(home)])])[0])

    def spread(self, number: int, commands: dict[str, list[list]]) -> None:
        """Let each part take its commands of the commit. Raises StoreDownError where it is made, and not all parts have it."""
        self._spread(number, {part: list(_flat(made)) for part, made in commands.items() if part in self._names.shards})

    def settle(self, last: int) -> None:
        """See to it that all parts have the commit `last`, if there is none after it: its writer may have died."""
        home, key = self._nodes.home(), self._names.applied(self._names.home)
        if not self._names.shards or int(home.get(key) or 0) >= last:
            return
        (_, number), *words = unpacked_items(home.get(self._names.redo))
        parts: dict[str, list[bytes]] = {}
        for part, word in words:
            parts.setdefault(part.decode(), []).append(word)
        self._run(*self._nodes.of(key), [(TOUCH, self._names.touched, [number])])  # now the replica has the commit, too
        self._spread(int(number), parts)

    def _redo(self, number: int, commands: dict[str, list[list]]) -> bytes:
        parts = ((part, _flat(made)) for part, made in commands.items() if part != self._names.home)
        words = ((part, word if isinstance(word, bytes) else str(word).encode()) for part, made in parts for word in made)
        return packed([(b"", str(number).encode()), *((part.encode(), word) for part, word in words)])

    def _spread(self, number: int, parts: dict[str, list]) -> None:
        if not self._names.shards:
            return
        nodes, calls = {}, {}
        for part, words in parts.items():
            name, nodes[name] = self._nodes.of(key := self._names.applied(part))
            calls.setdefault(name, []).append((APPLY, key, [number, *words]))
        try:
            with ThreadPoolExecutor(max(len(nodes), 1)) as pool:
                replies = pool.map(lambda name: self._run(name, nodes[name], calls[name]), nodes)
                ahead = max(chain.from_iterable(replies), default=number)
        except OutOfMemoryError as error:
            raise StoreDownError(f"a node of the store {self._shown} is full ({error}); raise its maxmemory") from error
        if ahead > number and ahead > number_of(self.last()):
            raise StoreError(
                f"a node of {self._shown} has the commit {ahead}, but the last one is {number}: the node with the commits lost "
                f"some; flush the cluster, then run `{REPAIR}`"
            )
        self._nodes.home().set(self._names.applied(self._names.home), number)

    def _run(self, name: str, node: Redis, calls: Iterable[tuple[str, str, list]]) -> list:
        """Run scripts, each with its key and arguments, on one node, and in a cluster wait until its replica has all."""
        pipe = node.pipeline(transaction=False)
        for script, key, words in calls:
            pipe.eval(script, 1, key, *words)
        if not self._names.shards:
            return pipe.execute()
        waits = name not in self._alone
        pipe.execute_command("WAIT", int(waits), COPY_MS).role()
        *results, copies, (_, _, replicas) = pipe.execute()
        if not replicas and waits:
            log.warning("the node %s of %s has no replica: what is acknowledged is on its disk alone", name, self._shown)
            self._alone.add(name)
        elif replicas:
            self._alone.discard(name)
            if waits and not copies:
                raise TimeoutError(f"no replica of {name} had the commit within {COPY_MS} ms")
        return results


def number_of(last: list) -> int:
    """Return the number of the last commit, from what `RedisCommits.last` returned."""
    return int(last[0][0].partition(b"-")[0]) if last else 0


def _flat(commands: Iterable[list]) -> Iterator:
    """Join commands to arguments of a script: the number of words of each, and these."""
    return chain.from_iterable([len(command), *command] for command in commands)


def packed(items: list[tuple[bytes, bytes]]) -> bytes:
    """Join keys and values to one value of the stream."""
    return b"".join(chain.from_iterable((LENGTHS.pack(len(key), len(value)), key, value) for key, value in items))


def unpacked_items(joined: bytes) -> list[tuple[bytes, bytes]]:
    """Split what `packed` joined."""
    items, at = [], 0
    while at < len(joined):
        of_key, of_value = LENGTHS.unpack_from(joined, at)
        middle, at = at + LENGTHS.size + of_key, at + LENGTHS.size + of_key + of_value
        items.append((joined[middle - of_key : middle], joined[middle:at]))
    return items

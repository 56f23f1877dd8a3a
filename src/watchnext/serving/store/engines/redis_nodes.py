"""Connections to one Redis, or to the nodes of a Redis Cluster, and which of them holds what.

In a cluster a table that grows with viewers or videos is split into SHARDS parts; the hash tag of a part's keys decides its
slot. All else, and the commits, share one tag: their keys are changed by one script.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit
from zlib import crc32

from redis import Redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from watchnext.serving.store.engines.engine import TABLES

SHARDS = 128  # so that as many nodes can share the tables; it is a part of the keys and must never change
SPACE = "watchnext"
CLUSTERS = {"redis-cluster": "redis", "rediss-cluster": "rediss"}  # schemes of URLs > those of one node


class Names:
    """Keys of Redis: those of a state have its fingerprint in them, the carried tables are common to all states.

    home    prefix of keys that are changed together
    shards  prefixes of the parts of SPREAD tables; none for one Redis
    """

    def __init__(self, state: str, url: str) -> None:
        parts = urlsplit(url)
        space = self.home = SPACE
        self.shards: list[str] = []
        if parts.scheme in CLUSTERS:  # which has no databases: the path tells apart who shares it
            space = parts.path.strip("/") or SPACE
            self.home, self.shards = f"{{{space}}}", [f"{{{space}:{number}}}" for number in range(SHARDS)]
        self.state, self.changes, self.writer = state, f"{self.home}:changes", f"{self.home}:writer"
        self.build, self.redo, self.touched = f"{self.home}:{state}:build", f"{self.home}:redo", f"{self.home}:touched"

    def parts(self, table: str) -> list[str]:
        """Return the prefixes of the parts of a table."""
        return self.shards if self.shards and TABLES[table].spread else [self.home]

    def parted(self, table: str, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        """Return prefix > those of `keys` that its part of a table holds."""
        prefixes, parted = self.parts(table), {}
        for key in keys:
            parted.setdefault(prefixes[crc32(key) % len(prefixes)], []).append(key)
        return parted

    def table(self, table: str, prefix: str | None = None) -> str:
        return f"{self._of(table, prefix or self.home)}:{table}"

    def sorted(self, table: str, prefix: str) -> str:
        return f"{self._of(table, prefix)}:{table}:sorted"

    def queues(self, table: str) -> str:
        return f"{self._of(table, self.home)}:queues"

    def counts(self, table: str) -> str:
        return f"{self._of(table, self.home)}:counts"

    def applied(self, prefix: str) -> str:
        """Return the key of the number of the last commit that a part has; at `home`, that all parts have."""
        return f"{prefix}:applied"

    def _of(self, table: str, prefix: str) -> str:
        return prefix if TABLES[table].carried else f"{prefix}:{self.state}"


class RedisNodes:
    """Clients of the Redis, or of the nodes of the cluster, at `url`.

    client  of the one Redis, or of the cluster
    """

    def __init__(self, url: str, home: str, *, timeout_s: float, connect_s: float) -> None:
        """Raises ValueError for a URL that is none of Redis, and redis-py's errors where no node of a cluster answers."""
        parts, self._home = urlsplit(url), home
        # A command that is sent again after a lost answer could count twice.
        given = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": connect_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if parts.scheme not in CLUSTERS:
            self.client: Redis | RedisCluster = Redis.from_url(url, **given)
            return
        node = parts._replace(scheme=CLUSTERS[parts.scheme], path="").geturl()  # the others are learned from it
        self.client = RedisCluster.from_url(node, **given)

    def home(self) -> Redis:
        """Return the client of the Redis that holds the commits."""
        return self.of(self._home)[1]

    def of(self, key: str) -> tuple[str, Redis]:
        """Return the name and the client of the Redis that holds a key."""
        if isinstance(self.client, Redis):
            return "", self.client
        node = self.client.get_node_from_key(key)
        return node.name, self.client.get_redis_connection(node)

    def all(self) -> Iterator[Redis]:
        """Yield a client of every node."""
        if isinstance(self.client, Redis):
            yield self.client
        else:
            yield from map(self.client.get_redis_connection, self.client.get_nodes())

    def refresh(self) -> None:
        """Ask a cluster again which node holds what, as a replica may have taken over."""
        if isinstance(self.client, RedisCluster):
            with suppress(RedisError, RedisClusterException):
                self.client.nodes_manager.initialize()

    def close(self) -> None:
        self.client.close()

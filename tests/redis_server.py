"""Debian's redis-server in processes of its own, alone or as a cluster, for the tests of the store that servers share."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from tests.unit.serving.bento_server import free_port

PROGRAM = shutil.which("redis-server")


class RedisServer:
    """Its files lie in `folder`. `settings` are those of redis.conf; by default it syncs its log before it answers."""

    def __init__(self, folder: Path, **settings: str) -> None:
        if PROGRAM is None:
            pytest.skip("redis-server is not installed; run `apt-get install redis-server`")
        self.port, self.folder = free_port(), folder
        folder.mkdir(exist_ok=True)
        self._settings = {"appendonly": "yes", "appendfsync": "always", "save": "", "databases": "200"} | settings
        self.start()

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis.from_url(self.url(database))

    def start(self) -> None:
        """Start it, also again with the files it left, and wait until it answers."""
        given = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        command = [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), *given]
        with (self.folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        with self.client() as client:
            for _ in range(1_000):
                try:
                    client.ping()
                    return
                except redis.AuthenticationError:
                    return
                except redis.ConnectionError:
                    assert self.process.poll() is None, self.folder
                time.sleep(0.01)
        raise AssertionError((self.folder / "redis.log").read_text())

    def stop(self, by: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, by)
        self.process.wait(20)


class RedisClusterOfTest:
    """Three primaries, and a replica of each, as a cluster. Who is gone for a second is replaced."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "databases": "1"}
        with ExitStack() as stack:
            self.servers = [stack.enter_context(RedisServer(folder / str(at), **settings)) for at in range(6)]
            addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
            words = ["--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
            subprocess.run(["redis-cli", *words], check=True, stdout=subprocess.DEVNULL)
            self.wait()
            self._stack = stack.pop_all()

    def __enter__(self) -> "RedisClusterOfTest":
        return self

    def __exit__(self, *given: object) -> None:
        self._stack.close()

    def url(self, space: str | int = "") -> str:
        return f"redis-cluster://127.0.0.1:{self.servers[0].port}/{space}"

    def wait(self) -> None:
        """Wait until every node knows of a whole cluster, each replica with all that its primary has."""
        for server in self.servers:
            while server.process.poll() is None:
                with server.client() as client:
                    if client.cluster("info")["cluster_state"] == "ok":
                        break
                time.sleep(0.02)
        while self.nodes() < len(self.servers):
            time.sleep(0.02)

    def nodes(self) -> int:
        """The number of nodes that take part."""
        with self.client() as client:
            return len(client.get_nodes())

    def client(self, _: object = None) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(f"redis://127.0.0.1:{self.servers[0].port}")

    def holder(self, key: str) -> RedisServer:
        """The primary that holds a key."""
        with self.client() as client:
            return next(each for each in self.servers if each.port == client.get_node_from_key(key).port)

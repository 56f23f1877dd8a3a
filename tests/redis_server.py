"""Debian's redis-server in an own process, for the tests of the store that server processes share."""

import os
import shutil
import signal
import subprocess
import time
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

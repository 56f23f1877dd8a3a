"""Milvus Lite as a server in a process of its own: it takes the calls of pymilvus as a cluster of Milvus does."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.unit.serving.bento_server import free_port


class MilvusServer:
    """Its files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        for name in ("pymilvus", "milvus_lite"):
            pytest.importorskip(name, reason=f"{name} is not installed; run `make test-milvus`")
        self.port, self.folder = free_port(), folder
        folder.mkdir(exist_ok=True)
        self.start()

    def __enter__(self) -> "MilvusServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, also again with the files it left, and wait until it takes connections."""
        words = ["server", "--data-dir", str(self.folder / "data"), "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "milvus.log").open("a") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "milvus_lite", *words], stdout=log, stderr=log)
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError((self.folder / "milvus.log").read_text())

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(20)

"""Start the real server in a process of its own, over a release and a folder for its store."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from watchnext.serving.store.engines.redis_engine import is_url

SHELLS = {
    "bentoml": ("bentoml", "serve", "watchnext.serving.http.service:Watchnext"),
    "uvicorn": ("watchnext.serving", "serve"),
}


class Server:
    """A server on a free port; `ready_s` is the time until it answered."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.ready_s = self._ready()

    def _ready(self, within_s: float = 300.0) -> float:
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < within_s:
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=within_s).close()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
            else:
                return passed
        raise RuntimeError(f"the server is not ready: {self._log.read_text()}")

    def rss_mb(self) -> float:
        """Return the memory of the largest process: the worker."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return max(process.memory_info().rss for process in family) / 2**20

    def stage_seconds(self) -> dict[str, tuple[float, float]]:
        """Return stage > sum of seconds and number of times, as `/metrics` has them."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics").read().decode()
        found: dict[str, dict[str, float]] = {}
        for line in text.splitlines():
            for part in ("sum", "count"):
                if line.startswith(f'watchnext_stage_seconds_{part}{{stage="'):
                    found.setdefault(line.split('"')[1], {})[part] = float(line.rsplit(" ", 1)[1])
        return {stage: (values["sum"], values["count"]) for stage, values in found.items()}


def store_of(folder: Path) -> Path | str:
    """Return WATCHNEXT_STORE if it is the URL of a Redis, else a new store in `folder`."""
    given = os.environ.get("WATCHNEXT_STORE", "")
    return given if is_url(given) else folder / "store"


@contextmanager
def serving(releases: Path, folder: Path, shell: str) -> Iterator[Server]:
    """Run a server under one of SHELLS with the store of WATCHNEXT_STORE, if it is a URL, else in `folder`/store; stop it with
    SIGTERM at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folders = {
        "WATCHNEXT_RELEASES": releases.resolve(),
        "WATCHNEXT_STORE": store_of(folder),
        "WATCHNEXT_SERVED": folder / "served",
    }
    variables = os.environ | {name: str(path) for name, path in folders.items()} | {"BENTOML_HOME": str(folder / "bentoml")}
    log = folder / "server.log"
    command = [sys.executable, "-m", *SHELLS[shell], "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True)
    try:
        yield Server(process, port, log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)

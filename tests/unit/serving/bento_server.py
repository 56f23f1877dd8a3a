"""The server in an own process, under either shell, for the tests that need the real thing."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[3]
SHELLS = {"bentoml": ("-m", "bentoml", "serve"), "uvicorn": ("-m", "watchnext.serving", "serve")}
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
# Each is tried once and by one worker, so that two servers never have the same one.
PORTS = iter(range(20_000 + os.getpid() % 1_000 + WORKER % 8 * 1_500, 32_768))


def free_port() -> int:
    """A port that nobody listens on. Not one that the system would choose: those also go to connections that somebody opens
    before the server listens."""
    for port in PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port below 32768")


class Server:
    """Started at the repository's root on a free port; served log, `server.log` and, without the URL of a `store`, the store
    lie in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        releases: Path,
        clock: str = "",
        port: int | None = None,
        shell: str = "bentoml",
        store: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        variables = dict(variables or {})
        variables |= {"WATCHNEXT_STORE": store or str(folder / "store"), "WATCHNEXT_SERVED": str(folder / "served")}
        variables |= {"WATCHNEXT_RELEASES": str(releases), "WATCHNEXT_CLOCK": clock, "BENTOML_HOME": str(folder / "bentoml")}
        command = [sys.executable, *SHELLS[shell], "--port", str(self.port)]
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | variables, stdout=log, stderr=log, start_new_session=True
            )

    def ready(self, within_s: float = 120.0) -> None:
        """Wait until it answers."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=within_s).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"not ready within {within_s} s: {self.log.read_text()}")

    def stop(self, by: int = signal.SIGINT) -> int:
        """Ctrl-C, or another signal; the exit status."""
        os.killpg(self.process.pid, by)
        return self.process.wait(20)

    def family(self) -> list[psutil.Process]:
        """The supervisor and its workers, which it starts in sessions of their own."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def end(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        if self.process.poll() is None:
            for process in self.family():
                process.kill()
            self.process.wait(20)

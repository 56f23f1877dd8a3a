"""The server as people start it: `bentoml serve` in an own process, on a free port, over the tiny release."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from watchnext.serving.service import FOLDERS

ROOT = Path(__file__).parents[2]
READY_S = 10.0
HEAVY = ("torch", "pandas", "mlflow", "pytorch_lightning", "evidently", "hydra", "xgboost", "watchnext.features.labels")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """`bentoml serve` at the repository's root, as a session of its own so that Ctrl-C reaches all of it."""

    def __init__(self, folder: Path, **variables: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        given = {f"WATCHNEXT_{name.upper()}": str(variables.get(name, folder / name)) for name in FOLDERS}
        environment = {**os.environ, **given, "BENTOML_HOME": str(folder / "bentoml")}
        command = [sys.executable, "-m", "bentoml", "serve", "--port", str(self.port)]
        self.log = folder / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)

    def ready(self, within_s: float = 60.0) -> float:
        """Wait until it answers; returns the seconds that took."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(f"{self.url}/readyz", timeout=within_s).status_code == 200:
                    return time.monotonic() - began
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"not ready within {within_s} s: {self.log.read_text()}")

    def stop(self) -> int:
        """Ctrl-C, as a terminal sends it; the exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(20)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(release, folder):
    server = Server(folder, releases=release.folder.parent)
    yield server
    server.kill()


def ask(server: Server, **body) -> dict:
    answer = httpx.post(f"{server.url}/v1/recommend", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_serves_a_slate_that_an_event_changes_and_stops_cleanly(release, tmp_path):
    server = Server(tmp_path, releases=release.folder.parent)
    try:
        server.ready()
        assert server.stop() == 0, server.log.read_text()  # the first start built the store and compiled; the next is warm
        server = Server(tmp_path, releases=release.folder.parent)
        assert server.ready() < READY_S
        viewer = release.user_ids.value(0)
        first = ask(server, user_id=viewer, k=10)
        assert first["release"] == release.id
        assert first["as_of_ms"] >= release.as_of_ms
        video = first["items"][0]["video_id"]
        event = {"type": "outcome", "user_id": viewer, "video_id": video, "watch_ms": 20_000, "click": True, "key": "k1"}
        answer = httpx.post(f"{server.url}/v1/events", json={"events": [event]}, timeout=20)
        assert answer.json() == {"accepted": 1, "duplicates": 0, "unknown": 0}
        second = ask(server, user_id=viewer, k=100)
        assert video not in [item["video_id"] for item in second["items"]]
        assert second["as_of_ms"] > first["as_of_ms"]
    finally:
        server.kill()


def test_no_release_ends_at_once_with_the_command_to_run(tmp_path):
    server = Server(tmp_path)
    assert server.process.wait(60) == 1
    said = server.log.read_text()
    assert f"no release yet in {tmp_path / 'releases'}: run `dvc repro`" in said
    assert "Traceback" not in said

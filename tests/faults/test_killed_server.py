"""A real server that is killed, stopped or loses its disk under clients: no acknowledged event is lost or counts twice, and a
video that was taken down is never shown again."""

import errno
import os
import random
import signal
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest
from tests.faults.clients import Clients
from tests.faults.disk import built, control, variables
from tests.unit.serving.bento_server import Server

SEED = 41


@contextmanager
def served(release, folder, *, shell: str = "uvicorn", **more):
    server = Server(folder, releases=release.folder.parent, shell=shell, **more)
    try:
        server.ready()
        yield server
    finally:
        server.end()


def worker_of(server: Server) -> psutil.Process:
    return max(server.family(), key=lambda process: process.memory_info().rss)


@pytest.mark.full
def test_twenty_kills_of_a_worker_under_load(release, tmp_path):
    """The supervisor starts it again each time."""
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    with served(release, tmp_path, shell="bentoml") as server:
        clients = Clients(server, release, SEED)
        for number in range(20):
            server.ready()
            if number == 3:
                clients.withdraw(release.video_ids.value(5))
            time.sleep(draw.random())
            worker = worker_of(server)
            worker.kill()
            psutil.wait_procs([worker], timeout=20)
        server.ready()
        clients.stop()
        assert server.stop() == 0
        print(f"{len(clients.acknowledged)} events, {clients.slates} slates, {clients.retried} requests sent again")
    assert len(clients.acknowledged) > 20
    clients.require_kept(tmp_path / "store")


@pytest.mark.full
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_of_a_whole_server_under_load(release, tmp_path, by):
    """SIGTERM answers what is in flight; after either, the next server knows all that was acknowledged."""
    print(f"seed {SEED}")
    with served(release, tmp_path) as server:
        clients = Clients(server, release, SEED, askers=2, posters=4)
        clients.withdraw(release.video_ids.value(5))
        while len(clients.acknowledged) < 200:
            time.sleep(0.01)
        os.killpg(server.process.pid, by)
        assert server.process.wait(20) == (0 if by == signal.SIGTERM else -by)
        assert "Traceback" not in server.log.read_text()
        again = Server(tmp_path, releases=release.folder.parent, shell="uvicorn", port=server.port)
        try:
            again.ready()
            clients.stop()
            assert again.stop() == 0
        finally:
            again.end()
    clients.require_kept(tmp_path / "store")


@pytest.mark.full
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_server_whose_disk_fails_says_so_and_acknowledges_nothing(release, tmp_path, error):
    disk, page = tmp_path / "disk", tmp_path / "page"
    disk.mkdir()
    watched = control(page)
    shim = variables(built(tmp_path), disk / "store", page=page)
    with served(release, disk, variables=shim) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        event = {"type": "outcome", "user_id": 105, "video_id": release.video_ids.value(0), "watch_ms": 5_000}
        assert client.post("/v1/events", json={"events": [event | {"key": "before"}]}).status_code == 200
        watched.error, watched.stays, watched.left = error, 1, 1
        for key in ("lost", "later"):
            refused = client.post("/v1/events", json={"events": [event | {"key": key}]})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store"), refused.text
        assert client.delete(f"/v1/videos/{release.video_ids.value(1)}").status_code == 503
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "store")
        slate = client.post("/v1/recommend", json={"user_id": 105, "k": 5}).json()
        assert slate["items"]
        assert [each["code"] for each in slate["degraded_why"]] == ["impressions_lost"]
        watched.left = 0
        assert client.post("/v1/events", json={"events": [event | {"key": "healed"}]}).status_code == 503
        server.stop()
    with served(release, disk) as server, httpx.Client(base_url=server.url, timeout=20) as client:
        counts = [client.post("/v1/events", json={"events": [event | {"key": key}]}).json() for key in ("before", "lost")]
        assert [each["duplicates"] for each in counts] == [1, 0]

"""Ten minutes (WATCHNEXT_SOAK_S) of mixed traffic, good and hostile: memory, threads and descriptors stay as they were."""

import contextlib
import itertools
import os
import random
import re
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from tests.faults.clients import Clients
from tests.unit.serving.bento_server import Server

SEED = 47
SOAK_S = float(os.environ.get("WATCHNEXT_SOAK_S", "600"))
GROWTH = 1.05  # of the memory between the second fifth and the last
HOSTILE = (
    ("POST", "/v1/recommend", b'{"user_id": ' + b"[" * 5_000),
    ("POST", "/v1/recommend", b'{"user_id": NaN}'),
    ("POST", "/v1/events", b'{"events": [' + b"{}," * 20_000 + b"{}]}"),
    ("POST", "/v1/events", b"\xff\xfe" * 1_000),
    ("POST", "/v1/rank", b'{"user_id": 1, "video_ids": ' + b"9" * 300_000),
    ("POST", "/v1/recommend", b"x" * 1_200_000),
    ("GET", "/v1/videos/%00%ff", b""),
    ("GET", "/..%2f..%2fetc/passwd", b""),
    ("GET", "/v1/viewers/../../x/history", b""),
    ("DELETE", "/v1/videos/none", b""),
)


class Sizes:
    """Sizes of a process, every second: its memory without mapped files in MB, threads, open descriptors."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self.samples = process, []

    def take(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        own_mb = int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024
        self.samples.append((own_mb, self._process.num_threads(), self._process.num_fds()))

    def fifth(self, number: int) -> list[float]:
        """Return the medians of one fifth of the time."""
        size = len(self.samples) // 5
        part = self.samples[number * size : (number + 1) * size]
        return [sorted(values)[size // 2] for values in zip(*part, strict=True)]


def abuse(server: Server, done: threading.Event, statuses: set[int]) -> None:
    draw = random.Random(SEED)
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for number in itertools.count():
            if done.is_set():
                return
            method, path, content = draw.choice([*HOSTILE, ("GET", f"/junk/{number}", b"")])
            headers = {"content-type": "application/json"} | ({"host": "evil.example"} if draw.random() < 0.2 else {})
            with contextlib.suppress(httpx.TransportError):  # cut off in the middle of its body
                statuses.add(client.request(method, path, content=content, headers=headers).status_code)
            time.sleep(0.02)


@pytest.mark.full
@pytest.mark.parametrize("shell", ["uvicorn", "bentoml"])
def test_a_server_stays_as_small_as_it_is(release, tmp_path, shell):
    print(f"seed {SEED}")
    server, done, statuses = Server(tmp_path, releases=release.folder.parent, shell=shell), threading.Event(), set()
    abusing = threading.Thread(target=abuse, args=(server, done, statuses))
    try:
        server.ready()
        sizes = Sizes(max(server.family(), key=lambda process: process.memory_info().rss))
        clients = Clients(server, release, SEED)
        abusing.start()
        began = time.monotonic()
        while (past_s := time.monotonic() - began) < SOAK_S:
            if clients.gone is None and past_s > SOAK_S / 4:
                clients.withdraw(release.video_ids.value(5))
            sizes.take()
            time.sleep(1.0)
        done.set()
        clients.stop()
        abusing.join()
        assert server.stop() == 0
    finally:
        done.set()
        server.end()
    early, late = sizes.fifth(1), sizes.fifth(4)
    print(f"MB, threads, descriptors after a fifth {early}, at the end {late}; {len(clients.acknowledged)} events")
    assert not {status for status in statuses if status >= 500 and status != 503}, statuses
    assert late[0] <= GROWTH * early[0] + 8
    assert late[1] <= early[1]
    assert late[2] <= early[2] + 10
    clients.require_kept(tmp_path / "store")

"""Two real servers, one under each shell, on one Redis or a cluster: whatever dies, what was acknowledged counts once."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count, takewhile

import httpx
import pytest
from tests.redis_server import RedisClusterOfTest, RedisServer
from tests.unit.serving.bento_server import Server


@pytest.fixture
def redis(tmp_path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def cluster(tmp_path) -> Iterator[RedisClusterOfTest]:
    with RedisClusterOfTest(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def start(release, tmp_path) -> Iterator[Callable[[str, str], Server]]:
    started = []

    def start(shell: str, url: str) -> Server:
        folder = tmp_path / f"server-{len(started)}"
        folder.mkdir()
        started.append(Server(folder, releases=release.folder.parent, shell=shell, store=url))
        return started[-1]

    yield start
    for server in started:
        server.end()


def outcomes(release, first: int, n: int = 5) -> list[dict]:
    ids = [(release.user_ids.value(i % 20), release.video_ids.value(i % 90)) for i in range(first, first + n)]
    keys = {"type": "outcome", "watch_ms": 9_000, "click": True}
    return [{**keys, "user_id": user, "video_id": video, "key": f"k{first + i}"} for i, (user, video) in enumerate(ids)]


def post(server: Server, path: str, body: dict) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=20)


def counted(server: Server, events: list[dict]) -> Counter:
    answer = post(server, "/v1/events", {"events": events})
    assert answer.status_code == 200, answer.text
    return Counter(answer.json())


def readiness(server: Server) -> tuple[int, dict]:
    answer = httpx.get(f"{server.url}/readyz", timeout=20)
    return answer.status_code, answer.json()


def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_two_servers_share_a_redis_and_lose_nothing(start, redis, release):
    one, two = start("bentoml", redis.url()), start("uvicorn", redis.url())  # at once: one of them builds the state
    one.ready(), two.ready()

    # What one takes the other knows, and an event counts once.
    event = outcomes(release, 0, 1)
    viewer, video = event[0]["user_id"], event[0]["video_id"]
    assert counted(one, event) == Counter(accepted=1)
    assert counted(two, event) == counted(one, event) == Counter(duplicates=1)
    history = httpx.get(f"{two.url}/v1/viewers/{viewer}/history").json()["history"]
    assert history[0]["video_id"] == video
    slate = post(two, "/v1/recommend", {"user_id": viewer, "k": 50}).json()
    assert video not in [item["video_id"] for item in slate["items"]]

    # Both get the same posts at once, and one is killed in the middle.
    acknowledged, numbers = [], count(1)

    def send() -> None:
        for number in takewhile(lambda number: number <= 80, numbers):
            for server in (one, two):
                try:
                    answer = post(server, "/v1/events", {"events": outcomes(release, 5 * number)})
                except httpx.TransportError:  # it was killed
                    continue
                if answer.status_code == 200:
                    acknowledged.append((5 * number, Counter(answer.json())))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(acknowledged) > 40)
    for process in two.family():
        process.kill()
    for thread in threads:
        thread.join()
    accepted = Counter()
    for first, answer in acknowledged:
        accepted[first] += answer["accepted"]
    assert set(accepted) == {5 * number for number in range(1, 81)}
    assert max(accepted.values()) == 5  # less only where the answer of the killed one was lost
    for first in accepted:
        assert counted(one, outcomes(release, first)) == Counter(duplicates=5)

    # Redis is killed: cold slates, no events, and all goes on when it is back.
    redis.stop(signal.SIGKILL)
    until(lambda: readiness(one)[0] == 503)
    assert "does not answer" in readiness(one)[1]["error"]["message"]
    cold = post(one, "/v1/recommend", {"user_id": viewer, "k": 10})
    assert cold.status_code == 200
    assert len(cold.json()["items"]) == 10
    assert "store_down" in [each["code"] for each in cold.json()["degraded_why"]]
    assert post(one, "/v1/events", {"events": outcomes(release, 500)}).status_code == 503
    redis.start()
    until(lambda: readiness(one)[0] == 200)
    assert counted(one, outcomes(release, 500)) == Counter(accepted=5)
    two = start("uvicorn", redis.url())
    two.ready()
    for first in (0, *accepted, 500):
        assert counted(two, outcomes(release, first, 1)) == Counter(duplicates=1)
    assert not post(one, "/v1/recommend", {"user_id": viewer, "k": 10}).json()["degraded"]
    assert one.stop() == two.stop(signal.SIGTERM) == 0


def test_two_servers_share_a_cluster_whose_primary_dies(start, cluster, release):
    one, two = start("bentoml", cluster.url()), start("uvicorn", cluster.url())
    one.ready(), two.ready()
    viewer, home = release.user_ids.value(0), cluster.holder("{watchnext}:changes")

    def accepted(server: Server, first: int) -> Counter:
        """Post until they are acknowledged."""
        while (answer := post(server, "/v1/events", {"events": outcomes(release, first)})).status_code != 200:
            assert answer.status_code == 503, answer.text
            time.sleep(0.05)
        return Counter(answer.json())

    for first in range(0, 50, 10):
        assert accepted(one, first) == accepted(two, first + 5) == Counter(accepted=5)
    home.stop(signal.SIGKILL)
    assert len(post(one, "/v1/recommend", {"user_id": viewer, "k": 10}).json()["items"]) == 10
    for first in range(50, 100, 10):
        for answer in (accepted(one, first), accepted(two, first + 5)):
            assert answer["accepted"] + answer["duplicates"] == 5  # of a commit whose answer was lost
    for first in range(0, 100, 5):
        assert accepted(one, first) == accepted(two, first) == Counter(duplicates=5)
    for server in (one, two):
        until(lambda server=server: not post(server, "/v1/recommend", {"user_id": viewer, "k": 10}).json()["degraded"])
        text = httpx.get(f"{server.url}/metrics").text
        assert float(text.split("\nwatchnext_store_behind_seconds ")[1].split()[0]) < 5
    assert one.stop() == two.stop(signal.SIGTERM) == 0

"""Events through a real redis-server into and out of real servers, by the commands, which are killed in the middle."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import orjson
import pytest
from tests.redis_server import RedisServer
from tests.unit.serving.bento_server import ROOT, Server

import programs
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event

OUTCOMES = 6_000  # a dozen batches


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def servers(release, tmp_path_factory) -> Iterator[tuple[Server, Server]]:
    """Two of one release, by the clock on the wall, each with a store of its own."""
    folders = [tmp_path_factory.mktemp(name) for name in ("one", "other")]
    servers = tuple(Server(folder, releases=release.folder.parent, clock="wall", shell="uvicorn") for folder in folders)
    try:
        for server in servers:
            server.ready()
        yield servers
    finally:
        for server in servers:
            server.end()


@pytest.fixture
def command(tmp_path) -> Iterator[Callable[..., programs.Program]]:
    started = []

    def command(*words: str) -> programs.Program:
        started.append(programs.Program("-m", "watchnext.serving", "events", *words, f"data.outputs={tmp_path}", folder=ROOT))
        return started[-1]

    yield command
    for program in started:
        program.kill()
        for stream in (program.stdout, program.stderr):  # nobody reads what a killed one printed
            stream.close()


def until(holds: Callable[[], bool], program: programs.Program) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)


def ended(program: programs.Program) -> str:
    """Return what it prints, after SIGTERM."""
    program.send_signal(signal.SIGTERM)
    printed, errors = program.communicate(60)
    assert program.returncode == 0, errors
    return printed


def outcomes(release, n: int) -> list[dict]:
    ids = [(release.user_ids.value(i % 20), release.video_ids.value(i % 90)) for i in range(n)]
    return [{"user_id": user, "video_id": video, "watch_ms": 9_000, "key": f"k{i}"} for i, (user, video) in enumerate(ids)]


def journal(server: Server, release) -> list[Event]:
    with closing(Store.reader(server.log.parent / "store", release)) as store:
        return list(store.journal())


def test_events_of_a_log_count_once_whatever_is_killed(servers, redis, release, command, tmp_path):
    server, _ = servers
    events = outcomes(release, OUTCOMES)
    refused = {
        "is not valid JSON": b'{"user_id": ',
        "expected one flat JSON object": b"[1, 2]",
        "body.events.0.watch_ms is -5": orjson.dumps(events[0] | {"key": "negative", "watch_ms": -5}),
        "video_id is 'nobody knows': expected a video of release": orjson.dumps(events[0] | {"video_id": "nobody knows"}),
    }
    without_key = orjson.dumps({name: value for name, value in events[0].items() if name != "key"})
    bodies = [orjson.dumps(event) for event in events]
    bodies = [without_key, *bodies[:700], *refused.values(), *bodies[700:]]
    with redis.client() as client:
        with client.pipeline() as pipe:
            for body in bodies:
                pipe.xadd("events", {"event": body})
            positions = pipe.execute()
        words = ("in", f"from={redis.url()}/events", f"server={server.url}")

        feed = command(*words)
        until(lambda: client.get("events:watchnext:read"), feed)
        feed.kill()
        assert client.get("events:watchnext:read") != positions[-1]  # in the middle
        feed = command(*words)
        until(lambda: client.get("events:watchnext:read") == positions[-1], feed)
        ended(feed)

        counted = [event.key for event in journal(server, release)]
        assert {*counted} > {event["key"] for event in events}
        assert len(counted) == len({*counted}) == OUTCOMES + 1
        check_refused(tmp_path / "events" / "refused.jsonl", refused, positions[701:705])

        # All again, and one more: it alone counts.
        feed = command(*words, "since=1970-01-01")
        last = client.xadd("events", {"event": orjson.dumps(events[0] | {"key": "one more"})})
        until(lambda: client.get("events:watchnext:read") == last, feed)
        assert f"{len(bodies) + 1:,} messages, 4 of them refused" in ended(feed)
        assert [event.key for event in journal(server, release)] == [*counted, "one more"]
        with closing(Store.reader(server.log.parent / "store", release)) as store:
            assert all(store.viewer(event["user_id"]).any() for event in events[:20])


def check_refused(path: Path, refused: dict[str, bytes], positions: list[bytes]) -> None:
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    by_position = {line["position"]: line for line in lines}  # twice where the command was killed behind it
    assert [*by_position] == [position.decode() for position in positions]
    for line, (reason, body) in zip(by_position.values(), refused.items(), strict=True):
        assert reason in line["reason"]
        assert line["message"] == body.decode()


def test_the_events_of_one_store_make_the_same_state_in_another(servers, redis, release, command):
    one, other = servers
    viewers = [release.user_ids.value(i) for i in range(20)]
    with httpx.Client(base_url=one.url, timeout=30) as calls:
        video = release.video_ids.value(3)
        shown = {"type": "shown", "user_id": viewers[0], "video_id": video, "request_id": "elsewhere", "surface": "home"}
        watched = {"type": "outcome", "session": "a secret", "video_id": video, "click": True, "key": "a"}
        events = [{"type": "outcome", **event, "key": f"of one {event['key']}"} for event in outcomes(release, 3_000)]
        for part in ([shown, watched], *(events[at : at + 500] for at in range(0, 3_000, 500))):
            assert calls.post("/v1/events", json={"events": part}).json()["accepted"] == len(part)
        assert calls.post("/v1/videos", json={"videos": [{"video_id": "new"}]}).status_code == 200
        slate = calls.post("/v1/recommend", json={"user_id": viewers[1], "k": 10}).json()["items"]
        like = {"type": "outcome", "user_id": viewers[1], "video_id": slate[0]["video_id"], "like": True, "key": "b"}
        assert calls.post("/v1/events", json={"events": [like]}).json()["accepted"] == 1
    store = one.log.parent / "store"
    with redis.client() as client:
        words = ("out", f"to={redis.url()}/copies", f"data.store={store}")
        publisher = command(*words)
        until(lambda: client.xlen("copies"), publisher)
        publisher.kill()
        publisher = command(*words)
        until(lambda: client.get("copies:watchnext:appended") == b"%d" % (len(journal(one, release)) - 1), publisher)
        ended(publisher)
        committed = journal(one, release)
        numbers = [int(fields[b"number"]) for _, fields in client.xrange("copies")]
        assert numbers == [at for at, event in enumerate(committed) if event.kind in ("shown", "outcome")]
        assert len(numbers) == len(committed) - 1 > 3_000  # all but the video that was posted

        feed = command("in", f"from={redis.url()}/copies", f"server={other.url}")
        last = client.xrevrange("copies", count=1)[0][0]
        until(lambda: client.get("copies:watchnext:read") == last, feed)
        assert "refused" not in ended(feed)
    with closing(Store.reader(store, release)) as left, closing(Store.reader(other.log.parent / "store", release)) as right:
        for viewer in viewers:
            assert left.viewer(viewer).any()
            assert left.viewer(viewer).tobytes() == right.viewer(viewer).tobytes()
            assert left.seen(viewer).to_bytes() == right.seen(viewer).to_bytes()
        rows = len(release.catalogue)
        assert left.videos[:rows].tobytes() == right.videos[:rows].tobytes()
        assert left.creators[: len(right.creators)].tobytes() == right.creators.tobytes()

"""An online store keeps these promises on every engine, found through the classes of its package."""

import inspect
import pkgutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from tests.redis_server import RedisClusterOfTest, RedisServer

import watchnext.serving.store.engines
from watchnext.serving.store.engines.engine import Engine, StoreError
from watchnext.serving.store.engines.environment import Environment
from watchnext.serving.store.engines.redis_engine import RedisEngine
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event

NOW = 1_800_000_000_000
DATABASES = count()
# Engine, and kind of its server > location of a new store, from a folder of the test and what runs for the session.
STORES: dict[str, tuple[type, type | None, Callable[[Path, RedisServer | RedisClusterOfTest], Path | str]]] = {
    "Environment": (Environment, None, lambda folder, _: folder),
    "RedisEngine": (RedisEngine, RedisServer, lambda _, redis: redis.url(next(DATABASES))),
    "RedisEngine on a cluster": (RedisEngine, RedisClusterOfTest, lambda _, redis: redis.url(next(DATABASES))),
}


@pytest.fixture(scope="module", params=STORES)
def kept_in(request, tmp_path_factory) -> Iterator[Callable[[Path], Path | str]]:
    """Make locations of new stores, on one engine after the other."""
    _, kind, location = STORES[request.param]
    if kind is None:
        yield lambda folder: location(folder, None)
        return
    with kind(tmp_path_factory.mktemp("redis")) as server:
        yield lambda folder: location(folder, server)


@pytest.fixture
def locations(kept_in, tmp_path) -> Callable[[str], Path | str]:
    """Locations of the stores of one test, by name."""
    return cache(lambda name: kept_in(tmp_path / name))


@pytest.fixture
def opens(locations, release) -> Callable[[], Store]:
    """Open the store of one location, over the same release."""
    return lambda name="store": closing(Store.open(locations(name), release, durable=False))


def outcome(user_id=101, video_id="v001", known_at=NOW, **fields) -> Event:
    return Event(kind="outcome", user_id=user_id, video_id=video_id, known_at=known_at, **{"watch_ms": 5_000} | fields)


def random_events(release, n: int = 60) -> list[Event]:
    """Impressions and outcomes of six viewers, two of them new, with times that tie, go back, and lie days apart."""
    random = np.random.default_rng(0)
    users = [release.user_ids.value(row) for row in range(4)] + [7_000_001, 7_000_002]
    times = NOW + np.cumsum(random.choice([0, 0, 1, 800, 90_000_000, -5_000], n))
    events = []
    for at in times.tolist():
        ids = {"user_id": users[random.integers(6)], "video_id": release.video_ids.value(int(random.integers(9)))}
        shown = Event(kind="shown", known_at=at, **ids)
        events.append(shown if random.random() < 0.3 else outcome(known_at=at, like=bool(random.random() < 0.4), **ids))
    return events


def records(store, release) -> dict[str, np.ndarray]:
    """All that is folded, of viewers, what they have seen, videos and creators."""
    users = [*(release.user_ids.value(row) for row in range(len(release.user_ids.ids))), 7_000_001, 7_000_002]
    viewers, videos = np.array([store.viewer(user) for user in users]), store.video_records(np.arange(len(release.catalogue)))
    seen = np.frombuffer(b"".join(store.seen(user).to_bytes() for user in users), np.uint8)
    together, sets = store.viewers(users)
    assert together.tobytes() == viewers.tobytes()
    assert b"".join(each.to_bytes() for each in sets) == seen.tobytes()
    return {"viewers": viewers, "seen": seen, "videos": videos, "creators": store.creators.copy()}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(values.tobytes() == other[name].tobytes() for name, values in one.items())


def test_every_engine_is_tested_here():
    folder = watchnext.serving.store.engines
    modules = [import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    classes = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)}
    assert {one for one in classes if issubclass(one, Engine)} - {Engine} == {engine for engine, _, _ in STORES.values()}


def test_an_applied_event_is_read_at_once(opens, release):
    """By its viewer's record, its video's, the counters of a candidate, the journal, and the list of viewers."""
    row = int(release.video_ids.rows(["v001"])[0])
    with opens() as store:
        before = records(store, release)
        counters = store.counters(store.viewer(7_000_001), np.array([row]), NOW + 1.0)
        assert store.apply([outcome(7_000_001, like=True)]) == ["accepted"]
        after = records(store, release)
        assert [np.flatnonzero((after[name] != before[name]).any(axis=1)).tolist() for name in ("viewers", "videos")] == [
            [len(after["viewers"]) - 2],
            [row],
        ]
        assert not same({"creators": after["creators"]}, before)
        assert (store.counters(store.viewer(7_000_001), np.array([row]), NOW + 1.0) != counters).any()
        assert [event.user_id for event in store.journal()] == [7_000_001]
        assert 7_000_001 in store.viewer_ids(1_000)


def test_an_unknown_viewer_is_zeros_and_an_unknown_video_counts_nothing(opens, release):
    with opens() as store:
        before = records(store, release)
        assert not store.viewer("nobody").any()
        assert store.viewer("nobody").shape == (release.layout.viewer,)
        assert store.apply([outcome(7_000_001, "nothing")]) == ["unknown"]
        assert same(records(store, release), before)
        assert [event.video_id for event in store.quarantined()] == ["nothing"]
        assert list(store.journal()) == []


def test_an_event_that_is_posted_again_counts_once_also_after_a_restart(opens, release):
    by_key, by_request = outcome(key="a"), outcome(request_id="r")
    shown = Event(kind="shown", user_id=101, video_id="v001", known_at=NOW, request_id="r")
    with opens() as store:
        assert store.apply([by_key, by_request, shown]) == ["accepted"] * 3
        once = records(store, release)
        assert store.apply([by_key]) == store.apply([by_request]) == store.apply([shown]) == ["duplicate"]
        assert same(records(store, release), once)
    with opens() as store:
        assert store.apply([by_key, by_request, shown]) == ["duplicate"] * 3
        assert same(records(store, release), once)
        assert len(list(store.journal())) == 3


def test_events_of_one_call_count_as_one_by_one_and_as_from_the_journal(opens, release):
    """The order of an event's own viewer and video is all that matters: a call with others between gives the same bytes."""
    events = random_events(release)
    with opens("together") as store:
        store.apply(events)
        together, journal = records(store, release), list(store.journal())
    assert journal == events
    with opens("single") as store:
        for event in events:
            store.apply([event])
        assert same(records(store, release), together)
    with opens("again") as store:
        store.apply(journal)
        assert same(records(store, release), together)


def test_viewers_fold_apart_from_each_other(opens, release):
    events = random_events(release)
    with opens("mixed") as store:
        store.apply(events)
        mixed = records(store, release)["viewers"]
    with opens("sorted") as store:
        store.apply(sorted(events, key=lambda event: event.user_id))
        assert records(store, release)["viewers"].tobytes() == mixed.tobytes()


def test_a_store_is_opened_as_it_was_closed(opens, release):
    with opens() as store:
        store.apply([*random_events(release), Event(kind="withdrawn", user_id="", video_id="v004", known_at=NOW)])
        left, position = records(store, release), store.position
    with opens() as store:
        assert same(records(store, release), left)
        assert (store.position, store.unavailable.sum()) == (position, 1)
        store.apply([Event(kind="restored", user_id="", video_id="v004", known_at=NOW)])
        assert not store.unavailable.any()


def about_video(kind: str, video_id: str, known_at: int, **metadata) -> Event:
    return Event(kind=kind, user_id="", video_id=video_id, known_at=known_at, metadata=metadata)


def test_posted_and_changed_videos_are_there_when_the_store_is_opened_again(opens, release):
    metadata = {"creator_id": "someone new", "tags": ["tag1", "new"], "duration_ms": 30_000, "upload_ms": NOW}
    with opens() as store:
        assert store.apply([about_video("posted", "z1", NOW, **metadata), about_video("posted", "z2", NOW)]) == ["created"] * 2
        store.apply([outcome(video_id="z1", known_at=NOW + 1), outcome(video_id="v001", known_at=NOW + 2)])
        store.apply([about_video("changed", "z1", NOW + 3, tags=["tag2"]), about_video("withdrawn", "z2", NOW + 3)])
        store.apply([outcome(video_id="z1", known_at=NOW + 4)])
        before = state_of_videos(store), records(store, release)
    with opens() as store:
        assert state_of_videos(store) == before[0]
        assert same(records(store, release), before[1])


def state_of_videos(store) -> list[bytes]:
    rows, catalogue = store.catalogue.ids.rows(["z1", "z2"]), store.catalogue
    assert (rows >= 0).all()
    columns = [catalogue.creator_rows, catalogue.tag_rows, store.videos, store.unavailable, *catalogue.inputs.values()]
    return [column[rows].tobytes() for column in columns]


def test_a_closed_store_refuses(opens):
    with opens() as store:
        store.close()
    for refused in (lambda: store.viewer(101), lambda: store.apply([outcome()]), lambda: list(store.journal())):
        with pytest.raises(StoreError):
            refused()
    with opens() as store:
        assert list(store.journal()) == []


KILLED = """
    import sys
    from watchnext.serving.release.release import Release
    from watchnext.serving.store.tables.journal import Event
    from watchnext.serving.store.store import Store
    release = Release.load(sys.argv[2])
    opened = Store.open(sys.argv[1], release)
    for i in range(100_000):
        event = Event(kind="outcome", user_id=i, video_id="v001", known_at=1_800_000_000_000 + i, watch_ms=1_000, key=str(i))
        opened.apply([event])
        print(i, flush=True)
"""


def test_an_acknowledged_event_survives_kill_9(locations, opens, release):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(locations("store")), str(release.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [int(process.stdout.readline()) for _ in range(40)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    with opens() as store:
        assert store.position in (len(acknowledged), len(acknowledged) + 1)
        assert [event.user_id for event in store.journal()][: len(acknowledged)] == acknowledged
        for user in acknowledged:
            assert store.viewer(user).any()
            assert store.apply([outcome(user_id=user, key=str(user))]) == ["duplicate"]
        assert store.video_records(release.video_ids.rows(["v001"]))[0, 0] == NOW + store.position - 1


def test_a_slate_computed_before_an_erasure_is_not_stored_behind_it(opens, release):
    gone, back, other = (release.user_ids.value(row) for row in range(3))
    with opens() as store:
        for user in (gone, back):
            store.erase(user, NOW)
        store.apply([outcome(user_id=back, known_at=NOW + 1)])
        store.slates.put([(user, b"a slate") for user in (gone, back, other)])
        assert [store.slates.get(user) for user in (gone, back, other)] == [None, b"a slate", b"a slate"]


def test_an_erased_viewer_leaves_tombstones_at_their_positions_and_others_all_they_had(opens, release):
    events, gone, kept = random_events(release), 7_000_001, 7_000_002
    with opens() as store:
        store.apply(events)
        store.apply([outcome(user_id=gone, video_id="v-unknown")])
        before = [store.viewer(kept).tobytes(), store.seen(kept).to_bytes(), store.videos.tobytes()]
        mine = [event.user_id == gone for event in events]
        removed = store.erase(gone, NOW).removed
        assert (removed["viewers"], removed["journal"], removed["quarantine"]) == (1, sum(mine), 1)
    with opens() as store:
        assert [store.viewer(kept).tobytes(), store.seen(kept).to_bytes(), store.videos.tobytes()] == before
        assert not store.viewer(gone).any()
        assert not len(store.seen(gone).keys)
        assert gone not in store.viewer_ids(1000)
        expected = [(event.known_at, "" if own else event.user_id) for event, own in zip(events, mine, strict=True)]
        assert [(event.known_at, event.user_id) for event in store.journal()] == expected
        store.apply([outcome(user_id=kept, known_at=NOW + 1, key="later")])
        assert len(list(store.journal())) == len(events) + 1

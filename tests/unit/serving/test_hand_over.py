"""A store handed over to another release while threads post: no event is lost, none counts twice."""

import itertools
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tests.redis_server import RedisServer

from small_release import make_release
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.engines.environment import Environment
from watchnext.serving.store.engines.folder import point
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.hand_over import StoreSuccession
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.retention import ACCEPTED, DUPLICATE


@pytest.fixture
def releases(built, exported, another_catalogue, tmp_path) -> dict[str, Release]:
    root = tmp_path / "releases"
    as_of_ms = {"as_of_ms": Release.load(make_release(built, exported, root, id="first")).as_of_ms - 1_000}
    make_release(built, exported, root, id="same", **as_of_ms)
    make_release(*another_catalogue, root, id="other")
    return {name: Release.load(root / name) for name in ("first", "same", "other")}


def outcomes(release: Release, worker: int, number: int) -> list[Event]:
    known_at = release.as_of_ms + 1 + 10 * number
    users, videos = release.user_ids.ids, release.video_ids
    about = {"kind": "outcome", "known_at": known_at, "watch_ms": 5_000, "click": True, "long_view": True, "surface": "home"}
    return [
        Event(
            user_id=int(users[(worker + i) % 9]),
            video_id=videos.value((number + i) % 50),
            key=f"{worker}/{number}/{i}",
            **about,
        )
        for i in range(5)
    ]


def posted(video_id: str, release: Release, **metadata) -> Event:
    metadata = {"creator_id": "c3", "tags": ["tag1", "new"], "upload_ms": release.as_of_ms, **metadata}
    return Event(kind="posted", user_id="", video_id=video_id, known_at=release.as_of_ms + 2, metadata=metadata)


def columns(store: Store, video_ids: list[str]) -> list[bytes]:
    rows, catalogue = store.catalogue.ids.rows(video_ids), store.catalogue
    values = [catalogue.creator_rows[rows], catalogue.tag_rows[rows], *(column[rows] for column in catalogue.inputs.values())]
    return [each.tobytes() for each in values]


def posted_while(commits: GroupCommit, release: Release, act) -> list[Event]:
    """Post from four threads, each call twice, before, while and after `act()` runs. Returns the acknowledged events."""
    done, acknowledged = threading.Event(), []

    def post(worker: int) -> None:
        for number in itertools.count():
            if done.is_set() and number > 20:
                return
            events = outcomes(release, worker, number)
            first, again = (commits.submit(events) for _ in range(2))
            assert (set(first.result()), set(again.result())) == ({ACCEPTED}, {DUPLICATE})
            acknowledged.extend(events)

    with ThreadPoolExecutor(4) as pool:
        posting = [pool.submit(post, worker) for worker in range(4)]
        try:
            act()
        finally:
            done.set()
        [each.result() for each in posting]
    return acknowledged


def in_memory(store: Store) -> list:
    trending = [each for each in vars(store.trending.counts).values() if isinstance(each, np.ndarray)]
    return [store.videos, store.creators, store.unavailable, *trending]


@pytest.fixture(params=["folder", "redis"])
def folder(request, tmp_path) -> Iterator[Path | str]:
    if request.param == "folder":
        yield tmp_path / "store"
    else:
        with RedisServer(tmp_path / "redis") as server:
            yield server.url()


@pytest.mark.parametrize("name", ["same", "other"])
def test_no_event_is_lost_or_counts_twice_across_a_hand_over(releases, folder, name):
    first, second = releases["first"], releases[name]
    store = Store.open(folder, first)
    withdrawn = Event(kind="withdrawn", user_id="", video_id=first.video_ids.value(3), known_at=first.as_of_ms + 1)
    store.apply([withdrawn])
    store.apply([posted("posted before", first)])
    commits, succession, serving = GroupCommit(store, most_waiting=10_000), StoreSuccession(folder), []

    def hand_over() -> None:
        successor = succession.prepare(store, second, first.state_fingerprint)
        commits.submit([posted("posted meanwhile", first), posted("posted before", first, tags=["tag3"])]).result()

        def complete() -> Store:
            succession.complete(store, successor)
            return successor

        commits.hand_over(complete).result()
        serving.append(successor)

    acknowledged = posted_while(commits, first, hand_over)
    commits.close()
    store.close(successor=serving[0])
    journal = [event.key for event in serving[0].journal() if event.kind == "outcome"]
    assert Counter(journal) == Counter(event.key for event in acknowledged)
    live, viewers = in_memory(serving[0]), {user: serving[0].viewer(user) for user in serving[0].viewer_ids(100)}
    assert serving[0].position == len(journal) + 4
    videos = ["posted before", "posted meanwhile"]
    assert serving[0].catalogue.ids.rows(videos).tolist() == [len(second.catalogue), len(second.catalogue) + 1]
    of_catalogue = columns(serving[0], videos)
    assert serving[0].unavailable[second.video_ids.rows([withdrawn.video_id])[0]]
    serving[0].close()

    again = Store.open(folder, second)  # what lies on disk is what was in memory
    assert columns(again, videos) == of_catalogue
    assert [np.array_equal(*pair) for pair in zip(live[:3], in_memory(again)[:3], strict=True)] == [True] * 3
    [np.testing.assert_allclose(*pair, rtol=1e-5) for pair in zip(live[3:], in_memory(again)[3:], strict=True)]
    assert again.apply(acknowledged[:200]) == [DUPLICATE] * 200
    again.close()
    if name == "other":  # and what a rebuild from the release and the journal gives
        build_store(folder, second)
        rebuilt = Store.open(folder, second)
        assert np.array_equal(rebuilt.videos, live[0])
        assert all(np.array_equal(rebuilt.viewer(user), record) for user, record in viewers.items())
        rebuilt.close()


def test_what_is_committed_while_the_successor_loads_is_in_it(releases, folder, monkeypatch):
    first, store, load = releases["first"], Store.open(folder, releases["first"]), Store._load

    def loads(loaded: Store) -> None:
        load(loaded)
        if loaded is not store:
            store.apply(outcomes(first, 0, 0))

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_load", loads)
        successor = StoreSuccession(folder).prepare(store, releases["same"], first.state_fingerprint)
    assert successor.position == store.position == 5
    assert all(np.array_equal(*pair) for pair in zip(in_memory(store), in_memory(successor), strict=True))
    store.apply(outcomes(first, 0, 1))
    assert successor.position == store.position == 10
    assert all(np.array_equal(*pair) for pair in zip(in_memory(store), in_memory(successor), strict=True))
    store.close(successor=successor)
    successor.close()


def test_a_viewer_erased_while_the_successor_was_built_is_not_in_it(releases, tmp_path):
    release, other, folder = releases["first"], releases["other"], tmp_path / "store"
    store, succession = Store.open(folder, release, durable=False), StoreSuccession(folder)
    gone, stays = (int(user) for user in release.user_ids.ids[:2])
    about = {"kind": "outcome", "video_id": release.video_ids.value(3), "watch_ms": 5_000}
    store.apply([Event(user_id=user, known_at=other.as_of_ms + 10, key=str(user), **about) for user in (gone, stays)])
    successor = succession.prepare(store, other, release.state_fingerprint)
    assert successor.viewer(gone).any()
    store.erase(gone, other.as_of_ms + 20)
    succession.complete(store, successor)
    assert not successor.viewer(gone).any()
    assert successor.viewer(stays).any()
    assert gone not in {event.user_id for event in successor.journal()}
    store.close(successor=successor)
    successor.close()


def test_a_hand_over_that_fails_leaves_the_store_and_a_process_that_died_no_trace(releases, tmp_path):
    first, other, folder = releases["first"], releases["other"], tmp_path / "store"
    store = Store.open(folder, first)
    commits = GroupCommit(store, most_waiting=100)

    def fails() -> Store:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        commits.hand_over(fails).result()
    assert commits.submit(outcomes(first, 0, 0)).result() == [ACCEPTED] * 5
    succession = StoreSuccession(folder)
    succession.stop()  # the build is killed as it starts
    with pytest.raises(StoreError, match="the store for other could not be built: -9"):
        succession.prepare(store, other, first.state_fingerprint)
    commits.close()
    store.close()
    store = Store.open(folder, first)
    assert store.position == 5
    store.close()
    StoreSuccession(folder).prepare(again := Store.open(folder, first), other, first.state_fingerprint).close(successor=again)
    again.close()
    assert len([*folder.glob("env-*")]) > 1
    Store.open(folder, first).close()
    assert len([*folder.glob("env-*")]) == 1  # what holds viewers' state does not outlive its use
    with pytest.raises(StoreError, match="is closing"):
        commits.hand_over(fails)


def test_a_link_to_an_open_environment_leaves_its_lock(tmp_path):
    """Where the lock is lost, another process that reads the environment makes its mutexes anew, and the server dies."""
    with closing(Environment(tmp_path / "env-1", durable=True, map_bytes=1 << 20)) as environment:
        point(tmp_path, "current", "env-1")
        alone = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB, 1)"
        taken = subprocess.run([sys.executable, "-c", alone, environment.path / "lock.mdb"], capture_output=True, text=True)
        assert "BlockingIOError" in taken.stderr

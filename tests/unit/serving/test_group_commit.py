"""Calls of many threads share a transaction, and each gets its own results once they are on disk."""

import random
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing

import pytest

from watchnext.serving.store import group_commit
from watchnext.serving.store.engines.engine import StoreDownError, StoreError, StoreFullError
from watchnext.serving.store.group_commit import GROUPED, GroupCommit, StoreBusyError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event

NOW = 1_800_000_000_000


def outcome(user_id=101, video_id="v001", **fields) -> Event:
    return Event(kind="outcome", user_id=user_id, video_id=video_id, known_at=NOW, watch_ms=5_000, **fields)


class Held:
    """A store that notes the size of every transaction, waits at a gate before each, and raises `error`, if it is set."""

    def __init__(self, store) -> None:
        self._store, self.gate, self.sizes, self.error = store, threading.Event(), [], None

    @property
    def failed(self) -> str | None:
        return self._store.failed

    def require_writable(self) -> None:
        self._store.require_writable()

    def apply(self, events):
        self.sizes.append(len(events))
        self.gate.wait(20)
        if self.error:
            raise self.error
        return self._store.apply(events)


@pytest.fixture
def held(store) -> Held:
    return Held(store)


@pytest.fixture
def commits(held):
    with closing(GroupCommit(held, most_waiting=5_000)) as commits:
        yield commits
        held.gate.set()


def begun(held: Held, commits: GroupCommit) -> None:
    """Let the writer be in a transaction, so that all later calls wait for it."""
    commits.submit([outcome(key="begun")])
    while not held.sizes:
        pass


def test_all_that_wait_share_one_transaction_and_keep_their_order(store, held, commits):
    begun(held, commits)
    calls = [[outcome(user_id=i, key="a"), outcome(user_id=i, video_id="v999", key="b")] for i in range(30)]
    futures = [commits.submit(call) for call in [*calls, calls[3]]]
    assert commits.waiting == 62
    assert not any(future.done() for future in futures)
    held.gate.set()
    assert [future.result(20) for future in futures] == [["accepted", "unknown"]] * 30 + [["duplicate", "unknown"]]
    assert held.sizes == [1, 62]
    assert [event.user_id for event in store.journal(1)] == list(range(30))
    assert commits.waiting == 0


def test_calls_of_owners_are_gathered_until_one_is_asked_for(store, monkeypatch):
    monkeypatch.setattr(group_commit, "GATHER_S", 600.0)
    held = Held(store)
    held.gate.set()
    with closing(GroupCommit(held, most_waiting=5_000)) as commits:
        first, second = (commits.submit([outcome(user_id=user, request_id="r")], owner=user) for user in (101, 102))
        assert not commits.is_settled(101)
        assert not first.done()
        assert held.sizes == []
        commits.settle(102, 20)
        assert (first.result(0), second.result(0), held.sizes) == (["accepted"], ["accepted"], [2])
        assert commits.is_settled(101)
        third = commits.submit([outcome(key="gathered")], owner=103)
        assert commits.submit([outcome(key="awaited")]).result(20) == ["accepted"]  # nobody's own: its client waits
        assert (third.result(0), held.sizes) == (["accepted"], [2, 2])
        last = commits.submit([outcome(key="last")], owner=104)
    assert last.result(0) == ["accepted"]


def test_a_gathered_call_is_written_in_its_time(store, monkeypatch):
    monkeypatch.setattr(group_commit, "GATHER_S", 0.01)
    with closing(GroupCommit(store, most_waiting=5_000)) as commits:
        assert commits.submit([outcome(key="alone")], owner=101).result(20) == ["accepted"]


def test_a_group_has_a_size_and_a_larger_call_goes_alone(held, commits):
    begun(held, commits)
    sizes = [GROUPED - 1, 1, 1, GROUPED + 1, 1]
    futures = [commits.submit([outcome()] * size) for size in sizes]
    held.gate.set()
    assert [len(future.result(20)) for future in futures] == sizes
    assert held.sizes == [1, GROUPED, 1, GROUPED + 1, 1]


def test_a_full_queue_refuses_and_a_canceled_call_counts_nothing(store, held, commits):
    begun(held, commits)
    abandoned = commits.submit([outcome(key="gone")] * 4_000)
    with pytest.raises(StoreBusyError, match="4000 events wait for the disk, expected at most 5000"):
        commits.submit([outcome()] * 1_001)
    assert abandoned.cancel()
    held.gate.set()
    assert commits.submit([outcome(key="gone")]).result(20) == ["accepted"]
    assert store.position == 2


def test_close_writes_what_waits_and_takes_nothing_more(store, held, commits):
    begun(held, commits)
    future = commits.submit([outcome(user_id=7)])
    threading.Timer(0.05, held.gate.set).start()
    commits.close()
    assert future.result(0) == ["accepted"]
    assert store.position == 2
    with pytest.raises(StoreError, match="closing"):
        commits.submit([outcome()])


def test_an_owner_waits_for_its_last_call_alone(held, commits):
    begun(held, commits)
    first, last = commits.submit([outcome()], owner=7), commits.submit([outcome()], owner=7)
    commits.settle(8, 20)
    commits.settle(7, 0.01)
    assert not last.done()
    threading.Timer(0.05, held.gate.set).start()
    commits.settle(7, 20)
    assert first.done()
    assert last.done()


def test_no_call_is_written_again_where_it_is_not_known_whether_it_was(store, held, commits):
    begun(held, commits)
    futures = [commits.submit([outcome(user_id=i)]) for i in range(3)]
    held.error = StoreDownError("no answer")
    held.gate.set()
    for future in futures:
        with pytest.raises(StoreDownError):
            future.result(20)
    assert held.sizes == [1, 3]


def test_a_call_that_does_not_fit_costs_only_itself(release, tmp_path):
    with closing(Store.open(tmp_path / "store", release, durable=False, map_bytes=2 << 20)) as store:
        held = Held(store)
        commits = GroupCommit(held, most_waiting=5_000)
        begun(held, commits)
        calls = [[outcome(key="a")], [outcome(user_id=user) for user in range(900)], [outcome(key="b")]]
        first, large, last = [commits.submit(call) for call in calls]
        held.gate.set()
        with pytest.raises(StoreFullError, match="map_bytes"):
            large.result(20)
        assert first.result(20) == last.result(20) == ["accepted"]
        assert [event.key for event in store.journal()] == ["begun", "a", "b"]
        commits.close()


def test_after_a_failed_write_nothing_is_taken_or_acknowledged(store, commits, held, disk_full):
    held.gate.set()
    assert commits.submit([outcome(key="a")]).result(20) == ["accepted"]
    with disk_full():
        for _ in range(2):
            with pytest.raises(StoreError, match=r"cannot be written.*restart"):
                commits.submit([outcome(user_id=user) for user in range(200)]).result(20)
    with pytest.raises(StoreError, match=r"cannot be written.*restart"):  # also once the disk takes bytes again
        commits.submit([outcome(key="b")])
    assert store.position == 1
    assert [event.key for event in store.journal()] == ["a"]


KILLED = """
    import itertools, sys, threading
    from watchnext.serving.release.release import Release
    from watchnext.serving.store.group_commit import GroupCommit
    from watchnext.serving.store.tables.journal import Event
    from watchnext.serving.store.store import Store
    release, printing = Release.load(sys.argv[1]), threading.Lock()
    commits = GroupCommit(Store.open(sys.argv[2], release), most_waiting=5_000)

    def post(thread):
        for i in itertools.count():
            shared = {"user_id": thread, "video_id": "v001", "known_at": 1_800_000_000_000 + i}
            outcomes = [Event(kind="outcome", watch_ms=900, key=f"{thread}/{i}/{j}", **shared) for j in range(5)]
            commits.submit([Event(kind="shown", request_id=f"{thread}/{i}", **shared)])
            assert commits.submit(outcomes).result() == ["accepted"] * 5
            with printing:
                print(f"{thread}/{i}", flush=True)

    for thread in range(1, 6):
        threading.Thread(target=post, args=(thread,)).start()
    post(0)
"""


@pytest.mark.parametrize("seed", range(3))
def test_kill_9_loses_no_acknowledged_event_and_counts_none_twice(release, tmp_path, seed):
    """Six threads post while the process is killed; then each sends its last post again, as a client without an answer does."""
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(release.folder), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        acknowledged = [process.stdout.readline().strip() for _ in range(30)]
        time.sleep(random.Random(seed).random() / 10)
        process.kill()
        acknowledged += process.stdout.read().split()
    with closing(Store.open(tmp_path / "store", release)) as store:
        keys = [event.key for event in store.journal() if event.kind == "outcome"]
        assert {f"{post}/{j}" for post in acknowledged for j in range(5)} <= set(keys)
        assert len(keys) == len(set(keys)) <= 5 * (len(acknowledged) + 6)
        for thread in range(6):
            posts = [key.split("/")[1] for key in keys if key.startswith(f"{thread}/")]
            again = [
                outcome(user_id=thread, key=f"{thread}/{max(map(int, posts), default=0) + step}/{j}")
                for step in (0, 1)
                for j in range(5)
            ]
            assert store.apply(again) == (["duplicate"] * 5 if posts else ["accepted"] * 5) + ["accepted"] * 5
        watched = [event for event in store.journal() if event.kind == "outcome"]
        count = store.layout.at_history
        assert sum(store.viewer(thread)[count] for thread in range(6)) == len(watched)

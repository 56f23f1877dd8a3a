"""A store on a Redis Cluster: a commit reaches all nodes or none, whoever dies meanwhile, a writer or a primary."""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count

import numpy as np
import pytest
from tests.redis_server import RedisClusterOfTest

from watchnext.serving.store.engines import redis_commit
from watchnext.serving.store.engines.engine import StoreDownError, StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event

NOW = 1_800_000_000_000
SPACES = count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[RedisClusterOfTest]:
    with RedisClusterOfTest(tmp_path_factory.mktemp("redis")) as cluster:
        yield cluster


@pytest.fixture
def url(cluster) -> str:
    return cluster.url(next(SPACES))


@pytest.fixture
def opens(url, release) -> Iterator[Callable[..., Store]]:
    """Open stores that are closed at the end."""
    with ExitStack() as stack:
        yield lambda at=url, **given: stack.enter_context(closing(Store.open(at, release, **given)))


def outcome(user_id=101, video_id="v001", known_at=NOW, **fields) -> Event:
    return Event(kind="outcome", user_id=user_id, video_id=video_id, known_at=known_at, **{"watch_ms": 5_000} | fields)


def watches(first: int, n: int = 8) -> list[Event]:
    return [outcome(i, f"v{i % 90:03}", NOW + i, key=str(i)) for i in range(first, first + n)]


def dies(*_: object) -> None:
    raise KeyboardInterrupt


def until(happened: Callable[[], object], within_s: float = 30.0) -> None:
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)


def applied(store: Store, events: list[Event]) -> list[str]:
    """Post until the store takes the events, as a client does."""
    end = time.monotonic() + 60
    while True:
        try:
            return store.apply(events)
        except StoreError:
            assert time.monotonic() < end
            time.sleep(0.05)


def same(store: Store, other: Store, users: range) -> None:
    for name in ("videos", "creators"):
        np.testing.assert_array_equal(getattr(store, name), getattr(other, name))
    np.testing.assert_array_equal([store.viewer(user) for user in users], [other.viewer(user) for user in users])
    assert [store.seen(user).to_bytes() for user in users] == [other.seen(user).to_bytes() for user in users]


def test_the_tables_are_on_all_nodes_and_viewers_by_key(opens, cluster, release):
    store = opens()
    store.apply(watches(0, 60))
    with store._engine.read() as txn:
        parts = txn._names.parted("viewers", [key for key, _ in txn.items("viewers")])
        assert sum(map(len, parts.values())) == txn.count("viewers") == store.sizes()["viewers"][0]
        assert {cluster.holder(f"{part}:x").port for part in parts} == {server.port for server in primaries(cluster)}
    assert len(primaries(cluster)) == 3


def primaries(cluster: RedisClusterOfTest) -> list:
    with cluster.client() as client:
        ports = {node.port for node in client.get_primaries()}
    return [server for server in cluster.servers if server.port in ports]


@pytest.mark.parametrize("heir", ["another server", "the next writer"])
def test_who_comes_after_a_dead_writer_brings_its_commit_to_all_nodes(heir, opens, monkeypatch, tmp_path):
    store, lmdb = opens(), opens(tmp_path / "store", durable=False)
    lmdb.apply(watches(0))
    with monkeypatch.context() as patched:
        patched.setattr(store._engine._commits, "spread", dies)
        with pytest.raises(KeyboardInterrupt):
            store.apply(watches(0))
    assert not store.viewer(3).any()  # the commit is made, but no part has it
    if heir == "the next writer":
        assert store.apply(watches(0)) == ["duplicate"] * 8
    same(opens(), lmdb, range(8))
    same(store, lmdb, range(8))


def test_a_writer_that_stopped_between_home_and_the_other_nodes_takes_nothing_back(opens, monkeypatch, tmp_path):
    slow, quick, lmdb = opens(), opens(), opens(tmp_path / "store", durable=False)
    spread = slow._engine._commits.spread

    def late(number: int, commands: dict) -> None:
        monkeypatch.undo()
        quick.apply(watches(0, 12)[::-1])
        spread(number, commands)

    monkeypatch.setattr("watchnext.serving.store.engines.redis_engine.LOCK_S", 0.05)
    monkeypatch.setattr(slow._engine._commits, "spread", late)
    slow.apply(watches(0))
    lmdb.apply(watches(0))
    lmdb.apply(watches(8, 4)[::-1])
    same(quick, lmdb, range(12))


def test_a_node_that_is_ahead_of_the_commits_is_named(opens, cluster):
    store = opens()
    with cluster.client() as client:
        for part in store._engine._names.shards:
            client.set(f"{part}:applied", 10**6)
    with pytest.raises(StoreError, match=r"has the commit 1000000, but the last one is \d+: .*run `.*build-store`"):
        store.apply(watches(0))


def test_the_settings_of_every_node_are_checked(opens, cluster):
    replica = next(server for server in cluster.servers if server not in primaries(cluster))
    with replica.client() as client:
        client.config_set("appendonly", "no")
        with pytest.raises(StoreError, match=r"appendonly no.*expected yes"):
            opens()
        client.config_set("appendonly", "yes")
    opens()


def test_a_commit_waits_for_a_replica(opens, cluster, monkeypatch):
    """Replicas that hang: nothing is acknowledged, and what was made counts once when it is posted again."""
    store = opens()
    monkeypatch.setattr(redis_commit, "COPY_MS", 100)
    replicas = [server for server in cluster.servers if server not in primaries(cluster)]
    for server in replicas:
        server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(StoreDownError, match=r"no replica of .* had the commit within 100 ms"):
            store.apply(watches(0))
    finally:
        for server in replicas:
            server.process.send_signal(signal.SIGCONT)
    monkeypatch.undo()
    assert applied(store, watches(0)) == ["duplicate"] * 8
    assert store.position == 8
    same(store, opens(), range(8))


def test_a_full_node_holds_up_the_commit_until_it_has_room(opens, cluster, tmp_path):
    store, lmdb = opens(), opens(tmp_path / "store", durable=False)
    lmdb.apply(watches(0))
    home = cluster.holder(store._engine._names.changes)
    others = [server for server in primaries(cluster) if server is not home]
    for server in others:
        with server.client() as client:
            client.config_set("maxmemory", 1_000_000)
    with pytest.raises(StoreDownError, match="raise its maxmemory"):
        store.apply(watches(0))
    for server in others:
        with server.client() as client:
            client.config_set("maxmemory", 0)
    assert applied(store, watches(0)) == ["duplicate"] * 8
    same(store, lmdb, range(8))


@pytest.mark.parametrize("lost", ["the commits", "viewers"])
def test_a_primary_that_is_killed_is_replaced_and_nothing_acknowledged_is_lost(lost, opens, cluster, caplog, tmp_path):
    """Two servers write while it dies. Every event is posted until it is acknowledged, which is at most once."""
    stores, results, names = [opens(), opens()], {}, opens()._engine._names
    home = cluster.holder(names.changes)
    killed = home if lost == "the commits" else next(server for server in primaries(cluster) if server is not home)

    def write(store: Store, first: int) -> None:
        for i in range(first, first + 25):
            results[i] = applied(store, watches(i, 1))

    threads = [threading.Thread(target=write, args=(store, 1_000 * at)) for at, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    until(lambda: len(results) > 15)
    before = [tuple(results[i]) for i in list(results)]
    killed.stop(signal.SIGKILL)
    for thread in threads:
        thread.join()
    for store in stores:
        for i in results:
            assert applied(store, watches(i, 1)) == ["duplicate"]
        until(lambda store=store: store.position == 50)
    assert set(before) == {("accepted",)}
    with caplog.at_level(logging.WARNING):
        applied(stores[0], watches(5_000, 40))
    assert "has no replica" in caplog.text
    lmdb = opens(tmp_path / "store", durable=False)
    lmdb.apply(list(stores[0].journal()))
    for store in stores:
        until(lambda store=store: store.position == lmdb.position and answers(store))
        same(store, lmdb, range(1_000, 1_025))
    killed.start()
    cluster.wait()


def answers(store: Store) -> bool:
    """Return True once the store has learned which node took over."""
    try:
        return len(store.viewers(range(1_000, 1_025))) > 0
    except StoreError:
        return False


def test_the_age_of_what_other_servers_wrote_is_known(opens, monkeypatch):
    store = opens()
    until(lambda: store.behind_s < 1)
    with store._engine.sequence:  # it follows nothing
        behind = store.behind_s
        until(lambda: store.behind_s > behind + 0.2)
    until(lambda: store.behind_s < 0.2)

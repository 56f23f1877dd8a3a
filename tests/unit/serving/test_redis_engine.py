"""Server processes that share a Redis, here as stores of one process: each sees the others, and an event counts once."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count

import numpy as np
import pytest
from bento_server import ROOT
from redis.connection import Connection
from redis.exceptions import TimeoutError
from tests.redis_server import RedisClusterOfTest, RedisServer
from tests.unit.serving.test_store import shrunk, trending_of

import programs
from watchnext.serving.http.settings import Settings
from watchnext.serving.store.engines import redis_engine
from watchnext.serving.store.engines.engine import StoreDownError, StoreError, StoreFullError
from watchnext.serving.store.engines.redis_commit import packed, unpacked_items
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.retention import Bounds

NOW = 1_800_000_000_000
DATABASES = count()


@pytest.fixture(scope="module", params=[RedisServer, RedisClusterOfTest])
def server(request, tmp_path_factory) -> Iterator[RedisServer | RedisClusterOfTest]:
    with request.param(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def url(server) -> str:
    return server.url(next(DATABASES))


@pytest.fixture
def opens(release) -> Iterator[Callable[..., Store]]:
    """Open stores that are closed at the end."""
    with ExitStack() as stack:
        yield lambda url, of=release, **given: stack.enter_context(closing(Store.open(url, of, **given)))


def outcome(user_id=101, video_id="v001", known_at=NOW, **fields) -> Event:
    return Event(kind="outcome", user_id=user_id, video_id=video_id, known_at=known_at, **{"watch_ms": 5_000} | fields)


def until(happened: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.002)


def same(one: Store, other: Store, users: list) -> None:
    np.testing.assert_array_equal(one.videos, other.videos)
    np.testing.assert_array_equal(one.creators, other.creators)
    np.testing.assert_array_equal([one.viewer(user) for user in users], [other.viewer(user) for user in users])
    assert [one.seen(user).to_bytes() for user in users] == [other.seen(user).to_bytes() for user in users]


@contextmanager
def halted(store: Store) -> Iterator[None]:
    """Meanwhile the store follows no commit of others."""
    with store._engine.sequence:
        yield


def test_what_one_store_takes_the_others_have(opens, url, release):
    one, other = opens(url), opens(url)
    watch = outcome(key="a", long_view=True, known_at=release.as_of_ms + 1)
    assert one.apply([watch]) == ["accepted"]
    one.apply([Event(kind="withdrawn", user_id="", video_id="v004", known_at=NOW)])
    until(lambda: other.position == 2)
    same(one, other, [101])
    np.testing.assert_array_equal(trending_of(one), trending_of(other))
    assert other.unavailable[release.video_ids.rows(["v004"])[0]]
    assert other.last_known_at == NOW
    assert other.apply([watch]) == ["duplicate"]
    other.slates.put([(101, b"{}")])
    assert one.slates.get(101) == b"{}"


def test_a_video_that_one_server_posts_the_others_know(opens, url):
    one, other = opens(url), opens(url)
    post = {"kind": "posted", "user_id": "", "metadata": {"creator_id": "new", "tags": ["new"], "upload_ms": NOW}}
    one.apply([Event(video_id="z1", known_at=NOW, **post)])
    until(lambda: other.catalogue.ids.rows(["z1"])[0] >= 0)
    assert other.apply([outcome(video_id="z1", known_at=NOW + 1)]) == ["accepted"]
    other.apply([Event(video_id="z2", known_at=NOW + 2, **post)])
    one.apply([Event(kind="withdrawn", user_id="", video_id="z1", known_at=NOW + 3)])
    until(lambda: one.position == other.position)
    for store in (one, other):
        rows = store.catalogue.ids.rows(["z1", "z2"])
        assert (rows - store.catalogue.released).tolist() == [0, 1]
        assert store.unavailable[rows].tolist() == [True, False]
    assert one.videos.tobytes() == other.videos.tobytes()
    assert one.creators.tobytes() == other.creators.tobytes()


def test_records_are_those_of_lmdb_byte_for_byte(opens, url, tmp_path, monkeypatch):
    """Two stores take turns, with bounds that drop viewers and keys; LMDB folds the same events."""
    monkeypatch.setattr("watchnext.serving.store.tables.retention.KEYS_KEPT", 30)
    random = np.random.default_rng(0)
    events = [
        outcome(int(user), f"v{video:03}", NOW + int(at), like=bool(at % 3), key=str(at % 70))
        for user, video, at in zip(*random.integers((1, 0, 0), (60, 90, 9_000), (200, 3)).T, strict=True)
    ]
    bounds = Bounds(viewers=180)
    shared, lmdb = [opens(url, bounds=bounds) for _ in range(2)], opens(tmp_path / "store", durable=False, bounds=bounds)
    for i in range(0, len(events), 8):
        part = [*events[i : i + 8], outcome(video_id="nothing", known_at=NOW + i)]
        assert shared[i // 8 % 2].apply(part) == lmdb.apply(part)
    for store in shared:
        until(lambda store=store: store.position == lmdb.position)
        same(store, lmdb, list(range(1, 61)) + lmdb.viewer_ids(500))
        assert store.viewer_ids(500) == lmdb.viewer_ids(500)
        assert list(store.journal()) == list(lmdb.journal())
        assert store.quarantined() == lmdb.quarantined()
    with shared[0]._engine.read() as mine, lmdb._engine.read() as theirs:
        for table in ("keys", "keys_order", "viewers", "viewers_order", "withdrawn"):
            assert mine.count(table) == theirs.count(table), table
        assert mine.count("keys") == 30


def test_stores_that_write_at_once_lose_and_double_nothing(opens, url, tmp_path):
    stores, results = [opens(url) for _ in range(3)], []

    def write(store: Store, first: int) -> None:
        for i in range(20):
            own = outcome(first + i, f"v{i:03}", NOW + i, key="own")
            results.append(store.apply([own, outcome(7, "v050", NOW + i, key=str(i))]))

    threads = [threading.Thread(target=write, args=(store, 1_000 * at)) for at, store in enumerate(stores, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each[1] for each in results) == ["accepted"] * 20 + ["duplicate"] * 40
    until(lambda: {store.position for store in stores} == {80})
    journal = list(stores[0].journal())
    lmdb = opens(tmp_path / "store", durable=False)
    lmdb.apply(journal)
    for store in [*stores, opens(url)]:
        same(store, lmdb, [7, *range(1_000, 1_020), *range(3_000, 3_020)])


def test_who_held_the_lock_too_long_stores_nothing(opens, url, monkeypatch):
    slow, quick = opens(url), opens(url)
    monkeypatch.setattr(redis_engine, "LOCK_S", 0.05)
    fold = slow._folding.fold

    def late(*given) -> None:
        quick.apply([outcome(2)])
        fold(*given)

    monkeypatch.setattr(slow._folding, "fold", late)
    with pytest.raises(StoreError, match="another server wrote"):
        slow.apply([outcome(1)])
    assert [event.user_id for event in quick.journal()] == [2]
    monkeypatch.undo()
    assert slow.apply([outcome(1)]) == ["accepted"]
    until(lambda: quick.position == 2)
    same(slow, quick, [1, 2])


def test_a_post_of_twenty_events_takes_a_few_round_trips(opens, server, url, monkeypatch):
    most = 10 if isinstance(server, RedisServer) else 16  # three nodes are asked at once
    store = opens(url)
    events = [outcome(i, f"v{i:03}", NOW + i, key=str(i)) for i in range(40)]
    store.apply(events[:20])
    store._engine._closed.set()  # nobody else talks to Redis
    store._engine._thread.join()
    store._engine._closed.clear()
    sent, send = [], Connection.send_packed_command

    def counted(*given, **named) -> None:
        sent.append(given)
        send(*given, **named)

    monkeypatch.setattr(Connection, "send_packed_command", counted)
    store.apply(events[20:])
    assert 0 < len(sent) <= most


def test_redis_may_end_and_start_again_below_a_store(release, tmp_path):
    with RedisServer(tmp_path / "redis") as server, closing(Store.open(server.url(), release)) as store:
        store.apply([outcome(i, key=str(i)) for i in range(20)])
        left = store.videos.copy()
        server.stop(signal.SIGKILL)
        until(lambda: store.failed)
        for use in (lambda: store.viewer(1), store.require_writable, lambda: store.apply([outcome(99)])):
            with pytest.raises(StoreError, match="does not answer"):
                use()
        server.start()
        until(lambda: not store.failed)
        np.testing.assert_array_equal(store.videos, left)
        assert store.viewer(1).any()
        assert store.apply([outcome(3, key="3"), outcome(99)]) == ["duplicate", "accepted"]
        assert store.position == 21


def test_an_answer_that_is_lost_counts_once_when_the_event_is_sent_again(opens, url, monkeypatch):
    """The commit is stored, its answer is not received."""
    store, event = opens(url), outcome(key="a")
    make = store._engine._commits.make

    def lost(*given) -> bool:
        make(*given)
        raise TimeoutError("no answer")

    monkeypatch.setattr(store._engine._commits, "make", lost)
    with pytest.raises(StoreDownError, match="no answer"):
        store.apply([event])
    monkeypatch.undo()
    until(lambda: not store.failed and store.position == 1)
    assert store.apply([event]) == ["duplicate"]
    other = opens(url)
    same(store, other, [101])


def test_who_missed_commits_loads_everything_again(opens, url, monkeypatch, caplog):
    monkeypatch.setattr(redis_engine, "CHANGES_KEPT", 3)
    one, other = opens(url), opens(url)
    with halted(other):
        for i in range(10):
            one.apply([outcome(i, f"v{i:03}", NOW + i, long_view=True)])
        one.apply([Event(kind="withdrawn", user_id="", video_id="v004", known_at=NOW)])
    until(lambda: other.position == 11)
    same(one, other, list(range(10)))
    np.testing.assert_allclose(trending_of(one), trending_of(other), rtol=1e-5)
    np.testing.assert_array_equal(one.unavailable, other.unavailable)
    assert "missed or lost" in caplog.text


def test_servers_of_two_releases_share_journal_and_keys(opens, url, release, tmp_path):
    """Each folds what the other took, in the order of the journal, into the records of its own catalogue."""
    other_release, gone, kept = shrunk(release), release.video_ids.value(3), release.video_ids.value(50)
    one, other = opens(url), opens(url, of=other_release)
    for i in range(30):
        store = (one, other)[i % 2]
        assert store.apply([outcome(i % 7, release.video_ids.value(i % 5 * 9 + 20), NOW + i, key=str(i))]) == ["accepted"]
    assert other.apply([outcome(0, release.video_ids.value(20), NOW, key="0")]) == ["duplicate"]
    one.apply([outcome(1, gone, NOW + 40), Event(kind="withdrawn", user_id="", video_id=kept, known_at=NOW + 41)])
    until(lambda: other.position == one.position == 32)
    assert np.flatnonzero(other.unavailable).tolist() == [30]
    journal = list(one.journal())
    for store, of in ((one, release), (other, other_release)):
        lmdb = opens(tmp_path / of.id, of=of, durable=False)
        lmdb.apply(journal)
        until(lambda store=store, lmdb=lmdb: np.array_equal(store.videos, lmdb.videos))
        same(store, lmdb, list(range(7)))


def test_a_release_that_comes_later_begins_with_all_events_of_the_journal(opens, url, release, tmp_path):
    one = opens(url)
    one.apply([outcome(i, release.video_ids.value(i + 20), release.as_of_ms + i, key=str(i)) for i in range(20)])
    one.apply([Event(kind="withdrawn", user_id="", video_id=release.video_ids.value(50), known_at=NOW)])
    later = opens(url, of=shrunk(release))
    assert (later.position, later.last_known_at) == (21, NOW)
    assert np.flatnonzero(later.unavailable).tolist() == [30]
    assert later.viewer(3).any()
    assert later.apply([outcome(3, release.video_ids.value(23), NOW, key="3")]) == ["duplicate"]


def test_who_is_erased_by_one_server_is_erased_from_the_records_of_every_release(opens, url, release):
    """Also of one whose servers are down meanwhile, and of one that is built again; who comes back stays."""
    gone, newcomer, other_release = 105, 7_000_009, shrunk(release)
    video = release.video_ids.value(20)
    one, other = opens(url), opens(url, of=other_release)
    one.apply([outcome(user, video, NOW + user % 9, key="a") for user in (gone, newcomer, 106)])
    until(lambda: other.viewer(newcomer).any())
    kept = other.viewer(106)
    assert "other releases" in one.erase(newcomer, NOW + 50).stays
    until(lambda: not other.viewer(newcomer).any() and not len(other.seen(newcomer).rows))
    other.close()
    one.erase(gone, NOW + 60)
    reopened = opens(url, of=other_release)
    assert not reopened.viewer(gone).any()
    np.testing.assert_array_equal(reopened.viewer(106), kept)
    one.apply([outcome(newcomer, video, NOW + 70, key="b")])
    until(lambda: reopened.viewer(newcomer).any())
    reopened.close()
    assert opens(url, of=other_release).viewer(newcomer).any()
    build_store(url, other_release)
    rebuilt = opens(url, of=other_release)
    assert rebuilt.viewer(newcomer).any()
    assert not rebuilt.viewer(gone).any()


def test_a_state_that_is_built_again_is_taken_by_its_servers(opens, url, release):
    store = opens(url)
    store.apply([outcome(i, key=str(i), known_at=release.as_of_ms + i) for i in range(20)])
    left, viewer = store.videos.copy(), store.viewer(3)
    with store._engine.write() as txn:  # a bit flipped
        txn.put("viewers", b"i" + (3 + 2**63).to_bytes(8, "big"), b"damaged")
    with pytest.raises(StoreError, match="build-store"):
        store.viewer(3)
    assert build_store(url, release) == 0
    until(lambda: not store.failed and not np.array_equal(store.videos, left * 0))
    np.testing.assert_array_equal(store.viewer(3), viewer)
    np.testing.assert_array_equal(store.videos, left)
    assert store.apply([outcome(3, key="3"), outcome(4, key="new")]) == ["duplicate", "accepted"]


def test_a_redis_that_lost_its_data_is_named_and_built_again(opens, server, release):
    database = next(DATABASES)
    store = opens(server.url(database))
    store.apply([outcome()])
    with server.client(database) as client:
        client.flushdb()
    until(lambda: store.failed)
    with pytest.raises(StoreError, match=r"does not hold the state.*build-store"):
        store.apply([outcome()])
    build_store(server.url(database), release)
    until(lambda: not store.failed and store.position == 0)
    np.testing.assert_array_equal(store.videos, release.state.videos)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru.*noeviction"),
        ({"appendonly": "no"}, "appendonly no.*expected yes"),
        ({"requirepass": "secret"}, "Authentication required"),
    ],
)
def test_a_redis_that_would_lose_events_is_refused(settings, error, release, tmp_path):
    with RedisServer(tmp_path / "redis", **settings) as server, pytest.raises(StoreError, match=error):
        Store.open(server.url(), release)


def test_no_message_shows_the_password(release):
    with pytest.raises(StoreError) as raised:
        Store.open("redis://name:secret@127.0.0.1:1/0", release)
    assert "secret" not in str(raised.value)
    assert "redis://127.0.0.1:1/0" in str(raised.value)
    with pytest.raises(StoreError, match="expected redis://host:6379/0"):
        Store.open("redis://127.0.0.1:port/0", release)


def test_a_redis_that_syncs_late_is_named_and_a_full_one_keeps_what_it_has(release, tmp_path, caplog):
    with (
        RedisServer(tmp_path / "redis", appendfsync="everysec") as server,
        closing(Store.open(server.url(), release)) as store,
        server.client() as client,
    ):
        assert "may lose the last second" in caplog.text
        store.apply([outcome()])
        client.config_set("maxmemory", 1_000_000)
        with pytest.raises(StoreFullError, match="maxmemory"):
            store.apply([outcome(2)])
        client.config_set("maxmemory", 0)
        assert store.failed is None
        assert store.apply([outcome(2)]) == ["accepted"]


def test_a_server_is_set_to_a_redis_by_its_url(url, release, monkeypatch):
    monkeypatch.setenv("WATCHNEXT_STORE", url)
    monkeypatch.setenv("WATCHNEXT_RELEASES", str(release.folder.parent))
    settings = Settings.from_environment()
    assert settings.store == url
    settings.check()
    monkeypatch.setenv("WATCHNEXT_STORE", "redis://127.0.0.1:1/0")
    with pytest.raises(StoreError, match="does not answer"):
        Settings.from_environment().check()


def test_the_commands_fill_a_redis(url, release, tmp_path):
    settings = [f"data.releases={release.folder.parent}", f"data.store={url}", f"data.outputs={tmp_path}"]
    for word in ("build-store", "recommendations"):
        done = programs.run("-m", "watchnext.serving", word, *settings, folder=ROOT)
        assert done.returncode == 0, done.stderr
    with closing(Store.open(url, release)) as store:
        np.testing.assert_array_equal(store.videos, release.state.videos)
        assert store.slates.get(store.viewer_ids(1)[0])
    done = programs.run("-m", "watchnext.serving", "state", "build", "--log", "logs", *settings, folder=ROOT)
    assert "expected a folder" in done.stderr


def test_changes_are_unpacked_as_they_were_packed():
    items = [(b"", b"a"), (b"key", b""), (b"\0" * 8, bytes(range(256)))]
    assert unpacked_items(packed(items)) == items
    assert unpacked_items(b"") == []


def test_a_dead_builder_holds_up_nobody_for_long(opens, url, release, monkeypatch):
    """A build that died in the middle is begun again by the next server."""

    def die(*_: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("watchnext.serving.store.building.opening.put_origin", die)
        with pytest.raises(KeyboardInterrupt):
            opens(url)
    store = opens(url)
    np.testing.assert_array_equal(store.videos, release.state.videos)

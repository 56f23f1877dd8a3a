import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from watchnext.data.tables import OUTCOMES, WATCH_MS, Tables
from watchnext.evaluation.replay.replay import events_of
from watchnext.features.catalogue import Ids
from watchnext.features.state.fold import Reads, State, read_candidates, read_viewer
from watchnext.features.state.fold_log import fold, read_all
from watchnext.features.state.log_arrays import log_of
from watchnext.features.state.seen import SeenSets, added
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event, OwnImpression, encoded, id_key, id_of
from watchnext.serving.store.tables.recent_keys import PURGED
from watchnext.serving.store.tables.retention import KEYS_KEPT_MS, Bounds
from watchnext.serving.store.tables.trending_now import TrendingNow

NOW = 1_800_000_000_000


def outcome(user_id=101, video_id="v001", known_at=NOW, **fields) -> Event:
    return Event(
        kind="outcome", user_id=user_id, video_id=video_id, known_at=known_at, watch_ms=fields.pop("watch_ms", 5_000), **fields
    )


def reads(layout, viewer, videos, creators, as_of, release):
    out = Reads.empty(layout, 1, len(videos))
    creator_rows, tag_rows = np.array(release.catalogue.creator_rows), np.array(release.catalogue.tag_rows)
    gap = read_viewer(layout, viewer, as_of, out.user[0], out.history_rows[0], out.history[0])
    read_candidates(layout, viewer, videos, creators[creator_rows], as_of, creator_rows, tag_rows, out.candidate)
    return np.concatenate([[gap], out.user.ravel(), out.history_rows.ravel(), out.history.ravel(), out.candidate.ravel()])


def empty_of(release):
    """The same release with nothing folded yet."""
    state = State(*(np.zeros_like(values) for values in vars(release.state).values()))
    return replace(release, state=state, seen=SeenSets.of(0, len(release.user_ids.ids), []))


def seen_in(release, log, until) -> SeenSets:
    return SeenSets.of(0, len(release.user_ids.ids), [added(log, until)])


@pytest.mark.parametrize("batch", [1, 7])
def test_events_one_by_one_give_the_bits_of_the_folded_log(built, release, tmp_path, batch):
    tables = built[1]
    layout = release.layout
    log = log_of(tables, release.catalogue, release.user_ids, release.pipeline.schema)
    events = events_of(tables.impressions)
    times = np.unique(log.time_ms)[::9]
    store = Store.open(tmp_path / "store", empty_of(release), durable=False)
    state = State.empty(layout, users=len(release.user_ids.ids), videos=len(release.catalogue), creators=len(store.creators))
    done = 0
    for as_of in times:
        until = sum(event.known_at < as_of for event in events)
        for start in range(done, until, batch):
            store.apply(events[start : min(start + batch, until)])
        done = until
        state = State.empty(
            layout, users=len(release.user_ids.ids), videos=len(release.catalogue), creators=len(store.creators)
        )
        fold(layout, state, log, as_of)
        np.testing.assert_array_equal(store.videos, state.videos)
        np.testing.assert_array_equal(store.creators, state.creators)
        seen = seen_in(release, log, as_of)
        for row in range(0, len(state.viewers), 5):
            viewer = store.viewer(release.user_ids.value(row))
            assert store.seen(release.user_ids.value(row)).to_bytes() == seen.viewer(row).to_bytes()
            np.testing.assert_array_equal(viewer, state.viewers[row])
            np.testing.assert_array_equal(
                reads(layout, viewer, store.videos, store.creators, as_of, release),
                reads(layout, state.viewers[row], state.videos, state.creators, as_of, release),
            )
    assert done > 500
    store.close()


def random_impressions(random: np.random.Generator, users: list[int], videos: list[str]) -> pl.DataFrame:
    """Forty impressions with times that tie and gaps of days; outcomes at once, after the watch, days late, or, by a broken
    clock, before their request. The last viewer comes once."""
    n = 40
    steps = random.choice([0, 0, 1, 800, 3_600_000, 90 * 3_600_000], n)
    viewers = random.choice(users[:-1], n)
    viewers[random.integers(n)] = users[-1]
    watch_ms = random.choice([0, 0, 700, 5_000, 61_500], n)
    late = random.choice([0, 0, 1, 2 * 3_600_000, 200 * 3_600_000, -100_000, -30 * 3_600_000], n)
    time_ms = NOW + np.cumsum(steps)
    frame = {"user_id": viewers, "video_id": random.choice(videos, n), "time_ms": time_ms, "watch_ms": watch_ms}
    flags = {name: random.random(n) < 0.3 for name in OUTCOMES}
    return pl.DataFrame({**frame, "received_ms": time_ms + watch_ms + late, "surface": ["home"] * n, **flags})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1))
def test_every_impression_reads_from_the_store_the_bits_that_training_reads(seed, built, release, tmp_path_factory):
    """A random log, event by event through the store; before each impression what was known strictly before it."""
    random, layout = np.random.default_rng(seed), release.layout
    users = [release.user_ids.value(row) for row in range(5)]
    videos = [release.video_ids.value(row) for row in random.choice(len(release.catalogue), 6, replace=False)]
    impressions = random_impressions(random, users, videos)
    tables = Tables(impressions, built[1].users, built[1].videos)
    log = log_of(tables, release.catalogue, release.user_ids, release.pipeline.schema)
    sizes = {"users": len(release.user_ids.ids), "videos": len(release.catalogue), "creators": len(release.state.creators)}
    wanted = read_all(layout, State.empty(layout, **sizes), log, log.time_ms)
    store = Store.open(tmp_path_factory.mktemp("store"), empty_of(release), durable=False)
    events = events_of(impressions)
    for i, as_of in enumerate(log.time_ms):
        while events and events[0].known_at < as_of:
            store.apply([events.pop(0)])
        viewer, row = store.viewer(impressions["user_id"][i]), log.video_rows[i : i + 1]
        out = Reads.empty(layout, 1, 1)
        out.gap_s[0] = read_viewer(layout, viewer, as_of, out.user[0], out.history_rows[0], out.history[0])
        out.candidate[:] = store.counters(viewer, row, as_of)
        for name, values in vars(out).items():
            np.testing.assert_array_equal(values[0], getattr(wanted, name)[i], err_msg=name)
    store.close()


def test_a_new_store_holds_the_releases_state_and_the_rest_of_the_log_brings_it_up_to_date(built, release, store):
    log = log_of(built[1], release.catalogue, release.user_ids, release.pipeline.schema)
    seen = seen_in(release, log, release.as_of_ms)
    for row in range(len(release.state.viewers)):
        np.testing.assert_array_equal(store.viewer(release.user_ids.value(row)), release.state.viewers[row])
        assert store.seen(release.user_ids.value(row)).to_bytes() == seen.viewer(row).to_bytes()
    np.testing.assert_array_equal(store.videos, release.state.videos)
    store.apply(events_of(built[1].impressions, release.as_of_ms))
    state = State.empty(
        release.layout, users=len(release.user_ids.ids), videos=len(release.catalogue), creators=len(store.creators)
    )
    fold(release.layout, state, log, np.inf)
    np.testing.assert_array_equal(store.videos, state.videos)
    np.testing.assert_array_equal(store.viewer(release.user_ids.value(3)), state.viewers[3])


def test_a_missing_outcome_is_one_of_no_watch(release, store):
    store.apply([Event(kind="shown", user_id=101, video_id="v001", known_at=NOW)])
    before = store.viewer(101)
    store.apply([outcome(watch_ms=0)])
    np.testing.assert_array_equal(store.viewer(101), before)


def test_an_unknown_viewer_is_all_zeros_and_then_remembered(store):
    assert not store.viewer("nobody").any()
    assert store.apply([outcome(user_id="nobody")]) == ["accepted"]
    assert store.viewer("nobody").any()
    assert not store.viewer(2**63 - 1).any()
    assert "nobody" in store.viewer_ids(1000)
    assert len(store.viewer_ids(3)) == 3


def test_a_key_counts_once_for_its_viewer(store):
    given = outcome(user_id=7, key="a")
    assert store.apply([given, given]) == ["accepted", "duplicate"]
    once = store.viewer(7)
    assert store.apply([given, outcome(user_id=8, key="a")]) == ["duplicate", "accepted"]
    np.testing.assert_array_equal(store.viewer(7), once)
    np.testing.assert_array_equal(store.viewer(8), once)
    assert store.position == 2


def test_without_a_key_an_outcome_counts_once_for_its_request_and_video(store):
    given = outcome(request_id="r")
    shown = given._replace(kind="shown", watch_ms=0)
    results = store.apply([shown, given, given, given._replace(video_id="v002"), shown])
    assert results == ["accepted", "accepted", "duplicate", "accepted", "duplicate"]
    assert store.apply([outcome(), outcome()]) == ["accepted", "accepted"]


def test_an_unknown_video_is_quarantined_and_the_others_count(store):
    wrong = outcome(video_id="v999", key="w")
    assert store.apply([wrong, outcome(key="x"), outcome(video_id=5)]) == ["unknown", "accepted", "unknown"]
    assert [event.video_id for event in store.quarantined()] == ["v999", 5]
    assert store.position == 1


def shown_in(request_id: str, *videos: int, user_id=101) -> list[Event]:
    return [
        Event(kind="shown", user_id=user_id, video_id=f"v{video:03}", known_at=NOW, request_id=request_id) for video in videos
    ]


def test_what_is_shown_together_counts_once_each_however_it_is_sent_again(release, tmp_path):
    store, slate = Store.open(tmp_path / "store", release, durable=False), shown_in("r", 1, 2, 3)
    assert store.apply([*slate, slate[0]]) == ["accepted"] * 3 + ["duplicate"]
    assert number_of(store, "shown") == number_of(store, "shown_order") == 1
    again = shown_in("r", 4, 3, 2, 4)
    assert store.apply(again) == ["accepted", "duplicate", "duplicate", "duplicate"]
    store.close()
    store = Store.open(tmp_path / "store", release, durable=False)
    assert store.apply([*again, *slate]) == ["duplicate"] * 7
    others = [*shown_in("q", 1, 2), *shown_in("r", 1, 2, user_id=102), *shown_in("", 1, 1)]
    assert store.apply(others) == ["accepted"] * 6
    store.close()


def test_keys_of_single_impressions_hold_for_those_shown_together(store):
    one, *rest = shown_in("r", 1, 2, 3)
    assert store.apply([one]) == ["accepted"]
    assert store.apply([*rest, one]) == ["accepted", "accepted", "duplicate"]
    assert number_of(store, "shown") == 2
    assert store.apply([one, *rest]) == ["duplicate"] * 3


def test_a_slate_of_this_server_and_its_videos_sent_by_a_client_count_once(release, tmp_path):
    about = {"user_id": 101, "known_at": NOW, "request_id": "r", "surface": ""}
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        slate, alone = OwnImpression.shown_together(["v001", "v002"], **about), OwnImpression.shown_together(["v004"], **about)
        other = [event._replace(request_id="q") for event in alone]
        assert store.apply([*slate, *shown_in("r", 2), *other]) == ["accepted"] * 2 + ["duplicate", "accepted"]
        assert number_of(store, "shown") == 2
        assert store.apply([*shown_in("q", 4, 3), *shown_in("r", 1, 2, 3)]) == [
            *["duplicate", "accepted"],
            *["duplicate", "duplicate", "accepted"],
        ]
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        assert store.apply([*shown_in("r", 1, 2, 3), *shown_in("q", 3, 4)]) == ["duplicate"] * 5


def test_kept_keys_and_events_are_bounded(release, tmp_path, monkeypatch):
    monkeypatch.setattr("watchnext.serving.store.tables.retention.KEYS_KEPT", 5)
    monkeypatch.setattr("watchnext.serving.store.tables.retention.QUARANTINE_KEPT", 4)
    store = Store.open(tmp_path / "store", release, durable=False)
    for i in range(12):
        store.apply([outcome(key=str(i)), outcome(video_id=f"no{i}")])
    assert [event.video_id for event in store.quarantined()] == ["no8", "no9", "no10", "no11"]
    assert store.apply([outcome(key="7")]) == ["duplicate"]
    assert store.apply([outcome(key="6")]) == ["accepted"]
    store.close()


def test_a_key_is_forgotten_in_time_and_not_because_a_clock_jumps(release, tmp_path, monkeypatch):
    day_ms = 24 * 3_600_000
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        assert store.apply([outcome(key="a"), outcome(key="b", known_at=NOW + 100 * day_ms)]) == ["accepted"] * 2
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        later = [outcome(key=str(i), known_at=NOW + i * day_ms) for i in (0, 300, 1)]
        assert store.apply([*later, outcome(key="a"), outcome(key="b")]) == ["accepted"] * 3 + ["duplicate"] * 2
    monkeypatch.setattr("watchnext.serving.store.tables.recent_keys.STEP_MS", day_ms)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        for day in range(KEYS_KEPT_MS // day_ms + 1):
            assert store.apply([outcome(key="a")]) == ["duplicate"]
            store.apply([outcome(key=f"day {day}", known_at=NOW + (400 + day) * day_ms)])
        assert store.apply([outcome(key="a"), outcome(key="day 1")]) == ["accepted", "duplicate"]


def test_many_old_keys_go_a_few_at_a_time(release, tmp_path, monkeypatch):
    monkeypatch.setattr("watchnext.serving.store.tables.recent_keys.STEP_MS", 2 * KEYS_KEPT_MS)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([outcome(key=str(i)) for i in range(20)])
        store.apply([outcome(key="new", known_at=NOW + 2 * KEYS_KEPT_MS)])
        assert store.apply([outcome(key=str(PURGED - 1)), outcome(key="19")]) == ["accepted", "duplicate"]


def number_of(store, table: str) -> int:
    with store._engine.read() as txn:
        return txn.count(table)


def test_above_the_bound_the_least_recent_viewers_go(release, tmp_path):
    bounds = Bounds(viewers=200)
    with closing(Store.open(tmp_path / "store", empty_of(release), durable=False, bounds=bounds)) as store:
        for user in range(200):
            store.apply([outcome(user_id=user, known_at=NOW + user)])
        store.slates.put([(user, b"{}") for user in range(200)])
        store.apply([outcome(user_id=user, known_at=NOW + 300 + user) for user in range(0, 200, 10)])
        for i in range(50):
            store.apply([outcome(user_id=1_000 + i, known_at=NOW + 600)._replace(kind="shown")])
            assert number_of(store, "viewers") == number_of(store, "viewers_order") == 200
        kept = [user for user in range(200) if store.viewer(user).any()]
        assert kept == [user for user in range(200) if user % 10 == 0 or user > 55]
        assert [user for user in range(200) if store.slates.get(user)] == kept


def test_a_viewer_in_turn_to_go_stays_for_a_later_watch_and_not_for_what_was_shown(release, tmp_path):
    def shown(user_id, known_at) -> Event:
        return outcome(user_id=user_id, known_at=known_at)._replace(kind="shown")

    with closing(Store.open(tmp_path / "store", empty_of(release), durable=False, bounds=Bounds(viewers=3))) as store:
        store.apply([outcome(user_id=1), outcome(user_id=2), shown(3, NOW)])
        store.apply([outcome(user_id=1, known_at=NOW + 1), shown(3, NOW + 1)])
        for user, left in ((4, [1, 3, 4]), (5, [1, 4, 5]), (6, [1, 5, 6])):
            store.apply([outcome(user_id=user, known_at=NOW + 2)])
            assert store.viewer_ids(9) == left


def test_the_journal_keeps_its_size_and_whatever_the_release_does_not_hold(release, tmp_path):
    """A rebuild from the shorter journal gives the same records as from the whole one."""
    known = [outcome(user_id=i % 7, known_at=release.as_of_ms - 5_000 + i) for i in range(1_500)]
    later = [outcome(user_id=i % 7, known_at=release.as_of_ms + i) for i in range(300)]
    kept, records = {}, {}
    for name, size in (("whole", 1 << 30), ("bounded", 20_000)):
        folder, bounds = tmp_path / name, Bounds(journal_bytes=size)
        with closing(Store.open(folder, release, durable=False, bounds=bounds)) as store:
            for event in [*known, *later]:
                store.apply([event])
            kept[name], position = list(store.journal()), store.position
        build_store(folder, release)
        with closing(Store.open(folder, release, durable=False, bounds=bounds)) as store:
            assert store.position == position == 1_800
            assert store.replay() == 0
            assert store.apply([outcome(user_id=1, known_at=NOW)]) == ["accepted"]
            assert store.position == 1_801
            records[name] = store.videos.copy(), np.array([store.viewer(user) for user in range(7)])
    assert kept["whole"] == [*known, *later]
    assert kept["bounded"] == later
    for one, other in zip(records["whole"], records["bounded"], strict=True):
        np.testing.assert_array_equal(one, other)


def test_long_traffic_of_strangers_does_not_let_the_file_grow(release, tmp_path, monkeypatch):
    for name in ("KEYS_KEPT", "SHOWN_KEPT", "QUARANTINE_KEPT"):
        monkeypatch.setattr(f"watchnext.serving.store.tables.retention.{name}", 300)
    bounds, sizes = Bounds(viewers=100, journal_bytes=100_000), []
    with closing(Store.open(tmp_path / "store", release, durable=False, bounds=bounds)) as store:
        for day in range(120):
            ids = [
                {"user_id": 10_000 * day + i, "request_id": f"{day}/{i}", "known_at": release.as_of_ms - 1} for i in range(20)
            ]
            shown = [Event(kind="shown", video_id=f"v{i:03}", **one) for one in ids for i in range(3)]
            store.apply(shown + [outcome(video_id="v002", key="k", **one) for one in ids] + [outcome(video_id="v999")] * 9)
            sizes.append((tmp_path / "store" / "current" / "data.mdb").stat().st_size)
        assert store.position == 120 * 80
    assert sizes[-1] < 1.1 * sizes[40]


def test_a_reader_that_was_killed_keeps_no_pages(release, tmp_path, monkeypatch):
    monkeypatch.setattr("watchnext.serving.store.engines.environment.READERS_CHECKED", 4)
    program = "import lmdb, sys, time; txn = lmdb.open(sys.argv[1]).begin(); print('reads', flush=True); time.sleep(60)"
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        command = [sys.executable, "-c", program, str(tmp_path / "store" / "current")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
            reader.stdout.readline()
            assert str(reader.pid) in store._engine._env.readers()
            reader.kill()
        for _ in range(4):
            store.apply([outcome()])
        assert str(reader.pid) not in store._engine._env.readers()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_whose_folder_is_gone_acknowledges_nothing(release, tmp_path, replaced):
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([outcome()])
        folder = (tmp_path / "store" / "current").resolve()
        shutil.move(folder, tmp_path / "gone")
        if replaced:
            shutil.copytree(tmp_path / "gone", folder)
        with pytest.raises(StoreError, match="removed or replaced"):
            store.apply([outcome()])
        assert "removed or replaced" in store.failed


@pytest.mark.parametrize("lock", ["lock", "current/lock.mdb"])
def test_a_store_whose_lock_is_gone_acknowledges_nothing(release, tmp_path, lock):
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([outcome()])
        (tmp_path / "store" / lock).unlink()
        (tmp_path / "store" / lock).touch()  # as a second process makes it
        with pytest.raises(StoreError, match=f"{Path(lock).name} was removed or replaced"):
            store.apply([outcome()])
        assert "removed or replaced" in store.failed


def test_an_impossible_event_counts_none_of_its_call(store):
    with pytest.raises(ValueError, match="64"):
        outcome(user_id="x" * 65)
    with pytest.raises(ValueError, match="int64"):
        outcome(user_id=2**63)
    with pytest.raises(ValueError, match="bought"):
        Event(kind="bought", user_id=1, video_id="v001", known_at=NOW)
    with pytest.raises(ValueError, match="watch_ms 86400001, expected 0 to 86400000"):
        outcome(watch_ms=WATCH_MS + 1)
    with pytest.raises(ValueError, match="known_at"):
        outcome(known_at=2**62)


def test_a_full_store_says_so_and_keeps_what_it_had(release, tmp_path):
    store = Store.open(tmp_path / "store", release, durable=False, map_bytes=2 << 20)
    videos = store.videos.copy()
    with pytest.raises(StoreError, match="map_bytes"):
        store.apply([outcome(user_id=user) for user in range(1_000)])
    np.testing.assert_array_equal(store.videos, videos)
    assert store.apply([outcome()]) == ["accepted"]
    store.close()


def test_it_reopens_as_it_was_left(release, tmp_path):
    store = Store.open(tmp_path / "store", release)
    store.apply([outcome(), Event(kind="withdrawn", user_id="", video_id="v004", known_at=NOW + 5)])
    left = store.viewer(101), store.videos.copy(), store.creators.copy(), store.position, store.last_known_at
    store.close()
    store.close()
    store = Store.open(tmp_path / "store", release)
    for a, b in zip(left, (store.viewer(101), store.videos, store.creators, store.position, store.last_known_at), strict=True):
        np.testing.assert_array_equal(a, b)
    row = release.video_ids.rows(["v004"])[0]
    assert np.flatnonzero(store.unavailable).tolist() == [row]
    store.apply([Event(kind="restored", user_id="", video_id="v004", known_at=NOW + 6)])
    assert not store.unavailable.any()
    store.close()


def trending_of(store) -> np.ndarray:
    counts = store.trending.counts
    return np.array([counts.shares(counts.levels(*place), NOW, 0.0) for place in ((None, None), (None, "de"), ("home", "de"))])


def test_trending_is_counted_at_once_and_after_a_restart_as_before(release, tmp_path, monkeypatch):
    monkeypatch.setattr("watchnext.serving.store.store.CHUNK", 3)
    store = Store.open(tmp_path / "store", release, durable=False)
    before = trending_of(store)
    store.apply([outcome(known_at=release.as_of_ms - 1, long_view=True, video_id="v003")])  # of a time that the log covers
    np.testing.assert_array_equal(trending_of(store), before)
    german = next(user for row, user in enumerate(release.user_ids.ids.tolist()) if release.user_regions[row] == "de")
    liked = {"user_id": german, "surface": "home", "watch_ms": 9_000}
    long_views = [outcome(**liked, long_view=True, known_at=release.as_of_ms + i) for i in range(5)]
    # Only long views count; a stranger's everywhere.
    store.apply([*long_views, outcome(**liked, like=True, known_at=release.as_of_ms), long_views[0]._replace(kind="shown")])
    store.apply([outcome(user_id="nobody", video_id="v002", long_view=True, known_at=release.as_of_ms + 9)])
    after, row = trending_of(store), int(release.video_ids.rows(["v001"])[0])
    assert (after[:, row] > before[:, row]).all()
    assert after[0, release.video_ids.rows(["v002"])[0]] > before[0, release.video_ids.rows(["v002"])[0]]
    store.close()
    again = Store.open(tmp_path / "store", release, durable=False)
    assert again.position == 9
    np.testing.assert_allclose(trending_of(again), after, rtol=1e-5)
    again.close()


def test_after_a_restart_only_the_end_of_the_journal_is_counted(release, tmp_path, monkeypatch):
    half_life_ms = release.trending.half_life_h[0] * 3_600_000
    store = Store.open(tmp_path / "store", release, durable=False)
    old = [outcome(known_at=release.as_of_ms + 1, long_view=True)]
    store.apply(old)
    store.apply(
        [outcome(known_at=int(release.as_of_ms + 9 * half_life_ms), video_id=f"v00{i}", long_view=True) for i in (2, 3)]
    )
    store.close()

    def counted() -> list[str]:
        taken = []
        monkeypatch.setattr(TrendingNow, "add", lambda self, events, rows: taken.extend(event.video_id for event in events))
        Store.open(tmp_path / "store", release, durable=False).close()
        return taken

    assert counted() == ["v003", "v002"]
    monkeypatch.setattr("watchnext.serving.store.store.CATCH_UP_EVENTS", 1)
    assert counted() == ["v003"]


def test_one_process_holds_a_store(release, store, tmp_path):
    with pytest.raises(StoreError, match=str(os.getpid())):
        Store.open(tmp_path / "store", release)
    with pytest.raises(StoreError, match="stop that server"):
        build_store(tmp_path / "store", release)


def shrunk(release):
    """A release of another catalogue: the first 20 videos are gone, so that every row number means something else."""
    catalogue = release.catalogue
    names = ("video_ids", "creator_rows", "tag_rows", "duration_ms", "upload_ms")
    catalogue = replace(catalogue, **{name: getattr(catalogue, name)[20:] for name in names})
    state = State(*(np.zeros_like(values) for values in vars(release.state).values()))
    manifest = {**release.manifest, "id": "other"}
    return replace(
        release,
        catalogue=catalogue,
        video_ids=Ids(catalogue.video_ids),
        state=replace(state, videos=state.videos[20:]),
        manifest=manifest,
    )


def test_another_catalogue_is_refused_and_the_store_rebuilt_from_the_journal(release, tmp_path):
    folder = tmp_path / "store"
    gone, kept = release.video_ids.value(3), release.video_ids.value(50)
    store = Store.open(folder, release)
    events = [
        outcome(video_id=gone),
        outcome(video_id=kept, known_at=NOW + 1, key="k"),
        outcome(video_id="v999", known_at=NOW + 2),
    ]
    events += [Event(kind="withdrawn", user_id="", video_id=kept, known_at=NOW + 3)]
    store.apply(events)
    store.close()
    other = shrunk(release)
    with pytest.raises(StoreError, match=f"{release.state_fingerprint}.*{other.state_fingerprint}.*build-store"):
        Store.open(folder, other)
    with pytest.raises(StoreError, match=f"{release.state_fingerprint}.*{other.state_fingerprint}.*build-store"):
        Store.reader(folder, other)
    build_store(folder, other)
    store = Store.open(folder, other)
    assert list(store.journal()) == [events[0], events[1], events[3]]
    assert np.flatnonzero(store.videos[:, 0]).tolist() == [30]
    assert np.flatnonzero(store.unavailable).tolist() == [30]
    assert store.apply([events[1]._replace(known_at=NOW + 9)]) == ["duplicate"]
    assert [event.video_id for event in store.quarantined()] == ["v999"]
    assert store.last_known_at == NOW + 3
    store.close()
    assert len(list(folder.glob("env-*"))) == 1


def test_a_rebuild_that_dies_leaves_the_old_store(release, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    store = Store.open(folder, release)
    store.apply([outcome(key="a")])
    store.close()

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("watchnext.serving.store.building.opening.point", die)
        with pytest.raises(KeyboardInterrupt):
            build_store(folder, shrunk(release))
    store = Store.open(folder, release)
    assert store.apply([outcome(key="a")]) == ["duplicate"]
    store.close()
    build_store(folder, shrunk(release))
    Store.open(folder, shrunk(release)).close()
    assert len(list(folder.glob("env-*"))) == 1


def test_events_in_the_log_of_a_release_are_not_counted_again_of_the_journal(built, release, tmp_path):
    """The server that saw all events of the log gets a release of which half of them are the log."""
    folder, events = tmp_path / "store", events_of(built[1].impressions)
    with closing(Store.open(folder, empty_of(release), durable=False)) as store:
        store.apply(events)
        videos, viewers = store.videos.copy(), [store.viewer(user) for user in store.viewer_ids(1_000)]
    assert 0 < sum(event.known_at < release.as_of_ms for event in events) < len(events)
    build_store(folder, release)
    with closing(Store.open(folder, release, durable=False)) as store:
        np.testing.assert_array_equal(store.videos, videos)
        np.testing.assert_array_equal([store.viewer(user) for user in store.viewer_ids(1_000)], viewers)
        assert store.position == len(events)


def test_an_event_of_the_moment_at_which_a_release_begins_is_the_journals(release, tmp_path):
    folder, row = tmp_path / "store", release.video_ids.rows(["v050"])[0]
    with closing(Store.open(folder, release, durable=False)) as store:
        store.apply([outcome(video_id="v050", known_at=release.as_of_ms + after, click=True) for after in (-1, 0)])
    build_store(folder, release)
    spec, last = release.pipeline.schema.state, release.state.videos[row, 0]
    click = 1 + spec.counts.index("click") * len(spec.half_lives_h)
    faded = 0.5 ** ((release.as_of_ms - last) / release.layout.half_lives_ms[0]) if last else 0.0
    with closing(Store.open(folder, release, durable=False)) as store:
        assert store.videos[row, click] == pytest.approx(release.state.videos[row, click] * faded + 1)


def test_threads_lose_no_event(store):
    def work(worker):
        for i in range(20):
            store.apply([outcome(user_id=worker, video_id=f"v{i:03}", key=f"{worker}/{i}")])

    before = store.position
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.position == before + 80


@pytest.fixture
def restless():
    """Threads take turns after a microsecond, so that one is interrupted in the middle of whatever it does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_a_read_beside_a_commit_sees_all_of_it_or_nothing(release, tmp_path):
    """Every commit shows every video once at one moment, so between commits all their records are equal."""
    store = Store.open(tmp_path / "store", empty_of(release), durable=False)
    rows, nobody = np.arange(len(release.catalogue)), np.zeros(release.layout.viewer)
    videos = [release.video_ids.value(row) for row in rows]
    readers = (lambda: store.counters(nobody, rows, NOW + 100.0)[:, 0], lambda: store.video_records(rows))
    done, torn = threading.Event(), []

    def read(records_of):
        while not done.is_set():
            records = records_of()
            torn.append((records != records[0]).any())

    threads = [threading.Thread(target=read, args=(each,)) for each in readers]
    for thread in threads:
        thread.start()
    for at in range(NOW, NOW + 30):
        results = store.apply([Event(kind="shown", user_id=1, video_id=video, known_at=at) for video in videos])
        assert set(results) == {"accepted"}
    done.set()
    for thread in threads:
        thread.join()
    store.close()
    assert len(torn) > 30
    assert not any(torn)


def test_a_slates_events_and_their_bytes_are_those_of_single_events():
    about = {"user_id": 7, "known_at": NOW, "request_id": "r", "surface": "home"}
    together = OwnImpression.shown_together(["v1", 'v"2', "v3"], **about)
    assert together == [Event(kind="shown", video_id=video_id, **about) for video_id in ("v1", 'v"2', "v3")]
    assert OwnImpression.shown_together([], **about) == []
    with pytest.raises(ValueError, match="known_at"):
        OwnImpression.shown_together(["v1"], **about | {"known_at": -1})
    other = [
        outcome(user_id="u"),
        outcome(user_id="u", video_id=3),
        Event(kind="posted", user_id="", video_id=1, known_at=0, metadata={"tags": ["a"]}),
    ]
    for events in (together, other, [*together, *other, *together]):
        assert encoded(events) == [event.to_bytes() for event in events]
        assert [Event.from_bytes(packed) for packed in encoded(events)] == events


def test_ids_keep_their_kind_and_order():
    ids = [-(2**63), -1, 0, 5, 2**63 - 1, "", "5", "ü"]
    assert [id_of(id_key(given)) for given in ids] == ids
    assert sorted(map(id_key, ids)) == [id_key(given) for given in ids]

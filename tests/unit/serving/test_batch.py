from contextlib import closing
from dataclasses import replace

import polars as pl
import pytest
from omegaconf import OmegaConf

import programs
from watchnext.serving.__main__ import recommendations
from watchnext.serving.funnel.ahead.batch import RESUMED_MS, Batch, BatchReport, recommend_all
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.slate_table import SlateTable
from watchnext.types import Request

K, PART = 10, 7

HOLDER = """
import sys, time
from pathlib import Path
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import Request

release = Release.load(Path(sys.argv[1]))
store = Store.open(Path(sys.argv[2]), release)
print("open", flush=True)
request = Request("later", 105, 5, release.as_of_ms + 1)
while (answer := precomputed(Recommender(release, store), request)) is None:
    time.sleep(0.05)
print(answer.ids, flush=True)
store.close()
"""


@pytest.fixture
def folder(release, tmp_path):
    """The folder of a store that no process holds."""
    Store.open(tmp_path / "store", release, durable=False).close()
    return tmp_path / "store"


def batch(release, folder, tmp_path, now_ms=None, processes=1):
    now_ms = release.as_of_ms if now_ms is None else now_ms
    return recommend_all(release, folder, tmp_path / "batch", k=K, now_ms=now_ms, processes=processes, viewers_a_part=PART)


def test_every_viewer_has_the_slate_of_the_recommender_in_the_store_and_as_parquet(release, folder, tmp_path):
    viewers = [release.user_ids.value(row) for row in range(len(release.user_ids.ids))]
    stale = Batch.begun(Batch("stale", "env-1", K, 25, 0), tmp_path / "batch").folder(tmp_path / "batch")
    report = batch(release, folder, tmp_path, processes=2)
    assert report == BatchReport(users=len(viewers), slates=len(viewers), degraded=0, short=0)
    assert not stale.exists()
    recommender = Recommender(release, Store.reader(folder, release))
    run = Batch(release.id, "", K, len(viewers), release.as_of_ms)
    online = {user: recommender.recommend(run.request(user)) for user in viewers}
    kept = {user: precomputed(recommender, Request("later", user, K, release.as_of_ms + 1)) for user in viewers}
    assert {user: each.ids for user, each in kept.items()} == {user: each.ids for user, each in online.items()}
    rows = pl.read_parquet(tmp_path / "batch" / "*" / "*.parquet")
    assert dict(rows.select("user_id", "video_ids").iter_rows()) == {user: each.ids for user, each in online.items()}
    assert dict(rows.select("user_id", "values").iter_rows()) == {u: each.slate.values.tolist() for u, each in online.items()}
    assert set(rows.select("release", "as_of_ms", "degraded").unique().iter_rows()) == {(release.id, release.as_of_ms, False)}


def test_an_interrupted_run_goes_on_as_of_its_moment_with_what_is_missing(release, folder, tmp_path, monkeypatch):
    put, calls = SlateTable.put, []

    def dies(self, slates):
        calls.append(len(slates))
        if len(calls) == 2:
            raise StoreError("the disk is gone")
        put(self, slates)

    monkeypatch.setattr(SlateTable, "put", dies)
    with pytest.raises(StoreError, match="the disk is gone"):
        batch(release, folder, tmp_path)
    (done,) = (tmp_path / "batch").glob("*/part-*.parquet")
    written = done.stat().st_mtime_ns
    report = batch(release, folder, tmp_path, now_ms=release.as_of_ms + 60_000)
    assert report == BatchReport(users=25, slates=25, degraded=0, short=0)
    assert done.stat().st_mtime_ns == written
    assert calls == [PART, PART, *calls[2:]]
    assert sorted(calls[2:]) == [4, PART, PART]  # of four parts, one was done
    assert pl.read_parquet(tmp_path / "batch" / "*" / "*.parquet")["as_of_ms"].unique().to_list() == [release.as_of_ms]


def test_a_viewer_who_came_since_the_release_has_a_slate_too_also_after_an_interruption(release, folder, tmp_path, monkeypatch):
    def come(viewer: int) -> None:
        with closing(Store.open(folder, release, durable=False)) as store:
            video, at_ms = release.video_ids.value(3), release.as_of_ms + 1
            store.apply(
                [Event(kind="outcome", user_id=viewer, video_id=video, known_at=at_ms, watch_ms=20_000, request_id="r")]
            )

    def dies(*_):
        raise StoreError("the disk is gone")

    come(777_777)
    with monkeypatch.context() as broken:
        broken.setattr(SlateTable, "put", dies)
        with pytest.raises(StoreError, match="gone"):
            batch(release, folder, tmp_path)
    come(888_888)  # of the next run
    report = batch(release, folder, tmp_path, now_ms=release.as_of_ms + 60_000)
    assert report == BatchReport(users=26, slates=26, degraded=0, short=0)
    with closing(Store.reader(folder, release)) as reader:
        request = Request("later", 777_777, K, release.as_of_ms + 60_001)
        assert precomputed(Recommender(release, reader), request) is not None
    assert batch(release, folder, tmp_path, now_ms=release.as_of_ms + 120_000).users == 27


@pytest.mark.parametrize(("a_process", "processes"), [(25, 1), (9, 3), (1, 4)])
def test_no_more_processes_start_than_the_viewers_keep_busy(release, folder, tmp_path, monkeypatch, a_process, processes):
    asked = []

    def compute(parts, about, processes):
        asked.append(processes)
        return []

    monkeypatch.setattr("watchnext.serving.funnel.ahead.batch.VIEWERS_A_PROCESS", a_process)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    recommend_all(release, folder, tmp_path / "batch", k=K, now_ms=release.as_of_ms, compute=compute)
    assert asked == [processes]


def test_which_run_goes_on(tmp_path):
    run = Batch("release", "env-1", K, 25, 1_000, PART)
    assert Batch.begun(run, tmp_path) == run
    later = replace(run, as_of_ms=2_000)
    assert Batch.begun(later, tmp_path) == run
    for other in ({"release": "other"}, {"store": "env-2"}, {"k": 5}, {"viewers": 26}, {"part": 8}):
        changed = replace(later, **other)
        assert Batch.begun(changed, tmp_path) == changed
    too_late = replace(run, as_of_ms=1_000 + RESUMED_MS + 1)
    assert Batch.begun(too_late, tmp_path) == too_late
    for part in too_late.missing(tmp_path):
        too_late.path(tmp_path, part).touch()
    last = replace(too_late, as_of_ms=too_late.as_of_ms + 1)
    assert Batch.begun(last, tmp_path) == last  # the one before is complete


def test_a_batch_runs_beside_the_process_that_holds_the_store(release, folder, tmp_path):
    server = programs.Program("-c", HOLDER, str(release.folder), str(folder))
    try:
        assert server.stdout.readline() == "open\n"
        assert batch(release, folder, tmp_path).slates == 25
        ids = precomputed(Recommender(release, Store.reader(folder, release)), Request("q", 105, 5, release.as_of_ms + 1)).ids
        assert server.stdout.readline() == f"{ids}\n"
    finally:
        server.kill()
        server.communicate()


def test_workers_on_other_machines_need_a_store_that_they_can_open():
    config = OmegaConf.create({"engine": "spark", "master": "spark://one:7077", "data": {"store": "store"}})
    with pytest.raises(StoreError, match=r"data\.store is store, .*master=spark://one:7077 needs a Redis"):
        recommendations(config)


def test_no_store_is_named(release, tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        recommend_all(release, tmp_path / "nowhere", tmp_path / "batch", k=K, now_ms=release.as_of_ms)


def test_few_viewers_make_parts_for_all_processes(release, folder, tmp_path):
    recommend_all(release, folder, tmp_path / "batch", k=K, now_ms=release.as_of_ms, viewers=20, processes=1)
    assert len(list((tmp_path / "batch").glob("*/part-*.parquet"))) == 10

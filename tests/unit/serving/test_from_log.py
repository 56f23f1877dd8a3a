"""A store built from a log, day by day, beside a server: always the records of one that saw event after event."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_store import empty_of, events_of, outcome, shrunk

import programs
from kills import one_each, taken
from watchnext.data.tables import DataError, Tables, in_order
from watchnext.data.validation import validate
from watchnext.features.catalogue import Ids
from watchnext.serving.http.settings import Settings
from watchnext.serving.store.engines.engine import StoreError, number_key
from watchnext.serving.store.engines.folder import locked
from watchnext.serving.store.from_log import FromLogReport, build_from_log
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.meta import meta_number

RECORDS = ("viewers", "videos", "creators")
DAY_MS = 86_400_000
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def a_stretch_a_day(monkeypatch) -> None:
    """Days here have few rows; of real ones that few would be one partition."""
    monkeypatch.setattr("watchnext.features.state.partitions.PARTITION_ROWS", 1)


@pytest.fixture(scope="module")
def log(built, release) -> Tables:
    """The days of the release's log twice, the second time with other outcomes; some are known only two days later."""
    frame, days = built[1].impressions, built[1].impressions["day"].n_unique()
    later = frame.with_columns(
        day=pl.col("day") + timedelta(days=days),
        click=~pl.col("click"),
        request_id=pl.format("{}x", "request_id"),
        **{name: pl.col(name) + days * DAY_MS for name in ("time_ms", "received_ms")},
    )
    both = in_order(pl.concat([frame, later]))
    slow = pl.int_range(pl.len()) % 17 == 0
    received = pl.when(slow).then(pl.col("time_ms") + 2 * DAY_MS).otherwise(pl.col("received_ms"))
    tables = Tables(both.with_columns(received_ms=received), built[1].users, built[1].videos)
    return validate(tables, release.pipeline.schema).tables


def days_of(log: Tables) -> list:
    return log.impressions["day"].unique().sort().to_list()


def written(log: Tables, root: Path, days: int | None = None) -> Path:
    """The first days as a folder of partitions."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    log.users.write_parquet(root / "users.parquet")
    log.videos.write_parquet(root / "videos.parquet")
    for day in days_of(log)[:days]:
        (root / "impressions" / f"date={day}").mkdir(parents=True)
        rows = log.impressions.filter(pl.col("day") == day).drop("day")
        rows.write_parquet(root / "impressions" / f"date={day}" / "log.parquet")
    return root


def build(folder: Path, release, root: Path, *, serves: bool = True, snapshots: int = 2) -> FromLogReport:
    return build_from_log(folder, release, root, snapshots=snapshots, serves=serves)


def records(folder: Path, release) -> dict[str, dict[bytes, bytes]]:
    """Every record of a store, as it is opened."""
    with closing(Store.open(folder, release)) as store, store._engine.read() as txn:
        return {name: {bytes(k): bytes(v) for k, v in txn.items(name)} for name in RECORDS}


def one_by_one(events: list[Event], release, folder: Path) -> dict:
    with closing(Store.open(folder, empty_of(release), durable=False)) as store:
        for event in events:
            store.apply([event])
    return records(folder, empty_of(release))


def events_in(log: Tables, release) -> list[Event]:
    return events_of(log.impressions)


def until_of(log: Tables) -> int:
    return log.impressions["time_ms"].max() + 1


@pytest.mark.parametrize("kept", [0, 2, 9])
def test_days_one_after_another_give_the_records_of_all_at_once_and_of_event_by_event(kept, log, release, tmp_path):
    days, grown = len(days_of(log)), tmp_path / "grown"
    found = [build(grown, release, written(log, tmp_path / "log", n), snapshots=kept) for n in (2, days - 1, days)]
    assert [(each.kept, each.folded) for each in found] == [(0, 2), (2, days - 3), (days - 1, 1)]
    assert all(each.switched and each.because is None and not each.left_out and not each.rejected for each in found)
    assert build(tmp_path / "once", release, tmp_path / "log").folded == days
    result = records(grown, release)
    assert result == records(tmp_path / "once", release)
    assert result == one_by_one(events_in(log, release), release, tmp_path / "events")
    assert min(len(each) for each in result.values()) > 10
    assert len(list(grown.glob("env-*"))) == 1


def test_posted_videos_of_a_log_count_as_in_a_server_that_saw_every_event(log, release, tmp_path):
    given = log.videos.row(0, named=True)
    as_posted = pl.when(pl.col("video_id") == given["video_id"]).then(pl.lit("posted")).otherwise("video_id").alias("video_id")
    videos = pl.concat([log.videos, log.videos.head(1).with_columns(as_posted)])
    renamed = Tables(log.impressions.with_columns(as_posted), log.users, videos)
    metadata = {name: value for name, value in given.items() if name != "video_id"}
    post = Event(kind="posted", user_id="", video_id="posted", known_at=release.as_of_ms - 1, metadata=metadata)
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        store.apply([post])
    assert build(tmp_path / "store", release, written(renamed, tmp_path / "log")).left_out == 0
    found = records(tmp_path / "store", release)
    assert found == one_by_one([post, *events_in(renamed, release)], release, tmp_path / "events")
    assert number_key(len(release.catalogue)) in found["videos"]


def test_nothing_new_folds_nothing_and_a_corrected_day_replays_from_the_snapshot_before_it(log, release, tmp_path):
    days = days_of(log)
    build(tmp_path / "store", release, written(log, tmp_path / "log"))
    assert build(tmp_path / "store", release, tmp_path / "log").kept == len(days)
    changed = pl.col("day") == days[-2]
    corrected = replace(log, impressions=log.impressions.with_columns(like=pl.col("like") ^ changed))
    again = build(tmp_path / "store", release, written(corrected, tmp_path / "log"))
    assert (again.kept, again.folded, again.because) == (len(days) - 2, 2, f"{days[-2]} changed")
    build(tmp_path / "once", release, tmp_path / "log")
    assert records(tmp_path / "store", release) == records(tmp_path / "once", release)


def test_a_day_that_comes_late(log, release, tmp_path):
    days = days_of(log)
    without = replace(log, impressions=log.impressions.filter(pl.col("day") != days[-2]))
    build(tmp_path / "store", release, written(without, tmp_path / "log"))
    assert build(tmp_path / "store", release, written(log, tmp_path / "log")).kept == len(days) - 2
    build(tmp_path / "once", release, tmp_path / "log")
    assert records(tmp_path / "store", release) == records(tmp_path / "once", release)


def test_videos_that_the_release_does_not_know_are_left_out_and_its_unknown_viewers_are_not(log, release, tmp_path):
    gone = log.impressions["video_id"].is_in(release.catalogue.video_ids[:20].astype(str).tolist())
    other = shrunk(release)
    new = log.users.with_columns(user_id=pl.col("user_id") + 1_000)
    moved = log.impressions.with_columns(user_id=pl.col("user_id") + 1_000)
    found = build(tmp_path / "store", other, written(Tables(moved, new, log.videos), tmp_path / "log"))
    assert (found.left_out, found.impressions) == (gone.sum(), len(log.impressions) - gone.sum())
    known = Tables(log.impressions.filter(~gone), log.users, log.videos)
    events = [event._replace(user_id=event.user_id + 1_000) for event in events_in(known, release)]
    assert records(tmp_path / "store", other) == one_by_one(events, other, tmp_path / "events")
    nothing = Tables(log.impressions.filter(gone), log.users, log.videos)
    with pytest.raises(StoreError, match=r"none of the \d+ impressions in .* is of a video that the release other knows"):
        build(tmp_path / "none", other, written(nothing, tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["user_id", "video_id"])
def test_a_log_whose_ids_are_of_another_kind_is_refused_before_anything_is_folded(name, log, release, tmp_path):
    of_ids = {"user_id": release.user_ids, "video_id": release.video_ids}[name]
    kind = pl.Int64 if of_ids.are_strings else pl.String
    other = pl.col(name).cast(pl.String).str.replace(r"^v", "").cast(kind)
    changed = Tables(*(t.with_columns(other) if name in t.columns else t for t in (log.impressions, log.users, log.videos)))
    with pytest.raises(
        DataError, match=rf"{name} is (String|Int64) in .* and (Int64|String) in the release {release.id}; write it"
    ):
        build(tmp_path / "store", release, written(changed, tmp_path / "log"))
    assert not (tmp_path / "store" / "current").exists()


def test_a_csv_is_read_with_the_kind_of_ids_that_the_release_has(log, release, tmp_path):
    """Text does not say it: of viewers a1 and 22 a log may hold the second alone."""
    ids = pl.Series(release.user_ids.ids).cast(pl.String)
    strings = replace(release, user_ids=Ids.of(ids))
    root = written(log, tmp_path / "log")
    log.users.write_csv(root / "users.csv")
    (root / "users.parquet").unlink()
    shutil.rmtree(root / "impressions")
    log.impressions.write_csv(root / "impressions.csv")
    build(tmp_path / "store", strings, root)
    with closing(Store.open(tmp_path / "store", strings)) as store:
        assert {*store.viewer_ids(10_000)} <= {*ids}


SERVER = """
    import sys
    from watchnext.serving.store.tables.journal import Event
    from watchnext.serving.release.release import Release
    from watchnext.serving.store.store import Store
    store = Store.open(sys.argv[1], Release.load(sys.argv[2]))
    print("up", flush=True)
    for line in sys.stdin:
        print(store.apply([Event.from_bytes(line)])[0], flush=True)
    store.close()
"""


@contextmanager
def serving(folder: Path, release):
    """A server's store in another process; what is yielded sends it an event and gives its answer."""
    command = [sys.executable, "-c", textwrap.dedent(SERVER), str(folder), str(release.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"

        def send(event: Event) -> str:
            process.stdin.write(event.to_bytes().decode() + "\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        yield send
        process.stdin.close()
        assert process.wait() == 0


def test_beside_a_server_nothing_is_disturbed_and_what_it_acknowledges_beyond_the_log_counts(log, release, tmp_path):
    folder, until = tmp_path / "store", until_of(log)
    root = written(log, tmp_path / "log")
    before = [outcome(known_at=until - 5, key="the log's"), outcome(known_at=until + DAY_MS, key="a", video_id="v007")]
    before += [Event(kind="withdrawn", user_id="", video_id="v004", known_at=until + DAY_MS + 1)]
    after = [outcome(user_id=901, known_at=until - 3, key="b"), outcome(known_at=until + 3 * DAY_MS, key="c")]
    with serving(folder, release) as send:
        assert [send(event) for event in before] == ["accepted"] * 3
        found = build(folder, release, root)
        assert not found.switched
        assert found.replayed == 2
        assert [send(event) for event in after] == ["accepted"] * 2
        assert send(before[0]) == "duplicate"
        assert (folder / "next").resolve() != (folder / "current").resolve()
        again = build(folder, release, root)  # a second one takes the place of the first
        assert (again.kept, again.replayed) == (found.folded, 3)
        late = outcome(user_id=902, known_at=until - 1, key="d")
        assert send(late) == "accepted"
    assert len(list(folder.glob("env-*"))) == 2
    of_log = [event for event in events_in(log, release) if event.known_at < until + DAY_MS]
    # What was known before `until` is the log's, whenever it was acknowledged.
    expected = one_by_one([*of_log, *before[1:], after[1]], release, tmp_path / "events")
    assert records(folder, release) == expected
    with closing(Store.open(folder, release)) as store:
        assert list(store.journal()) == [*before, *after, late]
        assert [store.apply([event]) for event in (before[0], late)] == [["duplicate"]] * 2
        assert np.flatnonzero(store.unavailable).tolist() == release.video_ids.rows(["v004"]).tolist()
        assert store.last_known_at == until + 3 * DAY_MS
        assert meta_number(store._engine, "since") == until
        assert bytes(store._engine.get("meta", b"release")).decode() == release.id
    assert len(list(folder.glob("env-*"))) == 1
    assert not os.path.lexists(folder / "next")


def test_the_clock_of_a_store_without_events_starts_after_the_log(log, release, tmp_path):
    build(tmp_path / "store", release, written(log, tmp_path / "log"))
    with closing(Store.open(tmp_path / "store", release)) as store:
        assert store.last_known_at == max(event.known_at for event in events_in(log, release))


def test_it_waits_for_the_release_that_it_was_built_for(log, release, tmp_path):
    folder, other = tmp_path / "store", shrunk(release)
    with closing(Store.open(folder, release)) as store:
        store.apply([outcome(key="a", known_at=until_of(log))])
    left = records(folder, release)
    assert not build(folder, other, written(log, tmp_path / "log"), serves=False).switched
    assert records(folder, release) == left
    (tmp_path / "releases").symlink_to(release.folder.parent)
    settings(tmp_path).check()
    build_store(folder, release)  # keeps what waits
    with closing(Store.open(folder, release)) as store:
        known = outcome(key="b", known_at=until_of(log) + 1, video_id=release.video_ids.value(50))
        store.apply([known])
    settings(tmp_path)._check_store({"id": "other", "state": other.state_fingerprint})
    with closing(Store.open(folder, other)) as store:
        assert store.position == 2
        assert store.apply([known._replace(known_at=known.known_at + 9)]) == ["duplicate"]
        events = list(store.journal())
    known = Tables(log.impressions.filter(~pl.col("video_id").is_in(gone_of(release))), log.users, log.videos)
    of_log = [event for event in events_in(known, release) if event.known_at < until_of(log)]
    mine = [event for event in events if event.video_id not in gone_of(release)]
    assert records(folder, other) == one_by_one([*of_log, *mine], other, tmp_path / "events")
    with pytest.raises(StoreError, match="build-store"):
        Store.open(folder, release)


def settings(folder: Path) -> Settings:
    return Settings(releases=folder / "releases", store=folder / "store")


def gone_of(release) -> list[str]:
    return release.catalogue.video_ids[:20].astype(str).tolist()


class DiedError(Exception):
    pass


def dies(*_, **__):
    raise DiedError


@pytest.mark.parametrize(
    ("owner", "at"),
    [
        ("watchnext.features.state.builder.StateBuilder", "fold"),
        ("watchnext.features.state.builder.StateBuilder", "as_of"),
        ("watchnext.serving.store.from_log", "publish_next"),
        ("watchnext.serving.store.building.opening", "commit_claim"),
    ],
)
def test_a_killed_build_leaves_the_store_and_the_next_one_completes_it(owner, at, log, release, tmp_path, monkeypatch):
    folder, root = tmp_path / "store", written(log, tmp_path / "log", 3)
    build(folder, release, root)
    left = records(folder, release)
    written(log, root)
    with monkeypatch.context() as patched:
        patched.setattr(f"{owner}.{at}", dies)
        with pytest.raises(DiedError):
            build(folder, release, root)
    if at != "commit_claim":
        assert records(folder, release) == left
    build(folder, release, root)
    assert records(folder, release) == one_by_one(events_in(log, release), release, tmp_path / "events")
    assert len(list(folder.glob("env-*"))) == 1


def test_a_build_that_dies_at_any_step_ends_in_the_records_and_files_of_one_that_did_not(log, release, tmp_path):
    """Some of all steps are drawn; each of the fold's is in features/test_killed.py."""
    folder, root = tmp_path / "store", written(log, tmp_path / "log", 3)
    build(tmp_path / "last", release, root)
    written(log, root)
    build(tmp_path / "once", release, root)
    wanted, files = records(tmp_path / "once", release), state_files(tmp_path / "once")
    shutil.copytree(tmp_path / "last", folder, symlinks=True)
    steps = one_each(taken(lambda: build(folder, release, root)))
    assert state_files(folder) == files
    for step in random.Random(0).sample(steps, 12):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "last", folder, symlinks=True)
        taken(lambda: build(folder, release, root), at=step)
        build(folder, release, root)
        assert (records(folder, release), state_files(folder)) == (wanted, files), step
        assert len(list(folder.glob("env-*"))) == 1


def state_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in (folder / "state").rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_take_over_that_is_cut_off_counts_every_event_once(at, log, release, tmp_path, monkeypatch):
    folder, until = tmp_path / "store", until_of(log)
    journal = [outcome(user_id=user, known_at=until + DAY_MS + user) for user in range(10)]
    root = written(log, tmp_path / "log")
    assert not build(folder, release, root, serves=False).switched
    with monkeypatch.context() as patched:  # a server that did not know of it
        patched.setattr("watchnext.serving.store.building.opening.claim_next", lambda folder: None)
        with closing(Store.open(folder, empty_of(release))) as store:
            store.apply(journal)
    monkeypatch.setattr("watchnext.serving.store.store.CHUNK", 3)
    honest, written_parts = Store.publish, []

    def counting(self, changes):
        if len(written_parts) == at:
            raise DiedError
        written_parts.append(None)
        honest(self, changes)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "publish", counting)
        with pytest.raises(DiedError):
            Store.open(folder, release)
    events = [*events_in(log, release), *journal]
    assert records(folder, release) == one_by_one(events, release, tmp_path / "events")


def test_two_builds_at_once_are_refused(log, release, tmp_path):
    root = written(log, tmp_path / "log")
    with (
        closing(locked(tmp_path / "store" / "state" / release.state_fingerprint)),
        pytest.raises(StoreError, match=str(os.getpid())),
    ):
        build(tmp_path / "store", release, root)


def command(tmp_path: Path, release, *words: str) -> subprocess.CompletedProcess:
    settings = [f"data.releases={release.folder.parent}", f"data.store={tmp_path / 'store'}"]
    return programs.run("-m", "watchnext.serving", *words, *settings, folder=ROOT)


def test_the_command(log, release, tmp_path):
    root = written(log, tmp_path / "my logs")
    done = command(tmp_path, release, "state", "build", "--log", str(root))
    assert done.returncode == 0, done.stderr
    assert ["folded", str(len(days_of(log)))] in [line.split() for line in done.stdout.splitlines()]
    assert f"{tmp_path / 'store'}: fits {release.id}" in done.stdout
    assert records(tmp_path / "store", release) == one_by_one(events_in(log, release), release, tmp_path / "events")
    without = command(tmp_path, release, "state", "build")
    assert without.returncode == 1
    assert (
        "StoreError: log is null, expected a folder; run `python -m watchnext.serving state build --log DIR`" in without.stderr
    )

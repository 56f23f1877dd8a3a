"""A log that grows, a day that comes late, a build that is cut off: always the bytes of one that is built at once."""

import itertools
import json
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import BuildResult, FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.dataset.log_columns import LogColumns
from watchnext.features.state import partitions
from watchnext.features.state.fold import Layout
from watchnext.features.state.partitions import Plan
from watchnext.features.state.snapshots import Snapshots
from watchnext.files import replaced

REGIMES = ["streaming", "daily", "frozen", "request"]
SPLIT = TimeSplit(valid_days=1, test_days=1)


@pytest.fixture(autouse=True)
def a_stretch_a_day(monkeypatch) -> None:
    """Days here have some 700 rows; of real ones that few would be one partition."""
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 1)


@pytest.fixture(scope="module")
def log(world_tables) -> Tables:
    """The four days twice, the second time with other outcomes; now and then one is known only two days later."""
    frame = world_tables.impressions
    shift = 4 * 86_400_000
    later = frame.with_columns(
        day=pl.col("day") + timedelta(days=4),
        click=~pl.col("click"),
        request_id=pl.col("request_id") + 1_000_000,
        **{name: pl.col(name) + shift for name in ("time_ms", "received_ms")},
    )
    both = pl.concat([frame, later])
    slow = pl.int_range(pl.len()) % 17 == 0
    received = pl.when(slow).then(pl.col("time_ms") + 2 * 86_400_000).otherwise(pl.col("received_ms"))
    return Tables(both.with_columns(received_ms=received), world_tables.users, world_tables.videos)


def until(log: Tables, days: int) -> Tables:
    """The first days, and the users and videos that occur in them or stand before one that does."""
    first = log.impressions["day"].unique().sort()[days - 1]
    frame = log.impressions.filter(pl.col("day") <= first)
    cut = {}
    for name, key in (("users", "user_id"), ("videos", "video_id")):
        table = getattr(log, name)
        last = int(np.flatnonzero(table[key].is_in(frame[key].unique().implode()).to_numpy()).max()) + 1
        cut[name] = table.head(last)
    return Tables(frame, **cut)


def build(
    tables: Tables, folder: Path, schema, regime: str = "streaming", labels: Labels | None = None, snapshots=3
) -> BuildResult:
    write_tables(tables, folder / "tables")
    builder = FeatureBuilder(
        schema=schema, labels=labels or Labels(), utc_offset_h=0, regime=regime, min_count=2, snapshots=snapshots
    )
    return builder.build(StoredTables.open(folder / "tables"), SPLIT, folder / "features")


def same(folder: Path, other: Path) -> None:
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert files == {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    assert len(files) > 40
    for path in sorted(files):
        assert (folder / path).read_bytes() == (other / path).read_bytes(), path


@pytest.mark.parametrize("regime", REGIMES)
def test_a_day_more_costs_that_day_and_ends_in_the_bytes_of_a_whole_build(regime, log, world_schema, tmp_path):
    grown, at_once = tmp_path / "grown", tmp_path / "once"
    found = [build(until(log, days), grown, world_schema, regime) for days in (3, 4, 6, 7, 8)]
    build(until(log, 8), at_once, world_schema, regime)
    same(grown / "features", at_once / "features")
    if regime == "streaming":
        assert [(each.kept, each.folded) for each in found] == [(0, 3), (3, 1), (4, 2), (6, 1), (7, 1)]


@pytest.mark.parametrize("regime", REGIMES)
def test_small_days_are_one_stretch_and_grow_into_the_bytes_of_a_whole_build(regime, log, world_schema, tmp_path, monkeypatch):
    """Stretches are of days 1 and 2, 3 and 4, ...: the last one goes on with a day that comes, those before it stay."""
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 1_000)
    grown, at_once = tmp_path / "grown", tmp_path / "once"
    found = [build(until(log, days), grown, world_schema, regime, snapshots=1) for days in (3, 4, 6, 7, 8, 8)]
    build(until(log, 8), at_once, world_schema, regime, snapshots=1)
    same(grown / "features", at_once / "features")
    plan = Plan.of(StoredTables.open(grown / "tables"), SPLIT, regime)
    assert [len(partition.days) for partition in plan.partitions] == [2, 2, 2, 2]
    assert plan.first_partition == {1: 3, 2: 3}
    if regime == "streaming":
        assert [(each.kept, each.folded) for each in found] == [(0, 3), (2, 2), (4, 2), (6, 1), (6, 2), (8, 0)]


def test_sessions_grow_into_the_bytes_of_a_whole_build(world_one_by_one, world_schema, tmp_path):
    for days in (3, 4):
        build(until(world_one_by_one, days), tmp_path / "grown", world_schema, "request", snapshots=1)
    build(world_one_by_one, tmp_path / "once", world_schema, "request", snapshots=1)
    same(tmp_path / "grown" / "features", tmp_path / "once" / "features")


def test_small_days_hold_what_days_alone_hold(log, world_schema, tmp_path, monkeypatch):
    build(log, tmp_path / "days", world_schema)
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 1_000)
    build(log, tmp_path / "few", world_schema)
    of_days, of_few = (FeatureSet.load(tmp_path / name / "features") for name in ("days", "few"))
    rows = np.arange(len(log.impressions))
    for name, values in of_days.blocks(rows).items():
        np.testing.assert_array_equal(values, of_few.blocks(rows)[name], name)
    for name, values in of_days.pipeline.fitted.items():
        np.testing.assert_array_equal(values, of_few.pipeline.fitted[name], name)
    for name, features in (("days", of_days), ("few", of_few)):
        state = Snapshots.load_as_of(features.folder / "state", Layout.of(world_schema.state))
        state.write(tmp_path / name / "initial")
    for path in (tmp_path / "days" / "initial").rglob("*.npy"):
        other = tmp_path / "few" / "initial" / path.relative_to(tmp_path / "days" / "initial")
        assert path.read_bytes() == other.read_bytes(), path


@pytest.mark.parametrize("line", ["", '{"identity": {"days": [["20'])
def test_a_manifest_with_a_truncated_last_line_folds_that_partition_again(line, log, world_schema, tmp_path):
    build(log, tmp_path, world_schema)
    manifest = tmp_path / "features" / "state" / "manifest.jsonl"
    whole = manifest.read_text()
    manifest.write_text("".join(whole.splitlines(keepends=True)[:-1]) + line)
    assert build(log, tmp_path, world_schema).kept == 7
    assert manifest.read_text() == whole


def test_a_manifest_gains_one_line_per_partition(log, world_schema, tmp_path, monkeypatch):
    """Rewritten after every partition, it would cost the square of their number."""
    written = []
    monkeypatch.setattr(partitions, "replaced", lambda path, text: written.append(len(text)) or replaced(path, text))
    build(log, tmp_path, world_schema)
    assert len(written) == 2  # as it begins and as it ends
    assert len((tmp_path / "features" / "state" / "manifest.jsonl").read_text().splitlines()) == 1 + 8


def test_nothing_new_folds_nothing(log, world_schema, tmp_path):
    build(log, tmp_path, world_schema)
    again = build(log, tmp_path, world_schema)
    assert (again.kept, again.folded) == (8, 0)


@pytest.mark.parametrize(("day", "kept"), [(8, 7), (6, 5), (3, 0)])
def test_a_corrected_day_replays_from_the_snapshot_before_it(day, kept, log, world_schema, tmp_path, capsys):
    """With three snapshots, those of days 6 to 8; one before them, from the start."""
    late, at_once = tmp_path / "late", tmp_path / "once"
    build(log, late, world_schema)
    which = log.impressions["day"].unique().sort()[day - 1]
    frame = log.impressions.with_columns(like=pl.col("like") ^ (pl.col("day") == which))
    corrected = Tables(frame, log.users, log.videos)
    assert build(corrected, late, world_schema).kept == kept
    assert f"{which} changed" in capsys.readouterr().out
    build(corrected, at_once, world_schema)
    same(late / "features", at_once / "features")


def test_a_day_that_comes_late(log, world_schema, tmp_path):
    """Day 5 arrives after day 8."""
    late, at_once = tmp_path / "late", tmp_path / "once"
    which = log.impressions["day"].unique().sort()[4]
    build(Tables(log.impressions.filter(pl.col("day") != which), log.users, log.videos), late, world_schema)
    assert build(log, late, world_schema).kept == 4
    build(log, at_once, world_schema)
    same(late / "features", at_once / "features")


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_build_that_was_cut_off(at, log, world_schema, tmp_path, monkeypatch):
    cut, at_once = tmp_path / "cut", tmp_path / "once"
    honest = LogColumns._append_watches

    def dies(self, watches, watched):
        if len(self.state.entries) == at:
            raise KeyboardInterrupt
        return honest(self, watches, watched)

    with monkeypatch.context() as patched:
        patched.setattr(LogColumns, "_append_watches", dies)
        with pytest.raises(KeyboardInterrupt):
            build(log, cut, world_schema)
    build(log, cut, world_schema)
    build(log, at_once, world_schema)
    same(cut / "features", at_once / "features")


def test_a_finished_build_outlives_a_power_cut(log, world_schema, tmp_path, monkeypatch):
    synced, lost = {}, []
    honest_sync, honest_replace = os.fsync, os.replace

    def content(path):
        return sorted(each for each in path.iterdir() if each.suffix != ".new") if path.is_dir() else path.read_bytes()

    def fsync(handle):
        honest_sync(handle)
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        synced[path] = content(path)

    def replace(aside, target):
        """Before the manifest says that it is closed, all that it names was synced as it is."""
        if Path(target).name == "manifest.jsonl" and json.loads(Path(aside).read_text().partition("\n")[0])["boot"] is None:
            folders = [Path(target).parents[1] / part for part in ("columns", "watches", "context", "state")]
            paths = [path for folder in folders for path in [folder, *folder.rglob("*")] if path != Path(aside)]
            lost.append([path.name for path in paths if synced.get(path) != content(path)])
        honest_replace(aside, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    build(until(log, 4), tmp_path, world_schema, snapshots=1)
    monkeypatch.setattr(partitions, "boot", lambda: "another")
    assert build(until(log, 4), tmp_path, world_schema, snapshots=1).kept == 4
    assert lost == [[], []]


def test_a_build_that_a_power_cut_ended_is_not_believed(log, world_schema, tmp_path, monkeypatch, capsys):
    cut, at_once = tmp_path / "cut", tmp_path / "once"

    def dies(self, index, data, changes):
        if index == 2:
            raise KeyboardInterrupt
        return honest(self, index, data, changes)

    honest = LogColumns.encode
    with monkeypatch.context() as patched:
        patched.setattr(LogColumns, "encode", dies)
        with pytest.raises(KeyboardInterrupt):
            build(until(log, 3), cut, world_schema)
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "boot", lambda: "another")
        assert build(until(log, 3), cut, world_schema).kept == 0
    assert "the machine stopped during the last build" in capsys.readouterr().out
    build(until(log, 3), at_once, world_schema)
    same(cut / "features", at_once / "features")


def test_other_labels_or_another_catalogue_build_anew(log, world_schema, tmp_path, capsys):
    build(log, tmp_path / "a", world_schema)
    labels = Labels(long_view_s=5.0)
    assert build(log, tmp_path / "a", world_schema, labels=labels).kept == 0
    assert "schema, labels or code changed since the last build" in capsys.readouterr().out
    moved = Tables(log.impressions, log.users, log.videos.reverse())
    assert build(moved, tmp_path / "a", world_schema, labels=labels).kept == 0
    assert "existing rows of videos changed or moved" in capsys.readouterr().out
    build(moved, tmp_path / "b", world_schema, labels=labels)
    same(tmp_path / "a" / "features", tmp_path / "b" / "features")


def test_a_stretch_goes_from_a_days_first_request_to_the_next_days(log, tmp_path):
    write_tables(log, tmp_path)
    stored = StoredTables.open(tmp_path)
    days, plan = stored.days, Plan.of(stored, SPLIT, "streaming")
    assert [(partition.days, partition.end_ms, partition.rows) for partition in plan.partitions] == [
        ((d,), None, d.rows) for d in days
    ]
    assert (plan.starts, plan.first_partition) == ({1: days[6].first_ms, 2: days[7].first_ms}, {1: 6, 2: 7})


def overlapping(log: Tables) -> Tables:
    """Requests of the last two hours before midnight are in the file of the next day, as where sessions go on over it; but
    every third impression is not."""
    hour = (pl.col("time_ms") // 3_600_000) % 24
    moved = pl.when((hour >= 22) & (pl.int_range(pl.len()) % 3 > 0)).then(pl.col("day") + timedelta(days=1)).otherwise("day")
    last = log.impressions["day"].max()
    frame = log.impressions.with_columns(day=pl.min_horizontal(moved, pl.lit(last)))
    return Tables(frame, log.users, log.videos)


def test_rows_of_a_day_that_overlaps_are_in_the_next_partition(log, tmp_path):
    tables = overlapping(log)
    write_tables(tables, tmp_path)
    stored = StoredTables.open(tmp_path)
    plan = Plan.of(stored, SPLIT, "streaming")
    assert len(plan.partitions) == 8
    assert any(len(partition.days) == 2 for partition in plan.partitions)
    parts = [partition.impressions(stored) for partition in plan.partitions]
    assert [len(part) for part in parts] == [partition.rows for partition in plan.partitions]
    assert pl.concat(parts).equals(stored.all().impressions)
    for earlier, later in itertools.pairwise(plan.partitions):
        assert earlier.snapshot_ms <= later.start_ms


@pytest.mark.parametrize("regime", REGIMES)
def test_days_that_overlap_grow_into_the_bytes_of_a_whole_build(regime, log, world_schema, tmp_path):
    tables, grown, at_once = overlapping(log), tmp_path / "grown", tmp_path / "once"
    found = [build(until(tables, days), grown, world_schema, regime) for days in (5, 7, 8)]
    build(until(tables, 8), at_once, world_schema, regime)
    same(grown / "features", at_once / "features")
    if regime == "streaming":  # the day before a new one is folded again where its end is another now
        assert [each.kept >= least for each, least in zip(found, (0, 4, 6), strict=True)] == [True] * 3
        assert found[-1].kept == 6


def test_a_day_with_a_row_of_long_ago_is_one_with_the_days_between(log, world_schema, tmp_path):
    frame = log.impressions
    astray = frame.with_columns(
        day=pl.when(pl.int_range(pl.len()) == 40).then(frame["day"][40] + timedelta(days=2)).otherwise("day")
    )
    tables = Tables(astray, log.users, log.videos)
    build(tables, tmp_path, world_schema)
    plan = Plan.of(StoredTables.open(tmp_path / "tables"), SPLIT, "streaming")
    assert [len(partition.days) for partition in plan.partitions] == [1, 3, 1, 1, 1, 1, 1]
    np.testing.assert_array_equal(np.load(tmp_path / "features" / "columns" / "time_ms.npy"), frame["time_ms"].to_numpy())

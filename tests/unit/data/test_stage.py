"""The tables stage: of a log in days, only what changed is read again, and it comes out as if all had been."""

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from watchnext.data import stage
from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.stage import write_stage
from watchnext.data.storage import StoredTables, day_file, write_tables
from watchnext.data.tables import DataError, Tables

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.fixture(autouse=True)
def each_day_alone(monkeypatch) -> None:
    """Days here have some 700 rows; of real ones that few would be read together."""
    monkeypatch.setattr(stage, "BATCH_BYTES", 1)


def loader(root: Path) -> CanonicalTables:
    return CanonicalTables(root=str(root), features=str(CONF / "features" / "world.yaml"))


@pytest.fixture
def root(world_tables, tmp_path) -> Path:
    """Their log in `date=` folders."""
    write_tables(world_tables, tmp_path / "log")
    return tmp_path / "log"


def edit(root: Path, day: int, change) -> None:
    path = sorted(root.glob("impressions/date=*/part-0.parquet"))[day]
    change(pl.read_parquet(path, hive_partitioning=False)).write_parquet(path)


def same_tables(folder: Path, other: Path) -> None:
    one, two = StoredTables.open(folder), StoredTables.open(other)
    assert one.hash == two.hash
    assert (folder / "rejected.parquet").read_bytes() == (other / "rejected.parquet").read_bytes()
    assert (folder / "report.json").read_text() == (other / "report.json").read_text()


def test_days_or_one_file_give_the_same_tables(world_tables, world_schema, root, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("impressions", "users", "videos"):
        getattr(world_tables, name).write_parquet(whole / f"{name}.parquet")
    assert write_stage(loader(root), world_schema, tmp_path / "a").unchanged_days == 0
    assert write_stage(loader(whole), world_schema, tmp_path / "b").unchanged_days == 0
    same_tables(tmp_path / "a", tmp_path / "b")
    assert StoredTables.open(tmp_path / "a").all().impressions.equals(world_tables.impressions)


def test_small_days_are_read_together_and_give_the_same_tables(world_tables, world_schema, root, tmp_path, monkeypatch):
    """The first two days together, the last two together; an edit of the last leaves the first two as they were."""
    write_stage(loader(root), world_schema, tmp_path / "alone")
    size = max(path.stat().st_size for path in root.glob("impressions/date=*/part-0.parquet"))
    monkeypatch.setattr(stage, "BATCH_BYTES", size + 1)
    assert write_stage(loader(root), world_schema, tmp_path / "few").unchanged_days == 0
    same_tables(tmp_path / "few", tmp_path / "alone")
    edit(root, 3, lambda frame: frame.with_columns(like=~pl.col("like")))
    assert write_stage(loader(root), world_schema, tmp_path / "few").unchanged_days == 2
    assert write_stage(loader(root), world_schema, tmp_path / "few").unchanged_days == 4
    write_stage(loader(root), world_schema, tmp_path / "once")
    same_tables(tmp_path / "few", tmp_path / "once")


def test_a_changed_day_a_new_one_and_one_that_is_gone(world_tables, world_schema, root, tmp_path):
    out, days = tmp_path / "out", world_tables.impressions["day"].n_unique()
    write_stage(loader(root), world_schema, out)
    assert write_stage(loader(root), world_schema, out).unchanged_days == days
    edit(root, 1, lambda frame: frame.with_columns(like=~pl.col("like")))
    assert write_stage(loader(root), world_schema, out).unchanged_days == days - 1
    last = world_tables.impressions["day"].max()
    newest = world_tables.impressions.filter(pl.col("day") == last).with_columns(
        day=pl.col("day") + timedelta(days=1), **{n: pl.col(n) + 86_400_000 for n in ("time_ms", "received_ms")}
    )
    path = day_file(root, str(last + timedelta(days=1)))
    path.parent.mkdir()
    newest.write_parquet(path)
    assert write_stage(loader(root), world_schema, out).unchanged_days == days
    sorted(root.glob("impressions/date=*/part-0.parquet"))[0].unlink()
    assert write_stage(loader(root), world_schema, out).unchanged_days == days
    write_stage(loader(root), world_schema, tmp_path / "once")
    same_tables(out, tmp_path / "once")


def test_somebody_who_is_listed_later_makes_earlier_rows_sound(world_tables, world_schema, tmp_path):
    late = world_tables.impressions["user_id"][0]
    fewer = Tables(world_tables.impressions, world_tables.users.filter(pl.col("user_id") != late), world_tables.videos)
    write_tables(fewer, tmp_path / "log")
    first = write_stage(loader(tmp_path / "log"), world_schema, tmp_path / "out")
    assert first.report["rejected"]["impressions unknown user"] > 0
    days = json.loads((tmp_path / "out" / "checks.json").read_text())["days"]
    sound = sum(not each["rejected"] for each in days)
    world_tables.users.write_parquet(tmp_path / "log" / "users.parquet")
    again = write_stage(loader(tmp_path / "log"), world_schema, tmp_path / "out")
    assert again.unchanged_days == sound < len(days)
    assert again.report["rejected"] == {}
    # And who is gone again takes their rows along.
    fewer.users.write_parquet(tmp_path / "log" / "users.parquet")
    assert write_stage(loader(tmp_path / "log"), world_schema, tmp_path / "out").report == first.report


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.with_columns(shoe_size=pl.lit(42)), "impressions has the unknown column 'shoe_size'"),
        (lambda frame: frame.with_columns(pl.col("watch_ms") > 0), "watch_ms is of type Boolean, but Int64 in"),
        (lambda frame: frame.drop("watch_ms"), "impressions lacks the column 'watch_ms'"),
    ],
)
def test_a_column_that_changed_upstream_is_named_with_its_file_before_anything_is_written(
    change, message, world_schema, root, tmp_path
):
    write_stage(loader(root), world_schema, tmp_path / "out")
    before = (tmp_path / "out" / "report.json").read_text()
    edit(root, 2, change)
    file = sorted(root.glob("impressions/date=*/part-0.parquet"))[2]
    with pytest.raises(DataError) as raised:
        write_stage(loader(root), world_schema, tmp_path / "out")
    assert f"{file}: {message}" in str(raised.value)
    assert StoredTables.open(tmp_path / "out").days
    assert (tmp_path / "out" / "report.json").read_text() == before


def test_a_row_of_another_day_is_refused(world_schema, root, tmp_path):
    edit(
        root,
        0,
        lambda f: f.with_columns(
            day=pl.when(pl.int_range(pl.len()) < 3).then(pl.col("day") + timedelta(days=1)).otherwise("day")
        ),
    )
    report = write_stage(loader(root), world_schema, tmp_path / "out").report
    assert report["rejected"] == {"impressions day is not that of its folder": 3}


def test_a_truncated_day_is_named(world_schema, root, tmp_path):
    file = sorted(root.glob("impressions/date=*/part-0.parquet"))[1]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"date=.*part-0.parquet cannot be read as Parquet .*it may be truncated"):
        write_stage(loader(root), world_schema, tmp_path / "out")


# ---- a catalogue without a log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("users", ["none", "all", "empty"])
@pytest.mark.parametrize("impressions", ["none", "empty"])
def test_a_catalogue_without_a_log_has_its_tables(users, impressions, world_tables, world_schema, tmp_path):
    tables = {"videos": world_tables.videos}
    tables |= {"all": {"users": world_tables.users}, "empty": {"users": world_tables.users.clear()}}.get(users, {})
    tables |= {"empty": {"impressions": world_tables.impressions.clear()}}.get(impressions, {})
    for name, frame in tables.items():
        (tmp_path / "log").mkdir(exist_ok=True)
        frame.write_parquet(tmp_path / "log" / f"{name}.parquet")
    if users == "none" and impressions == "empty":  # a log of nobody is a log that lacks a table
        with pytest.raises(DataError, match=r"users\.parquet is missing"):
            write_stage(loader(tmp_path / "log"), world_schema, tmp_path / "out")
        return
    report = write_stage(loader(tmp_path / "log"), world_schema, tmp_path / "out").report
    assert (report["impressions"], report["videos"], report["rejected"]) == (0, len(world_tables.videos), {})
    stored = StoredTables.open(tmp_path / "out")
    assert stored.days == ()
    assert stored.videos.equals(world_tables.videos)
    assert len(stored.users) == (len(world_tables.users) if users == "all" else 0)


def test_a_catalogue_without_a_video_is_refused_before_anything_is_written(world_tables, world_schema, root, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("impressions", "users", "videos"):
        getattr(world_tables, name).write_parquet(whole / f"{name}.parquet")
    for place in (root, whole):
        world_tables.videos.clear().write_parquet(place / "videos.parquet")
        with pytest.raises(DataError, match=r"the catalogue is empty: .*it has none.*python -m watchnext\.data check PATH"):
            write_stage(loader(place), world_schema, tmp_path / "out")
    world_tables.videos.with_columns(duration_ms=pl.lit(-1, pl.Int64)).write_parquet(whole / "videos.parquet")
    with pytest.raises(DataError, match=f"the catalogue is empty: .*duration_ms is below.*: {len(world_tables.videos)}"):
        write_stage(loader(whole), world_schema, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_log_of_which_nothing_is_left_is_no_missing_log(world_tables, world_schema, root, tmp_path):
    world_tables.users.with_columns(pl.col("user_id") + 1_000_000_000).write_parquet(root / "users.parquet")
    with pytest.raises(DataError, match=r"no impression passes \(unknown user: \d+\)"):
        write_stage(loader(root), world_schema, tmp_path / "out")
    assert set(pl.read_parquet(tmp_path / "out" / "rejected.parquet")["reason"]) == {"unknown user"}
    with pytest.raises(DataError, match=r"days\.json is missing"):
        StoredTables.open(tmp_path / "out")

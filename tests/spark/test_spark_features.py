"""The feature stage on two workers of Spark: the files of one machine, byte for byte."""

from pathlib import Path

import polars as pl
import pytest
from tests.spark.dying import DyingSpark

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.state import partitions, spark_fold
from watchnext.features.state.fold_log import replay
from watchnext.features.state.spark_fold import SparkFold
from watchnext.spark import SparkError

SPLIT = TimeSplit(valid_days=1, test_days=1)
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def stored(world_tables, tmp_path_factory) -> StoredTables:
    """Some videos have no creator, and some outcomes are known only two days later, in the next partition."""
    slow = pl.int_range(pl.len()) % 17 == 0
    received = pl.when(slow).then(pl.col("time_ms") + 2 * DAY_MS).otherwise(pl.col("received_ms"))
    videos = world_tables.videos.with_columns(creator_id=pl.when(pl.int_range(pl.len()) % 5 > 0).then("creator_id"))
    folder = tmp_path_factory.mktemp("tables")
    write_tables(Tables(world_tables.impressions.with_columns(received_ms=received), world_tables.users, videos), folder)
    return StoredTables.open(folder)


@pytest.fixture(autouse=True)
def two_partitions_of_several_tasks(monkeypatch) -> None:
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 1_000)
    monkeypatch.setattr(spark_fold, "LEAST_ROWS", 1)


def build(stored: StoredTables, folder: Path, schema, fold=replay) -> dict[Path, bytes]:
    builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime="request", min_count=2, snapshots=1)
    builder.build(stored, SPLIT, folder, fold)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_spark_writes_the_files_of_one_machine_though_workers_are_killed(spark, stored, world_schema, tmp_path):
    wanted = build(stored, tmp_path / "one", world_schema)
    fold = SparkFold(DyingSpark(spark, tmp_path), tmp_path / "many" / "state" / "spark")
    found = build(stored, tmp_path / "many", world_schema, fold.replay)
    assert (tmp_path / "before").exists()
    assert (tmp_path / "after").exists()
    assert found.keys() == wanted.keys()
    assert [path for path in wanted if found[path] != wanted[path]] == []


def test_workers_with_other_code_are_refused(spark, stored, world_schema, tmp_path, monkeypatch):
    monkeypatch.setattr("watchnext.spark._code", lambda _: ("watchnext.features.state.spark_fold", "0123456789abcdef"))
    with pytest.raises(SparkError, match="0123456789abcdef on the driver; install the same version of watchnext on both"):
        build(stored, tmp_path, world_schema, SparkFold(spark, tmp_path / "state" / "spark").replay)

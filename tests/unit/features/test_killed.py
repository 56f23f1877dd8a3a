"""A build of the state that dies at any step, and the same build again: the files of one that did not die, and no others."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kills import one_each, taken
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.features.catalogue import Catalogue
from watchnext.features.dataset.labels import Labels
from watchnext.features.dataset.log_columns import LogColumns
from watchnext.features.state import partitions
from watchnext.features.state.builder import StateBuilder
from watchnext.features.state.partitions import time_partitions


@pytest.fixture(autouse=True)
def a_partition_a_day(monkeypatch) -> None:
    monkeypatch.setattr(partitions, "PARTITION_ROWS", 1)


def for_features(folder: Path, stored: StoredTables, schema) -> None:
    split = TimeSplit(valid_days=1, test_days=1)
    log = LogColumns(folder, stored, split, schema=schema, labels=Labels(), regime="streaming", snapshots=1)
    log.build()
    log.state.as_of(log.as_of_ms)


def for_the_store(folder: Path, stored: StoredTables, schema) -> None:
    days = time_partitions(stored)
    catalogue = Catalogue.of(stored.videos, tags_per_video=schema.state.tags_per_video, dimension=16)
    state = StateBuilder(folder, stored, days, schema=schema, catalogue=catalogue, settings={}, through=len(days) - 1)
    state.plan()
    state.fold()
    state.close()
    state.as_of(np.inf)


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("build", [for_features, for_the_store])
def test_a_build_that_dies_goes_on(build, world_schema, world_tables, tmp_path):
    """The last build was of three days, the last of which is another now: one step merges, one removes, two days are folded."""
    viewers = world_tables.users["user_id"][:12]
    frame = world_tables.impressions.filter(pl.col("user_id").is_in(viewers.implode()))
    days = frame["day"].unique().sort()
    before = frame.filter(pl.col("day") < days[3]).with_columns(click=pl.col("click") ^ (pl.col("day") == days[2]))
    stored = []
    for name, impressions in (("before", before), ("now", frame)):
        write_tables(Tables(impressions, world_tables.users, world_tables.videos), tmp_path / name)
        stored.append(StoredTables.open(tmp_path / name))
    build(tmp_path / "last", stored[0], world_schema)
    build(tmp_path / "once", stored[1], world_schema)
    wanted, folder = files_in(tmp_path / "once"), tmp_path / "killed"

    def run() -> None:
        build(folder, stored[1], world_schema)

    shutil.copytree(tmp_path / "last", folder)
    lines = taken(run)
    assert files_in(folder) == wanted
    assert len(set(lines)) > 30
    for step in one_each(lines):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "last", folder)
        taken(run, at=step)
        run()
        assert files_in(folder) == wanted, lines[step]

"""Slates of all viewers on two workers of Spark: those of one machine, in the store and as Parquet."""

from pathlib import Path

import polars as pl
import pytest
from tests.spark.dying import DyingSpark

from watchnext.serving.funnel.ahead.batch import BatchReport, recommend_all
from watchnext.serving.funnel.ahead.spark_batch import SparkBatch
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.slate_table import SlateTable

K, PART = 10, 7


def slates(release, folder: Path, compute=None) -> tuple[BatchReport, dict[int, bytes], pl.DataFrame]:
    """Compute all slates; return them as the store and as Parquet keep them."""
    Store.open(folder / "store", release, durable=False).close()
    settings = {"k": K, "now_ms": release.as_of_ms, "viewers_a_part": PART, "processes": 1}
    report = recommend_all(release, folder / "store", folder / "batch", compute=compute, **settings)
    with SlateTable.opened(folder / "store", release.state_fingerprint) as table:
        stored = {user: table.get(user) for user in map(release.user_ids.value, range(report.users))}
    return report, stored, pl.read_parquet(folder / "batch" / "*" / "*.parquet").sort("user_id")


def test_slates_are_those_of_one_machine_though_workers_and_driver_die(spark, release, tmp_path, monkeypatch):
    wanted = slates(release, tmp_path / "one")
    dying = SparkBatch(DyingSpark(spark, tmp_path)).computed
    put, calls = SlateTable.put, []

    def dies(self, given):
        calls.append(given)
        if len(calls) == 2:
            raise StoreError("the disk is gone")
        put(self, given)

    monkeypatch.setattr(SlateTable, "put", dies)
    with pytest.raises(StoreError, match="the disk is gone"):
        slates(release, tmp_path / "many", dying)
    assert (tmp_path / "before").exists()
    assert (tmp_path / "after").exists()
    report, stored, rows = slates(release, tmp_path / "many", dying)
    assert len(calls) == 2 + 3  # of four parts, one was done
    assert report == wanted[0] == BatchReport(users=25, slates=25, degraded=0, short=0)
    assert stored == wanted[1]
    assert rows.equals(wanted[2])
    assert not list((tmp_path / "many" / "batch").rglob("*.slates"))

"""Targets by hand: as logged, by thresholds, and their rates."""

import json

import numpy as np
import polars as pl
import pytest

from watchnext.cli import composed, instantiate
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels, rates, watch_ratio
from watchnext.types import TARGETS

LOG = pl.DataFrame(
    {
        "watch_ms": [0, 5_000, 18_000, 20_000, 9_000],
        "click": [False, True, True, True, False],
        "long_view": [True, False, False, True, False],
        "like": [False, False, True, False, False],
    }
)
DURATION_MS = np.array([10_000.0, 5_000.0, 60_000.0, 10_000.0, np.nan])


def long_views(**thresholds) -> list[float]:
    return Labels(**thresholds).targets(LOG, DURATION_MS)[:, TARGETS.index("long_view")].tolist()


def test_by_default_the_targets_are_the_logs_own():
    found = Labels().targets(LOG, DURATION_MS)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([[0, 1, 0, 0], [1, 0, 0, 5], [1, 0, 1, 18], [1, 1, 0, 20], [0, 0, 0, 9]]))


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        ({"long_view_s": 18.0}, [0, 0, 1, 1, 0]),
        ({"long_view_ratio": 1.0}, [0, 1, 0, 1, 0]),
        ({"long_view_ratio": 0.3}, [0, 1, 1, 1, 0]),
        ({"long_view_s": 18.0, "long_view_ratio": 1.0}, [0, 1, 1, 1, 0]),
        ({"long_view_s": 9.0, "long_view_ratio": 5.0}, [0, 0, 1, 1, 1]),
    ],
)
def test_a_long_view_reaches_the_seconds_or_the_ratio(thresholds, expected):
    assert long_views(**thresholds) == expected


def test_an_unknown_duration_reaches_no_ratio_whether_nan_or_zero():
    for unknown in (np.nan, 0.0):
        duration_ms = np.full(len(LOG), unknown)
        assert not Labels(long_view_ratio=0.01).targets(LOG, duration_ms)[:, 1].any()


def test_thresholds_change_no_other_target():
    changed = Labels(long_view_s=1.0).targets(LOG, DURATION_MS)
    np.testing.assert_array_equal(np.delete(changed, 1, 1), np.delete(Labels().targets(LOG, DURATION_MS), 1, 1))


@pytest.mark.parametrize("name", ["long_view_s", "long_view_ratio", "completion_ratio"])
def test_a_threshold_that_everything_reaches_is_refused(name):
    with pytest.raises(ValueError, match=rf"labels\.{name} is 0.0, expected more than 0"):
        Labels(**{name: 0.0})


def test_rates_by_hand():
    labels = Labels(completion_ratio=0.9)
    targets, ratio = labels.targets(LOG, DURATION_MS), watch_ratio(LOG, DURATION_MS)
    found = rates((part, labels.sums(targets[rows], ratio[rows])) for part, rows in ((0, [0, 1]), (0, [2]), (2, [3, 4])))
    assert found["train"] == {
        "click": round(2 / 3, 6),
        "long_view": round(1 / 3, 6),
        "like": round(1 / 3, 6),
        "watch_s": round(23 / 3, 6),
        "completion": round(1 / 3, 6),
        "watch_ratio": round((0 + 1 + 0.3) / 3, 6),
    }
    assert set(found["valid"].values()) == {None}
    assert (found["test"]["completion"], found["test"]["watch_ratio"]) == (1.0, 1.0)  # known durations only, a repeat as 1


def test_the_configuration_composes_into_labels_and_a_misspelt_threshold_is_named():
    assert instantiate(composed([]).labels) == Labels()
    assert instantiate(composed(["labels.long_view_s=18", "labels.long_view_ratio=1.0"]).labels) == Labels(
        long_view_s=18, long_view_ratio=1.0
    )
    with pytest.raises(SystemExit, match=r"did you mean labels.long_view_s\?"):
        composed(["labels.long_view_sec=18"])


def test_the_feature_stage_writes_the_labels_and_their_rates(world_schema, world_tables, world_split, tmp_path):
    labels = Labels(long_view_s=10.0, long_view_ratio=0.8)
    builder = FeatureBuilder(schema=world_schema, labels=labels, utc_offset_h=0, regime="streaming", min_count=2)
    order = np.random.default_rng(0).permutation(len(world_tables.videos))
    shuffled = Tables(world_tables.impressions, world_tables.users, world_tables.videos[order])
    write_tables(shuffled, tmp_path / "tables")
    report = builder.build(StoredTables.open(tmp_path / "tables"), TimeSplit(valid_days=1, test_days=1), tmp_path).report
    joined = world_tables.impressions.join(world_tables.videos, on="video_id", how="left", maintain_order="left")
    watched, whole = joined["watch_ms"].to_list(), joined["duration_ms"].to_list()
    expected = [w >= 10_000 or (d is not None and w / d >= 0.8) for w, d in zip(watched, whole, strict=True)]
    found = np.load(tmp_path / "columns" / "targets.npy")[:, TARGETS.index("long_view")]
    np.testing.assert_array_equal(found, np.float32(expected))
    assert json.loads((tmp_path / "report.json").read_text())["labels"] == report["labels"]
    assert report["labels"]["test"]["long_view"] == pytest.approx(np.mean(np.array(expected)[world_split == 2]), abs=1e-6)

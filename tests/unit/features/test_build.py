"""The feature stage as a whole: nothing of the future, and nothing of a row's own outcome, reaches its inputs."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.splits import TimeSplit
from watchnext.data.stage import write_stage
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import OUTCOMES, Tables
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.epochs import Batches
from watchnext.features.dataset.labels import Labels
from watchnext.features.state.fold import Layout, State
from watchnext.features.state.fold_log import fold
from watchnext.features.state.log_arrays import log_of
from watchnext.features.state.snapshots import Snapshot, Snapshots
from watchnext.types import TARGETS

INPUTS = ("context_codes", "query_values", "history_rows", "history_values", "candidate_values")


SPLIT = TimeSplit(valid_days=1, test_days=1)


def built(schema, tables: Tables, folder: Path, regime: str = "streaming", snapshots: int = 7) -> FeatureSet:
    builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime=regime, min_count=2, snapshots=snapshots)
    write_tables(tables, folder / "tables")
    builder.build(StoredTables.open(folder / "tables"), SPLIT, folder)
    return FeatureSet.load(folder)


def initial_state(folder: Path, schema) -> Snapshot:
    return Snapshots.load_as_of(folder / "state", Layout.of(schema.state))


def with_other_outcomes(tables: Tables, rows: np.ndarray) -> Tables:
    """The same log, but the outcomes of `rows` (N,) bool are flipped."""
    frame, there = tables.impressions, pl.Series(rows)
    changes = [pl.when(there).then(~pl.col(name)).otherwise(pl.col(name)).alias(name) for name in OUTCOMES]
    watch = pl.when(there).then(77_000 - pl.col("watch_ms").clip(0, 70_000)).otherwise(pl.col("watch_ms"))
    # Known at the request itself, as early as an outcome can be.
    received = pl.when(there).then(pl.col("time_ms")).otherwise(pl.col("received_ms"))
    return Tables(frame.with_columns(*changes, watch_ms=watch, received_ms=received), tables.users, tables.videos)


def same_files(folder: Path, other: Path) -> None:
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert paths
    for path in paths:
        assert (folder / path).read_bytes() == (other / path).read_bytes(), path


def blocks_of(features: FeatureSet) -> dict[str, np.ndarray]:
    return features.blocks(np.arange(len(features.columns["split"])))


def same_rows(features: FeatureSet, others: FeatureSet, rows: np.ndarray) -> None:
    for name in INPUTS:
        np.testing.assert_array_equal(blocks_of(features)[name][rows], blocks_of(others)[name][rows], err_msg=name)


def test_outcomes_of_test_days_change_nothing_before(world_schema, world_tables, world_split, world_features, tmp_path):
    changed = built(world_schema, with_other_outcomes(world_tables, world_split == 2), tmp_path)
    for part in ("pipeline", "catalogue", "users", "videos", "user_table"):
        same_files(world_features.folder / part, tmp_path / part)
    for folder in (world_features.folder, tmp_path):
        initial_state(folder, world_schema).write(tmp_path / "of" / folder.name)
    same_files(tmp_path / "of" / world_features.folder.name, tmp_path / "of" / tmp_path.name)
    same_rows(world_features, changed, world_split < 2)
    np.testing.assert_array_equal(
        world_features.columns["targets"][world_split < 2], changed.columns["targets"][world_split < 2]
    )
    test = world_split == 2
    assert (world_features.columns["candidate"][test] != changed.columns["candidate"][test]).any()


def test_the_pipeline_is_fitted_on_training_days(world_schema, world_tables, world_split, world_features, tmp_path):
    """Other contexts, outcomes and even other shown videos on validation and test days: the same fitted bytes."""
    held_out = world_split > 0
    tables = with_other_outcomes(world_tables, held_out)
    frame = tables.impressions
    random = np.random.default_rng(0)
    videos = np.where(held_out, random.choice(frame["video_id"].to_numpy(), len(frame)), frame["video_id"].to_numpy())
    surface = pl.when(pl.Series(held_out)).then(pl.lit("elsewhere")).otherwise(pl.col("surface"))
    tables = Tables(
        frame.with_columns(surface=surface, video_id=pl.Series(videos, dtype=frame.schema["video_id"])),
        tables.users,
        tables.videos,
    )
    changed = built(world_schema, tables, tmp_path)
    same_files(world_features.folder / "pipeline", tmp_path / "pipeline")
    assert not blocks_of(changed)["context_codes"][held_out, 0].any()  # never seen in training


@pytest.mark.parametrize("regime", ["streaming", "request", "daily", "frozen"])
def test_its_own_outcome_changes_none_of_its_inputs(regime, world_schema, world_tables, world_split, tmp_path):
    """Nor those of its request and of everything before it."""
    time_ms = world_tables.impressions["time_ms"].to_numpy()
    i = int(np.flatnonzero(world_split == 2)[200])
    mask = np.arange(len(time_ms)) == i
    features = built(world_schema, world_tables, tmp_path / "a", regime)
    changed = built(world_schema, with_other_outcomes(world_tables, mask), tmp_path / "b", regime)
    same_rows(features, changed, time_ms <= time_ms[i])
    own = world_tables.impressions["request_id"].to_numpy() == world_tables.impressions["request_id"][i]
    assert own.sum() > 1
    assert own[time_ms <= time_ms[i]].sum() == own.sum()
    later = any((blocks_of(features)[name] != blocks_of(changed)[name]).any() for name in INPUTS)
    assert later == (regime in ("streaming", "request"))


def test_an_outcome_received_before_its_request_is_not_believed(world_schema, world_tables, tmp_path):
    frame = world_tables.impressions
    early = Tables(frame.with_columns(received_ms=pl.col("time_ms") - 5_000), world_tables.users, world_tables.videos)
    mask = np.arange(len(frame)) == len(frame) - 5
    others = with_other_outcomes(early, mask).impressions.with_columns(received_ms=pl.col("time_ms") - 5_000)
    features = built(world_schema, early, tmp_path / "a")
    changed = built(world_schema, Tables(others, world_tables.users, world_tables.videos), tmp_path / "b")
    same_rows(features, changed, mask)


def test_the_columns_are_those_of_the_log(world_tables, world_split, world_features):
    columns, impressions = world_features.columns, world_tables.impressions
    catalogue, users = world_features.catalogue, Ids(load_arrays(world_features.folder / "user_table")["user_ids"])
    assert [Ids(catalogue.video_ids).value(row) for row in columns["video_rows"][:50]] == impressions["video_id"][:50].to_list()
    assert [users.value(row) for row in columns["user_rows"][:50]] == impressions["user_id"][:50].to_list()
    for place, name in enumerate(TARGETS):
        wanted = impressions["watch_ms"] / 1000 if name == "watch_s" else impressions[name]
        np.testing.assert_allclose(columns["targets"][:, place], wanted.to_numpy().astype(np.float32))
    np.testing.assert_array_equal(columns["split"], world_split)
    assert all(len(values) == len(impressions) and np.isfinite(values).all() for values in columns.values())


def test_the_report_names_regime_sizes_and_the_moment_of_the_state(world_schema, world_tables, world_split, world_features):
    report = world_features.report
    assert report == json.loads((world_features.folder / "report.json").read_text())
    assert report["regime"] == "streaming"
    assert report["schema"] == world_schema.fingerprint
    assert report["as_of_ms"] == world_tables.impressions["time_ms"].to_numpy()[world_split == 2].min()
    assert sum(report["impressions"].values()) == len(world_split)


def test_the_state_is_folded_up_to_the_first_test_impression(world_schema, world_tables, world_features, tmp_path):
    folder = world_features.folder
    users = Ids(load_arrays(folder / "user_table")["user_ids"])
    log = log_of(world_tables, Catalogue.load(folder / "catalogue"), users, world_schema)
    initial_state(folder, world_schema).write(tmp_path)
    layout, saved = Layout.of(world_schema.state), load_arrays(tmp_path)
    state = State.empty(layout, users=len(users.ids), videos=len(world_features.catalogue), creators=len(saved["creators"]))
    fold(layout, state, log, world_features.report["as_of_ms"])
    for name, records in vars(state).items():
        np.testing.assert_array_equal(records, saved[name], err_msg=name)


def test_batches_hold_every_row_once_and_shuffle_by_their_seed(world_features):
    rows = world_features.rows("train")

    def epochs(seed: int, shuffle: bool = True) -> list[np.ndarray]:
        batches = Batches(features=world_features, rows=rows, batch_size=500, shuffle=shuffle, seed=seed)
        assert len(batches) == len(list(batches)) == -(-len(rows) // 500)
        found = []
        for epoch in (0, 1):
            batches.set_epoch(epoch)
            found.append(np.concatenate([batch["targets"].numpy() for batch in batches.loader()]))
        return found

    first, second = epochs(1)
    assert len(first) == len(second) == len(rows)
    assert (first != second).any()
    np.testing.assert_array_equal(first, epochs(1)[0])
    np.testing.assert_array_equal(np.sort(first[:, 3]), np.sort(world_features.columns["targets"][rows, 3]))
    np.testing.assert_array_equal(epochs(1, shuffle=False)[0], world_features.columns["targets"][rows])


def test_a_batch_is_its_rows(world_features):
    rows = np.array([3, 700, 1500])
    batch = world_features.batch(rows)
    np.testing.assert_array_equal(batch["candidate_values"].numpy(), blocks_of(world_features)["candidate_values"][rows])
    videos = world_features.columns["video_rows"][rows]
    np.testing.assert_array_equal(batch["video_codes"].numpy(), world_features.videos["video_codes"][videos])
    np.testing.assert_array_equal(batch["history_mask"].numpy(), blocks_of(world_features)["history_rows"][rows] >= 0)


def test_features_that_were_never_built_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro features"):
        FeatureSet.load(tmp_path)


def test_ids_may_be_numbers_or_strings(world_schema, world_tables, world_split, world_features, tmp_path):
    """Named otherwise, everybody keeps their rows and inputs; only the places of names in a vocabulary change."""
    kinds = {name: world_tables.impressions.schema[name] for name in ("user_id", "video_id")}

    def renamed(frame: pl.DataFrame) -> pl.DataFrame:
        names = [name for name in kinds if name in frame.columns]
        other = {name: pl.String if kinds[name] == pl.Int64 else pl.Int64 for name in names}
        numbers = {name: pl.col(name).cast(pl.String).str.extract(r"(\d+)").cast(pl.Int64) for name in names}
        return frame.with_columns(**{name: numbers[name].cast(other[name]) for name in names})

    tables = Tables(renamed(world_tables.impressions), renamed(world_tables.users), renamed(world_tables.videos))
    assert (tables.impressions["user_id"].n_unique(), tables.impressions["video_id"].n_unique()) == (
        world_tables.impressions["user_id"].n_unique(),
        world_tables.impressions["video_id"].n_unique(),
    )
    changed = built(world_schema, tables, tmp_path)
    same_rows(world_features, changed, np.ones(len(world_split), bool))
    for name in ("user_rows", "video_rows"):
        np.testing.assert_array_equal(world_features.columns[name], changed.columns[name])
    assert changed.pipeline.sizes == world_features.pipeline.sizes


def build(monkeypatch, *overrides: str) -> object:
    """Run the command `features build`; returns the exit code, or the message that it ends with."""
    monkeypatch.delitem(sys.modules, "watchnext.features.__main__", raising=False)  # runpy warns where a test imported it
    monkeypatch.setattr("sys.argv", ["features", "build", "data=sample", *overrides])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("watchnext.features", run_name="__main__", alter_sys=True)
    return ended.value.code


def test_a_hole_in_the_calendar_moves_validation_and_is_told(world_tables, tmp_path, monkeypatch, capsys):
    """The last but one day has no rows: the one before it validates in its place. Two days are too few to train on."""
    day = pl.col("day")
    days = world_tables.impressions["day"].unique().sort().to_list()
    for known, learned, told in (
        ([days[0], days[1], days[3]], True, f"the validation days {days[2]} to {days[2]} have no impressions: {days[1]} to"),
        ([days[0], days[3]], False, "no model can be trained: 2 days of log are fewer than valid_days=1, test_days=1"),
    ):
        write_tables(replace(world_tables, impressions=world_tables.impressions.filter(day.is_in(known))), tmp_path / "tables")
        assert not build(monkeypatch, f"data.outputs={tmp_path}")
        assert told in capsys.readouterr().out
        split = np.load(tmp_path / "features" / "columns" / "split.npy")
        assert sorted(set(split.tolist())) == ([0, 1, 2] if learned else [-1])


def test_a_log_without_long_views_is_refused_with_the_setting_that_helps_and_built_under_it(
    world_tables, world_schema, tmp_path, monkeypatch
):
    log = CanonicalTables(root=str(tmp_path / "log"))
    (tmp_path / "log").mkdir()
    unflagged = world_tables.impressions.drop("long_view")
    for name, frame in {"impressions": unflagged, "users": world_tables.users, "videos": world_tables.videos}.items():
        frame.write_parquet(tmp_path / "log" / f"{name}.parquet")
    write_stage(log, world_schema, tmp_path / "tables")
    for override, told in (([], "labels.long_view_s=SECONDS"), (["labels.long_view_s=10"], None)):
        code = build(monkeypatch, f"data.outputs={tmp_path}", *override)
        assert told in str(code) if told else not code
    assert json.loads((tmp_path / "features" / "report.json").read_text())["labels"]["train"]["long_view"] > 0

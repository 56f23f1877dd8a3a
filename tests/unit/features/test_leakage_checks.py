"""The tripwire: each kind of leak is planted and found by name, and an honest world passes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from omegaconf import OmegaConf

from watchnext import metrics
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables, in_order
from watchnext.features import __main__ as commands
from watchnext.features.dataset import freshness
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.leakage.checks import LeakageChecks
from watchnext.features.leakage.intervention import flip_outcomes, scramble
from watchnext.features.leakage.single_feature import areas, standard_error, target_rates
from watchnext.features.state import log_arrays
from watchnext.schema import FeatureSchema

CONF = Path(__file__).resolve().parents[3] / "conf"
SETTINGS = yaml.safe_load((CONF / "config.yaml").read_text())
DEFAULT = SETTINGS["tripwire"]


def builder_of(schema: FeatureSchema, regime: str = "streaming") -> FeatureBuilder:
    return FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime=regime, min_count=2)


SPLIT = TimeSplit(valid_days=1, test_days=1)


def stored(tables: Tables, folder: Path) -> StoredTables:
    write_tables(tables, folder)
    return StoredTables.open(folder)


def built(schema, tables: Tables, folder: Path, regime: str = "streaming") -> FeatureSet:
    """With the tables beside them, in `folder`."""
    builder_of(schema, regime).build(stored(tables, folder / "tables"), SPLIT, folder / "features")
    return FeatureSet.load(folder / "features")


def checked(features: FeatureSet, tables: Tables | None = None, regime: str = "streaming", **settings) -> tuple[dict, list]:
    """Against the tables beside them, or others."""
    builder, folder = builder_of(features.pipeline.schema, regime), features.folder.parent
    of = StoredTables.open(folder / "tables") if tables is None else stored(tables, folder / "others")
    return LeakageChecks(**{**DEFAULT, **settings}).check(of, features, builder)


def with_feature(schema: FeatureSchema, name: str, **declared) -> FeatureSchema:
    mapping = schema.to_mapping()
    mapping["features"][name] = declared
    return FeatureSchema.from_mapping(mapping)


def with_impressions(tables: Tables, frame: pl.DataFrame) -> Tables:
    return Tables(frame, tables.users, tables.videos)


# ---- honest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regime", ["streaming", "daily", "frozen", "request"])
def test_an_honest_world_passes(regime, world_schema, world_tables, world_split, tmp_path):
    features = built(world_schema, world_tables, tmp_path, regime)
    report, leaks = checked(features, regime=regime)
    assert [str(leak) for leak in leaks] == report["leaks"] == []
    checks = report["checks"]
    assert checks["own_or_later_outcome"]["rebuilt"] == len(world_split)
    assert checks["fitted"]["left_out"] == (world_split > 0).sum()
    assert checks["history"]["entries"] > checks["history"]["requests"] > 100
    assert all(0.5 <= best["auc"] < 0.8 for best in checks["single_feature"]["highest"].values())


@pytest.mark.parametrize("share", [1, 3])
def test_an_honest_log_of_sessions_passes_as_of_their_first_impression(share, world_schema, world_one_by_one, tmp_path):
    features = built(world_schema, world_one_by_one, tmp_path, "request")
    own_ms, held_out = world_one_by_one.impressions["time_ms"].to_numpy(), np.asarray(features.columns["split"]) > 0
    earlier = features.columns["time_ms"] < own_ms
    assert 0.3 < earlier[held_out].mean() < 1
    assert not earlier[~held_out].any()
    report, leaks = checked(features, regime="request", rows=len(own_ms) // share)
    assert [str(leak) for leak in leaks] == report["leaks"] == []


def test_every_kth_viewer_of_a_longer_log_is_rebuilt(world_tables, world_split, world_features):
    report, leaks = checked(world_features, rows=len(world_split) // 3)
    assert not leaks
    assert 0.1 < report["checks"]["own_or_later_outcome"]["rebuilt"] / len(world_split) < 0.5
    assert report == checked(world_features, rows=len(world_split) // 3)[0]


def test_features_of_other_tables_are_refused(world_tables, world_features):
    with pytest.raises(ValueError, match=r"was not built from the tables in .*others; run `dvc repro features`"):
        checked(world_features, with_impressions(world_tables, world_tables.impressions[:-1]))


# ---- a feature that alone predicts a label ---------------------------------------------------------------------------


def one_video_each(tables: Tables) -> Tables:
    """Every impression shows a video of its own, whose raw columns know what came of it."""
    frame = tables.impressions
    videos = tables.videos.join(frame.select("video_id"), on="video_id", how="right", maintain_order="right").with_columns(
        video_id=pl.format("v{}", pl.int_range(pl.len())),
        quality=frame["long_view"].cast(pl.Float64) * -3.0 + 1.0,
        verdict=pl.when(frame["like"]).then(pl.lit("liked")).otherwise(pl.lit("not")),
    )
    return Tables(frame.with_columns(video_id=videos["video_id"]), tables.users, videos)


@pytest.mark.parametrize(
    ("name", "kind", "target"), [("quality", "numerical", "long_view"), ("verdict", "categorical", "like")]
)
def test_a_label_copied_into_a_video_column(name, kind, target, world_schema, world_tables, world_split, tmp_path):
    tables = one_video_each(world_tables)
    schema = with_feature(world_schema, name, kind=kind, entity="video")
    _, leaks = checked(built(schema, tables, tmp_path), min_positives=10)
    assert {leak.check for leak in leaks} == {"single feature"}
    message = f"leak (single feature): {name} alone predicts {target}, AUC: 1, allowed is 0.85; remove it"
    assert any(message in str(leak) for leak in leaks)  # a click follows a long view so closely that it is told as well


def test_a_copied_label_in_the_context(world_schema, world_tables, world_split, tmp_path):
    tables = with_impressions(world_tables, world_tables.impressions.with_columns(opened=pl.col("click").cast(pl.Float64)))
    schema = with_feature(world_schema, "opened", kind="numerical", entity="context")
    _, leaks = checked(built(schema, tables, tmp_path))
    assert "opened alone predicts click" in " ".join(map(str, leaks))


def test_a_target_that_is_too_rare_is_named_and_not_judged(world_schema, world_tables, world_split, tmp_path):
    likes = np.flatnonzero(world_split < 2)[::50][:16]
    frame = world_tables.impressions.with_columns(like=pl.Series(np.isin(np.arange(len(world_split)), likes)))
    tables = with_impressions(world_tables, frame.with_columns(opened=pl.col("like").cast(pl.Float64)))
    schema = with_feature(world_schema, "opened", kind="numerical", entity="context")
    features = built(schema, tables, tmp_path)
    report, leaks = checked(features, min_positives=17)
    assert (report["checks"]["single_feature"]["too_rare_to_judge"], leaks) == (["like"], [])
    assert [leak.feature for leak in checked(features, min_positives=16)[1]] == ["opened alone predicts like, AUC"]


def test_a_bot_with_most_of_the_log_is_named_and_is_no_leak(world_schema, world_tables, tmp_path):
    frame, viewer = world_tables.impressions, pl.lit(world_tables.users["user_id"].max() + 1, pl.Int64)
    never = {name: pl.lit(False) for name in ("click", "long_view", "like")} | {"watch_ms": pl.lit(0, pl.Int64)}
    bot = pl.concat([frame.with_columns(user_id=viewer, time_ms=pl.col("time_ms") + part, **never) for part in range(3)])
    bot = bot.with_columns(request_id=pl.lit(10**9, pl.Int64) + pl.int_range(pl.len(), dtype=pl.Int64))
    users = pl.concat([world_tables.users, world_tables.users[0].with_columns(user_id=viewer)])
    tables = Tables(in_order(pl.concat([frame, bot])), users, world_tables.videos)
    report, leaks = checked(built(world_schema, tables, tmp_path))
    assert [str(leak) for leak in leaks] == []
    assert list(report["checks"]["single_feature"]["bots"].values()) == [0.75]
    assert [*report["checks"]["single_feature"]["bots"]] == [str(users["user_id"].max())]


def test_areas_are_the_metric_and_errors_those_of_the_paper():
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 9, 200), random.random((200, 3)) < 0.3
    np.testing.assert_allclose(areas(scores, labels), [metrics.auc(labels[:, i], scores) for i in range(3)])
    assert np.isnan(areas(scores, np.ones((200, 1)))).all()
    # Hanley & McNeil (1982), the worked example: area .893 of 51 abnormal and 58 normal images has the error .032.
    np.testing.assert_allclose(standard_error(np.array([0.893]), np.array([51]), np.array([58])), 0.032, atol=1e-3)
    assert standard_error(np.array([1.0]), np.array([4]), np.array([9])) == 0


def test_a_row_has_no_part_in_the_target_rate_of_its_code():
    codes, labels = np.array([0, 0, 1, 0, 0, 1]), np.array([[1.0, 0, 0, 1, 1, 0]]).T
    rates = target_rates(codes, labels)[:, 0]
    # Even rows see the odd ones: code 0 was 0 and 1, code 1 was 0, the mean is 1/3. Odd rows: 1 and 1, 0, and 2/3.
    even, odd = ((1 + 4 / 3) / 6, (4 / 3) / 5), ((2 + 8 / 3) / 6, (8 / 3) / 5)
    np.testing.assert_allclose(rates, [even[0], odd[0], even[1], odd[0], even[0], odd[1]])


# ---- its own outcome or a later one ----------------------------------------------------------------------------------


def reads_at_once(visible_until):
    """Reads with `<=` what must be known strictly before."""
    return lambda *args: np.nextafter(visible_until(*args), np.inf)


def believes_the_past(log_of):
    """Takes outcomes for known a second before their request."""

    def planted(*args):
        log = log_of(*args)
        return log._replace(known_at=log.time_ms - 1_000)

    return planted


def believes_every_clock(log_of):
    """Takes a received time for true even where it lies before the request."""

    def planted(tables, *args):
        received = tables.impressions["received_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy()
        log = log_of(tables, *args)
        return log._replace(known_at=np.where(np.isnan(received), log.known_at, received))

    return planted


@pytest.mark.parametrize(
    ("module", "where", "plant"),
    [
        (freshness, "visible_until", reads_at_once),
        (log_arrays, "log_of", believes_the_past),
        (log_arrays, "log_of", believes_every_clock),
    ],
)
def test_a_fold_that_reads_an_outcome_too_early(
    module, where, plant, monkeypatch, world_schema, world_tables, world_split, tmp_path
):
    frame = world_tables.impressions.with_columns(received_ms=pl.lit(None, pl.Int64))  # none shows it by itself
    tables = with_impressions(world_tables, frame)
    monkeypatch.setattr(module, where, plant(getattr(module, where)))
    _, leaks = checked(built(world_schema, tables, tmp_path))
    found = {leak.feature.partition(",")[0] for leak in leaks if leak.check == "own or later outcome"}
    assert {"user click 1h", "history"} <= found
    assert all("strictly before the request" in str(leak) for leak in leaks if leak.check == "own or later outcome")
    assert ("future in history" in {leak.check for leak in leaks}) == (plant is believes_the_past)


@pytest.mark.parametrize("regime", ["streaming", "daily", "frozen", "request"])
def test_an_outcome_declared_as_context(regime, world_schema, world_tables, world_split, tmp_path):
    schema = with_feature(world_schema, "share", kind="categorical", entity="context")
    _, leaks = checked(built(schema, world_tables, tmp_path, regime), regime=regime)
    own = [leak for leak in leaks if leak.check == "own or later outcome"]
    assert [leak.feature for leak in own] == ["share, rows that change with outcomes of their own or later impressions"]
    assert own[0].figure >= 1


def test_turned_over_is_another_outcome_everywhere(world_tables):
    frame, rows = world_tables.impressions, np.arange(len(world_tables.impressions)) % 2 == 0
    for early in (False, True):
        changed = flip_outcomes(frame, rows, early=early)
        assert (changed["click"] != frame["click"]).to_list() == rows.tolist()
        assert (changed["watch_ms"] > frame["watch_ms"]).to_list() == rows.tolist()
        before = (changed["received_ms"] < changed["time_ms"]).fill_null(False).to_numpy()
        assert before.tolist() == (rows & early).tolist()


def test_columns_that_the_log_does_not_give(world_schema, world_tables, tmp_path):
    features = built(world_schema, world_tables, tmp_path)
    values = np.array(features.columns["candidate"])
    place = world_schema.state.counts.index("click") * len(world_schema.state.half_lives_h)
    values[5, 0, place] += 0.5
    features = replace(features, columns={**features.columns, "candidate": values})
    _, leaks = checked(features)
    assert [(leak.check, leak.feature, leak.figure) for leak in leaks] == [
        ("stored columns", "video click 1h, rows that differ from a rebuild of the log", 1)
    ]


# ---- fitted on test days ---------------------------------------------------------------------------------------------


def test_statistics_of_all_rows(monkeypatch, world_schema, world_tables, world_split, tmp_path):
    honest = FeatureBuilder.fit

    def of_all_rows(self, tables, log, reads, split):
        return honest(self, tables, log, reads, np.zeros_like(split))

    monkeypatch.setattr(FeatureBuilder, "fit", of_all_rows)
    _, leaks = checked(built(world_schema, world_tables, tmp_path))
    assert {leak.check for leak in leaks} == {"fitted on test days"}
    assert {"rate.user", "scale.query_values"} <= {leak.feature.partition(",")[0] for leak in leaks}
    assert f"held-out impressions that it depends on: {(world_split > 0).sum()}, allowed is 0" in str(leaks[0])


def test_a_vocabulary_of_the_whole_catalogue(monkeypatch, world_schema, world_tables, world_split, tmp_path):
    """Nothing in the log changes it; only other raw values of what was never shown in training do."""
    videos = world_tables.videos.with_columns(
        tags=pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(["unheard"])).otherwise(pl.col("tags"))
    )
    kept = (world_tables.impressions["video_id"] != videos["video_id"][0]).to_numpy() | (world_split > 0)
    tables = Tables(world_tables.impressions.filter(pl.Series(kept)), world_tables.users, videos)
    honest = FeaturePipeline.fit.__func__

    def fit(cls, *, videos, **rest):
        pipeline = honest(cls, videos=videos, **rest)
        pipeline.fitted["vocabulary.tags"] = np.unique(videos["tags"].explode().drop_nulls().to_numpy().astype(np.str_))
        return pipeline

    assert not checked(built(world_schema, tables, tmp_path / "honest"))[1]
    monkeypatch.setattr(FeaturePipeline, "fit", classmethod(fit))
    _, leaks = checked(built(world_schema, tables, tmp_path / "planted"))
    assert [leak.feature.partition(",")[0] for leak in leaks] == ["vocabulary.tags"]


def test_stored_statistics_that_training_days_do_not_give(world_schema, world_tables, world_split, tmp_path):
    features = built(world_schema, world_tables, tmp_path)
    features.pipeline.fitted["rate.video"] = features.pipeline.fitted["rate.video"] * 1.001
    found = [str(leak) for leak in checked(features)[1] if leak.check == "fitted on test days"]
    assert len(found) == 1
    assert "rate.video as stored" in found[0]


def test_scrambled_changes_the_asked_rows_and_no_other():
    frame = pl.DataFrame({"a": [1, 2], "b": [0.5, 1.0], "c": ["x", "y"], "d": [True, False], "e": [["t"], ["u", "v"]]})
    found = scramble(frame, np.array([False, True]))
    assert found.rows() == [(1, 0.5, "x", True, ["t"]), (3, 4.0, "y~", True, ["u~", "v~"])]
    assert found.schema == frame.schema


# ---- history and duplicates ------------------------------------------------------------------------------------------


def test_a_history_with_a_future_watch(world_schema, world_tables, world_split, tmp_path):
    features = built(world_schema, world_tables, tmp_path)
    at, users = np.array(features.columns["history_at"]), np.asarray(features.columns["user_rows"])
    # A test impression of a viewer who watches something after it, and the history of the viewer's last one.
    test = np.flatnonzero(world_split == 2)
    latest = {user: row for row, user in zip(test, users[test], strict=True)}
    first = next(row for row in test if at[latest[users[row]]] > at[row] and features.columns["history_len"][row] > 0)
    at[first] = at[latest[users[first]]]
    features = replace(features, columns={**features.columns, "history_at": at})
    found = {leak.check: leak for leak in checked(features, requests=2 * len(test))[1]}
    assert set(found) == {"future in history", "stored columns"}
    assert f"first is impression {first}: 1, allowed is 0" in str(found["future in history"])


def test_the_same_event_and_the_same_request_in_two_splits(world_schema, world_tables, world_split, tmp_path):
    """The last day's file has an impression of a training day again."""
    frame = world_tables.impressions
    again = frame[int(np.flatnonzero(world_split == 0)[100])].with_columns(day=pl.lit(frame["day"].max()))
    _, leaks = checked(built(world_schema, with_impressions(world_tables, pl.concat([frame, again])), tmp_path))
    assert [(leak.check, leak.figure) for leak in leaks] == [("duplicate", 1), ("duplicate", 1)]
    assert f"user_id={again['user_id'][0]}" in str(leaks[0])
    assert f"first is request_id={again['request_id'][0]}: 1, allowed is 0" in str(leaks[1])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_its_figures_and_exits_1_for_a_leak(world_schema, world_tables, world_split, tmp_path, capsys):
    built(world_schema, world_tables, tmp_path)
    data = {"outputs": str(tmp_path), "utc_offset_h": 0}
    chosen = {"labels": SETTINGS["labels"], "min_count": 2, "snapshots": 7, "tripwire": DEFAULT}
    config = OmegaConf.create({"data": data, **chosen})
    assert commands.tripwire(config) == 0
    assert json.loads((tmp_path / "metrics" / "tripwire.json").read_text())["leaks"] == []
    assert "no leaks" in capsys.readouterr().out
    config.tripwire.ceiling = 0.52
    assert commands.tripwire(config) == 1
    written = json.loads((tmp_path / "metrics" / "tripwire.json").read_text())["leaks"]
    assert written[0] in capsys.readouterr().err
    assert "allowed is 0.52" in written[0]

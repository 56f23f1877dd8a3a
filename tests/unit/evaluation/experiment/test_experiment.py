"""Figures of arms by hand, and whole experiments on the tiny world."""

import json
import shutil
import sqlite3
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from watchnext.assignment import ExperimentError
from watchnext.cli import composed
from watchnext.evaluation.experiment import command
from watchnext.evaluation.experiment.ab_test import hourly, looks, preference
from watchnext.evaluation.experiment.arm_figures import GINI, ArmFigures, resamples, spread, summarised
from watchnext.evaluation.experiment.experiment import Experiment, arms_of, require_design
from watchnext.evaluation.experiment.experiment_report import experiment_plot, experiment_table
from watchnext.evaluation.experiment.traffic import COLUMNS
from watchnext.metrics import gini, rounded
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS

# viewer, request, day, video, seconds, long
ROWS = [(3, 0, 0, 0, 10.0, True), (3, 0, 0, 1, 0.0, False), (5, 1, 0, 2, 30.0, True), (3, 2, 1, 2, 5.0, False)]


def shown_of(rows: list, teams: list | None = None) -> pl.DataFrame:
    """Impressions as `traffic` keeps them; times are days from 0 on."""
    columns = zip(*rows, strict=True)
    viewer, request, day, video, seconds, long = map(list, columns)
    frame = {
        "viewer": viewer, "request": request, "time_ms": [DAY_MS * d + HOUR_MS // 2 for d in day],
        "position": [0] * len(rows), "video": video, "watch_ms": [int(1000 * s) for s in seconds], "long_view": long,
        "team": teams or [0] * len(rows),
    }  # fmt: skip
    return pl.DataFrame(frame, schema=COLUMNS)


def platform(days: int = 2) -> SimpleNamespace:
    """Three videos of the tags 1, 1, 2 by the creators 0, 1, 1; creator 0 is new."""
    kind = [("creator", np.int32), ("upload_ms", np.int64), ("tags", np.int16, 3)]
    old = -30 * DAY_MS
    videos = np.array([(0, 0, (1, -1, -1)), (1, old, (1, 2, -1)), (1, old, (2, -1, -1))], kind)
    return SimpleNamespace(world=SimpleNamespace(catalogue=videos), start_ms=0, days=days)


def test_figures_of_two_viewers_who_came_and_one_who_did_not_by_hand():
    arm = ArmFigures.of(shown_of(ROWS), platform(), np.array([3, 4, 5]))
    found = {name: values[0] for name, values in arm.sampled(np.ones((1, 3))).items()}
    assert found == pytest.approx({
        "watch_s": 45 / 6, "long_views": 2 / 6, "long_view_rate": 2 / 4, "days_visited": 3 / 6, "day_n_return": 1 / 2,
        "tags_per_slot": (1 + 1 + 1) / 4, "new_creators": 1 / 4, GINI: gini(np.array([1, 3])),
    })  # fmt: skip
    assert (arm.videos, arm.requests) == (3, 3)
    assert arm.daily()["watch_s"] == pytest.approx([40 / 3, 5 / 3])
    assert arm.daily()["came"] == pytest.approx([2 / 3, 1 / 3])
    others = ArmFigures.of(shown_of(ROWS), platform(), np.array([4, 5]))  # without the first viewer's rows
    np.testing.assert_array_equal(others.watch_s, arm.watch_s[1:])
    np.testing.assert_array_equal(others.by_creator, arm.by_creator[1:])
    without = arm.sampled(np.array([[0.0, 1.0, 0.0]]))
    assert without["watch_s"][0] == 0
    assert np.isnan(without["long_view_rate"][0])


def test_an_arm_without_a_visit_has_no_rates_and_no_intervals():
    arm = ArmFigures.of(shown_of(ROWS).clear(), platform(), np.array([3, 4]))
    found = summarised({"a": arm}, seed=0)["arms"]["a"]
    assert found["watch_s"] == [0.0, 0.0, 0.0]
    assert np.isnan(found["long_view_rate"]).all()


def test_intervals_cover_the_truth_and_arms_of_the_same_viewers_are_paired():
    random = np.random.default_rng(0)
    covered, widths = [], []
    for sample in range(60):
        base = random.exponential(100.0, 200)
        one, other = base, base + random.normal(2.0, 1.0, 200)
        weights = resamples(200, sample)
        found = spread(weights @ one / 200)
        covered.append(found.low < 100.0 < found.high)
        paired = spread(weights @ other / 200 - weights @ one / 200)
        apart = spread(weights @ other / 200 - resamples(200, 1000 + sample) @ one / 200)
        widths.append((paired.high - paired.low) / (apart.high - apart.low))
        assert paired.low < 2.0 + 0.3
        assert paired.value == pytest.approx((other - one).mean())
    assert np.mean(covered) > 0.88
    assert np.mean(widths) < 0.05


def test_differences_are_of_every_pair_and_relative_to_the_second():
    people = np.array([3, 5])
    better = [(viewer, request, day, video, 2 * seconds, long) for viewer, request, day, video, seconds, long in ROWS]
    arms = {name: ArmFigures.of(shown_of(rows), platform(), people) for name, rows in (("a", better), ("b", ROWS), ("c", ROWS))}
    found = summarised(arms, seed=0)["differences"]
    assert list(found) == ["a - b", "a - c", "b - c"]
    assert found["a - b"]["watch_s"]["difference"][0] == pytest.approx(45 / 4)
    assert found["a - b"]["watch_s"]["relative"] == pytest.approx([1.0, 1.0, 1.0])  # of every resample, as viewers are paired
    assert found["b - c"]["watch_s"]["difference"] == [0.0, 0.0, 0.0]


def test_looks_are_as_of_each_hour():
    seconds, requests = hourly(shown_of(ROWS), np.array([3, 5]), start_ms=0, hours=48)
    assert seconds[:, 0].tolist() == [10.0, 30.0]
    assert seconds[:, 23].tolist() == [10.0, 30.0]
    assert seconds[:, 24].tolist() == [15.0, 30.0]
    assert (requests[0], requests[23], requests[47]) == (2, 2, 3)
    nothing = looks(np.zeros((2, 3)), np.zeros((2, 3)), np.array([0.0, 0.0, 1.0]))
    assert not any(look.excludes_zero for look in nothing)


def test_a_preference_counts_long_views_by_team_and_request():
    found = preference(shown_of(ROWS, teams=[0, 1, 1, 0]))
    assert found["credit"][0] == pytest.approx((1 - 1) / 3)
    assert (found["viewers"], found["requests"]) == (2, 3)
    assert preference(shown_of(ROWS, teams=[0, 1, 0, 0]))["credit"][0] == pytest.approx(2 / 3)


# ---- whole experiments -----------------------------------------------------------------------------------------------


@pytest.fixture
def runner(release_of_world, simulation, releases, tmp_path) -> Experiment:
    return Experiment(release_of_world, simulation, releases=releases, folder=tmp_path, seed=0)


def test_a_paired_experiment_reports_every_arm_and_pair_and_is_not_run_twice(runner, simulation, tmp_path, monkeypatch):
    found = runner.run(design="paired", policies=["full", "popular"])
    assert list(found["arms"]) == ["full", "popular"]
    people = len(simulation.people(simulation.users))
    assert found["arms"]["full"]["viewers"] == found["arms"]["popular"]["viewers"] == people
    value, low, high = found["differences"]["full - popular"]["watch_s"]["difference"]
    assert low < value < high
    assert value == pytest.approx(found["arms"]["full"]["watch_s"][0] - found["arms"]["popular"]["watch_s"][0])
    report = {"world": "tiny", **found}
    text = experiment_table(report)
    assert "full - popular" in text
    assert "design paired" in text
    experiment_plot(found["daily"], tmp_path / "days.png")
    with Image.open(tmp_path / "days.png") as picture:
        assert picture.size[0] > 500
    found = rounded(found, 6)
    json.dumps(found, allow_nan=False)

    def refused(*_, **__):
        raise AssertionError("the arm was kept")

    monkeypatch.setattr("watchnext.evaluation.experiment.experiment.run_arms", refused)
    assert rounded(runner.run(design="paired", policies=["full", "popular"]), 6) == found
    with pytest.raises(AssertionError, match="the arm was kept"):
        runner.run(design="paired", policies=["unranked"])


def test_an_ab_test_gives_each_viewer_one_policy_and_tests_the_difference(runner, simulation, tmp_path):
    found = runner.run(design="split", policies=["full", "popular"], shares={"full": 0.6, "popular": 0.4})
    shown = pl.read_parquet(tmp_path / "full-with-popular.parquet")
    assert shown.group_by("viewer").agg(pl.col("team").n_unique())["team"].unique().to_list() == [1]
    people = len(simulation.people(simulation.users))
    assert found["arms"]["full"]["viewers"] + found["arms"]["popular"]["viewers"] == people
    test = found["ab_test"]["full - popular"]
    (value, low, high), (same, lower, higher) = test["single_look"], test["always_valid"]
    assert value == pytest.approx(same)
    assert lower < low < value < high < higher
    assert test["viewers_for_1%"] > 1000
    assert "always valid" in experiment_table({"world": "tiny", **found})


def test_two_policies_interleave(runner):
    found = runner.run(design="interleaved", policies=["full", "popular"])
    assert list(found["arms"]) == ["full with popular"]
    low, high = found["interleaved"]["credit"][1:]
    assert -3 < low < high < 3
    assert "interleaved: full is credited" in experiment_table({"world": "tiny", **found})


@pytest.mark.parametrize(
    ("design", "policies", "message"),
    [
        ("sideways", ["full"], "design is 'sideways', expected one of paired, split, interleaved"),
        ("split", ["full", "full"], "policy 'full' is named twice, so that its viewers would be in two arms"),
        ("paired", [], r"policies are \[\], expected at least one policy"),
        ("interleaved", ["full"], r"policies are \['full'\], expected two policies"),
    ],
)
def test_designs_that_cannot_be_run_are_refused(design, policies, message):
    with pytest.raises(ExperimentError, match=message):
        require_design(design, policies)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"full": 1.0}, "shares are of full, expected one for each of full, popular"),
        ({"full": 1.0, "popular": 0.0}, "arm 'popular' is empty: its range 1 to 1 holds no viewer"),
        ({"full": 0.9999, "popular": 0.0001}, "arm 'popular' is empty: none of 30 viewers"),
        ({"full": 0.7, "popular": 0.7}, "at most 1 in sum"),
    ],
)
def test_shares_that_leave_an_arm_empty_or_overlap_are_refused(simulation, shares, message):
    with pytest.raises(ExperimentError, match=message):
        arms_of("split", ["full", "popular"], shares, simulation, salt="x")


def test_an_unknown_policy_is_refused_before_anything_runs(runner, tmp_path):
    with pytest.raises(ExperimentError, match="policy 'bset' is unknown"):
        runner.run(design="paired", policies=["full", "bset"])
    assert not [*tmp_path.iterdir()]


def test_a_real_log_has_no_world(release, simulation, releases, tmp_path):
    with pytest.raises(ExperimentError, match="known of a simulated log alone"):
        Experiment(release, simulation, releases=releases, folder=tmp_path, seed=0)
    with pytest.raises(ExperimentError, match=r"experiment\.world is 'movielens', whose log is real"):
        command.world_of(composed(["experiment.world=movielens"]))
    assert command.world_of(composed(["data=world_still"]))[0] == "world_still"


def test_the_command_keeps_report_picture_and_figures(
    releases, release_of_world, world_folder, empty_store, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copyfile(empty_store, tmp_path / 'mlflow.db')}")
    (tmp_path / "release.json").write_text(json.dumps({"release": release_of_world.id}))
    (tmp_path / "features").symlink_to(world_folder)
    world = {"users": 60, "videos": 150, "creators": 20, "+tags": 10, "days": 4, "impressions_per_user_day": 13.0, "seed": 1,
             "mechanisms.baseline": -1.5}  # fmt: skip
    words = [f"{'+' * key.startswith('+')}data.loader.{key.lstrip('+')}={value}" for key, value in world.items()]
    words += [f"data.outputs={tmp_path}", f"data.releases={releases}", "experiment.days=1", "experiment.viewers=20"]
    config = composed(["data=world", *words, "experiment.policies=[full,popular_now]"])
    command.run_experiment(config)
    report = json.loads((tmp_path / "experiment" / "paired" / "experiment.json").read_text())
    assert (report["world"], report["release"], report["viewers"]) == ("world", release_of_world.id, 20)
    assert (tmp_path / "experiment" / "paired" / "days.png").exists()
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        logged = dict(store.execute("select key, value from latest_metrics").fetchall())
    store.close()
    assert logged["arms/full/watch_s"] == pytest.approx(report["arms"]["full"]["watch_s"][0])
    assert "differences/full - popular_now/watch_s" in logged

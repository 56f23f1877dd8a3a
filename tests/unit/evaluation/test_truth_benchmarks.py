"""Hand-computed examples of what true_best.py, true_worlds.py, closed_loop.py and global_split.py compute beyond a run."""

import json
from datetime import date
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from benchmarks import closed_loop, true_worlds
from benchmarks.global_split import HeldOutWindow, figures, first_unseen, options_of
from benchmarks.true_best import _require_known, among_first, recalled
from benchmarks.true_worlds import STRENGTHS, Run, interval, recorded, summary

from watchnext.cli import composed, instantiate
from watchnext.data.tables import DataError
from watchnext.simulator.world import World

DAY_MS = 86_400_000
SIZES = {"users": 40, "videos": 90, "days": 4}


# ---- true_best -------------------------------------------------------------------------------------------------------


def test_the_true_best_that_are_found_are_expected_over_ties():
    long_view, watch_s = np.linspace(1.0, 0.0, 40), np.arange(40.0)
    assert among_first(np.zeros(40), long_view, watch_s) == pytest.approx((10 / 40, 0.5, 19.5))
    assert among_first(long_view, long_view, watch_s) == pytest.approx((1.0, long_view[:10].mean(), 4.5))


def test_recall_counts_relevant_videos_that_are_no_candidates_as_missed():
    rows = np.arange(100, 140)
    assert recalled(-np.arange(40.0), rows, np.array([100, 109, 110, 7])) == 0.5
    assert recalled(np.zeros(40), rows, np.array([120])) == 0.25
    assert np.isnan(recalled(np.zeros(40), rows, np.zeros(0, np.int64)))


def test_a_release_of_another_log_than_the_world_s_is_refused():
    release = SimpleNamespace(id="sample-1", user_ids=SimpleNamespace(ids=range(40)), catalogue=range(80))
    with pytest.raises(ValueError, match="sample-1 has 40 users and 80 videos, the world 40 and 90: the truth is known"):
        _require_known(release, World(**SIZES))


# ---- true_worlds -----------------------------------------------------------------------------------------------------


def record(world: str, policy: str, seed: int, **shares: float) -> dict:
    orders = {
        name: {"share": [value, 0.1], "long_view": value, "watch_s": value, "recall": None} for name, value in shares.items()
    }
    return {"world": world, "policy": policy, "seed": seed, "retrieved": orders}


def test_a_world_is_summed_up_over_its_runs_and_gains_are_run_by_run():
    runs = [record("world", "weak", 0, value=0.1, served=0.2), record("world", "strong", 0, value=0.5, served=0.6)]
    runs += [
        record("world_still", "weak", 0, value=0.05, served=0.05),
        record("world_still", "weak", 1, value=0.15, served=0.05),
    ]
    found = summary(runs)
    assert found["seeds"] == {"world": {"weak": 1, "strong": 1}, "world_still": {"weak": 2}}
    assert found["cells"]["world_still"]["weak"]["value"]["share"] == pytest.approx({"mean": 0.1, "spread": 0.005**0.5})
    assert found["cells"]["world"]["weak"]["value"]["share"] == {"mean": 0.1, "spread": None}
    assert found["worlds"]["world"]["served"]["share"]["mean"] == pytest.approx(0.4)
    assert found["worst"]["served"]["share"] == {"world": "world_still", "mean": pytest.approx(0.05)}
    assert found["worst"]["value"]["share"]["world"] == "world_still"
    assert found["gain"]["world"]["served"]["share"] == pytest.approx([0.1, 0.1, 0.1])
    assert "value" not in found["gain"]["world"]


def test_an_order_that_no_run_has_has_no_figures():
    found = summary([record("world", "weak", 0, value=0.1)])
    assert np.isnan(found["worlds"]["world"]["engage"]["share"]["mean"])
    assert found["worst"]["engage"]["share"] == {"world": None, "mean": None}


def test_the_interval_is_student_s():
    assert interval(np.array([1.0, 2.0, 3.0])) == pytest.approx([2.0, 2.0 - 4.302653 / 3**0.5, 2.0 + 4.302653 / 3**0.5])
    assert interval(np.array([1.0, np.nan])) == pytest.approx([1.0, np.nan, np.nan], nan_ok=True)


def test_a_run_s_world_has_its_size_seed_and_strength(tmp_path):
    def world_of(policy: str):
        overrides = Run("world_popular", policy, 3).overrides(SIZES, tmp_path)
        return instantiate(composed(["data=world_popular", *overrides]).data.loader)

    weak, strong = world_of("weak"), world_of("strong")
    assert (len(weak.viewers), len(weak.catalogue), weak.days, weak.seed) == (40, 90, 4, 3)
    assert weak.mechanisms.watch_law == "skip_or_finish"
    assert strong.policy.home / weak.policy.home == STRENGTHS["strong"] / STRENGTHS["weak"]
    assert weak.policy.explore == strong.policy.explore


def test_a_sharper_policy_shows_fewer_videos_of_more_appeal(tmp_path):
    def log_of(policy: str) -> pl.DataFrame:
        overrides = Run("world", policy, 0).overrides({**SIZES, "users": 150, "videos": 400}, tmp_path)
        return (
            instantiate(composed(["data=world", *overrides]).data.loader).log().impressions.filter(pl.col("policy") != "random")
        )

    weak, strong = log_of("weak"), log_of("strong")
    assert strong["long_view"].mean() > weak["long_view"].mean()
    assert strong["propensity"].mean() > 2 * weak["propensity"].mean()


def test_a_recorded_run_is_read_and_one_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "world-weak-0.json"
    assert recorded(path, {"requests": 5}) is None
    path.write_text(json.dumps({"settings": {"requests": 5}}))
    assert recorded(path, {"requests": 5}) == {"settings": {"requests": 5}}
    with pytest.raises(ValueError, match=r"was measured with {'requests': 5}, expected {'requests': 6}; give another --runs"):
        recorded(path, {"requests": 6})


def test_every_cell_has_a_seed_before_any_has_two_and_no_run_is_repeated(tmp_path, monkeypatch, capsys):
    def result_of(run: Run, *_) -> dict:
        asked.append(str(run))
        return record(run.world, run.policy, run.seed, value=0.1) | {"commit": "c", "cpu_s": 1.0, "chosen": {}, "settings": {
            "sizes": {"users": 800, "videos": 2000, "days": 6}, "overrides": ["seed=1"], "requests": 200}}  # fmt: skip

    asked: list[str] = []
    monkeypatch.setattr(true_worlds, "result_of", result_of)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unused")
    words = ["true_worlds", "seed=1", "--worlds", "world", "--policies", "weak", "strong", "--runs", str(tmp_path), "--seeds"]
    for seeds in ("1", "2"):
        monkeypatch.setattr("sys.argv", [*words, seeds])
        true_worlds.main()
    assert asked == ["world-weak-0", "world-strong-0", "world-weak-1", "world-strong-1"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["seeds"] == {"world": {"weak": 2, "strong": 2}}


# ---- closed_loop -----------------------------------------------------------------------------------------------------


def looped(world: str, seed: int, gain: list[float]) -> dict:
    differences = {"full - popular": {"watch_s": {"relative": gain}}}
    arms = {"full": {"watch_s": [60.0, 50.0, 70.0]}, "popular": {"watch_s": [50.0, 40.0, 60.0]}}
    return {"world": world, "policy": "configured", "seed": seed, "arms": arms, "differences": differences}


def test_the_worst_run_is_that_of_the_least_gain_and_clear_ones_are_counted():
    gains = [[0.2, 0.1, 0.3], [0.4, 0.3, 0.5], [0.05, -0.1, 0.2], [-0.2, -0.3, -0.1]]
    runs = [looped("world", 0, gains[0]), looped("world", 1, gains[1])]
    runs += [looped("world_still", 0, gains[2]), looped("world_popular", 0, gains[3])]
    found = closed_loop.summary(runs, ["popular"])
    assert found["worst"] == {"popular": ("world_popular-configured-0", [-0.2, -0.3, -0.1])}
    assert found["won"] == {"popular": {"won": 2, "lost": 1, "runs": 4}}
    assert found["gain"]["world"]["popular"] == pytest.approx(interval(np.array([0.2, 0.4])))
    assert found["runs"]["world-configured-1"] == {"full": 60.0, "popular": 50.0}


# ---- global_split ----------------------------------------------------------------------------------------------------

# viewer, row, day, watch_ms: days from 20 on test
LOG = [
    ("a", 0, 1, 9), ("a", 1, 14, 9), ("a", 1, 21, 9), ("a", 2, 22, 9), ("a", 2, 22, 9), ("a", 3, 23, 0),
    ("b", 2, 2, 9), ("b", 2, 13, 9), ("c", 0, 20, 9), ("c", 4, 25, 9), ("d", 0, 1, 9), ("d", 0, 24, 9), ("a", -1, 24, 9),
]  # fmt: skip


def window(days: float = 7.0) -> HeldOutWindow:
    frame = pl.DataFrame(LOG, schema=["user_id", "row", "at", "watch_ms"], orient="row").with_columns(
        time_ms=pl.col("at") * DAY_MS
    )
    split = np.where(frame["at"].to_numpy() >= 20, 2, 0)
    return HeldOutWindow.of(frame, frame["row"].to_numpy(), split, videos=6, days=days)


def test_a_viewer_is_to_be_given_what_they_watch_for_the_first_time_in_the_test_days():
    found = window()
    assert found.start_ms == 20 * DAY_MS
    assert {viewer: rows.tolist() for viewer, rows in found.wanted.items()} == {"a": [2], "c": [0, 4]}  # d watched 0 before
    assert found.seen["a"].tolist() == [0, 1]
    assert found.known.tolist() == [True, True, True, False, False, False]


def test_the_warm_part_has_viewers_and_videos_that_were_there_before():
    assert {viewer: rows.tolist() for viewer, rows in window().warm().items()} == {"a": [2]}


@pytest.mark.parametrize(("days", "recent"), [(7.0, [0, 1, 1, 0, 0, 0]), (30.0, [2, 1, 2, 0, 0, 0]), (6.0, [0, 1, 0, 0, 0, 0])])
def test_recent_popularity_counts_the_days_before_the_test_days(days, recent):
    assert window(days).recent.tolist() == recent


def test_a_log_without_test_days_is_refused():
    frame = pl.DataFrame({"user_id": ["a"], "time_ms": [1], "watch_ms": [5], "day": [date(2020, 1, 1)]})
    with pytest.raises(DataError, match=r"0 watches in the test days and 1 before them.*data.split.test_days"):
        HeldOutWindow.of(frame, np.zeros(1, np.int64), np.zeros(1), videos=1, days=7)


def test_seen_videos_make_room_for_later_ones_and_short_lists_are_padded():
    assert first_unseen(np.array([5, 1, 4, 2]), np.array([1, 2]), 3).tolist() == [5, 4, -1]
    assert first_unseen(np.array([5, 1, 4, 2]), np.array([5]), 2).tolist() == [1, 4]


def test_figures_of_two_viewers_by_hand():
    lists = {"a": np.array([3, 0, *[-1] * 8]), "b": np.array([3, 5, *range(20, 28)]), "c": np.array([9, *[-1] * 9])}
    known = np.arange(60) < 25
    found = figures(lists, {"a": np.array([0, 1]), "b": np.array([7])}, known)
    second, ideal = 1 / np.log2(3), 1 + 1 / np.log2(3)
    assert found["recall@10"] == pytest.approx((0.5 + 0) / 2)
    assert found["hit@10"] == 0.5
    assert found["ndcg@10"] == pytest.approx(second / ideal / 2)
    assert found["ndcg@10_of_10"] == pytest.approx(second / (1 / np.log2(np.arange(2, 12))).sum() / 2)
    assert found["coverage@10"] == 8 / 25  # 0, 3, 5 and 20 to 24; 25 to 27 are new, and c is not asked for


def test_words_are_overrides_wherever_they_stand():
    options = options_of(["seed=1", "--popular-days", "3", "data=sample"])
    assert (options.popular_days, options.overrides) == (3.0, ["seed=1", "data=sample"])
    assert options_of([]).overrides == ["data=movielens"]

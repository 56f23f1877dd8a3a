"""The trade-off curve, by hand and against a slow loop."""

import math
from itertools import permutations

import numpy as np
import pytest

from watchnext.ranking.analysis.report_plots import trade_off_plot
from watchnext.ranking.analysis.trade_off import efficient, markdown, mean_of_top, trade_off, weightings
from watchnext.reranking.value import Value


def test_mean_of_top_is_the_mean_over_all_orders_of_ties():
    random = np.random.default_rng(0)
    outcomes, values = random.random(60), random.integers(0, 3, 60).astype(float)
    groups = random.permutation(np.repeat(np.arange(12), 5))
    values[:5] = np.nan
    for k in (1, 3, 50):
        taken = []
        for group in range(12):
            orders = permutations(np.flatnonzero(groups == group))
            ranked = (sorted(order, key=lambda row: -np.nan_to_num(values[row], nan=-1.0)) for order in orders)
            taken.append(np.mean([outcomes[order[:k]] for order in ranked]))
        assert mean_of_top(outcomes, values, groups, k=k) == pytest.approx(np.mean(taken))
    assert math.isnan(mean_of_top(np.empty(0), np.empty(0), np.empty(0), k=3))


def test_weights_move_and_their_sum_stays():
    found = weightings({"click": 0.2, "like": 0.5, "watch_s": 0.3}, first="watch_s", second="like", steps=3)
    assert [share for share, _ in found] == [0.0, 0.5, 1.0]
    assert [moved["watch_s"] for _, moved in found] == pytest.approx([0.0, 0.4, 0.8])
    assert [moved["like"] for _, moved in found] == pytest.approx([0.8, 0.4, 0.0])
    assert all(moved["click"] == 0.2 for _, moved in found)


def test_efficient_points_by_hand():
    figures = np.array([[1.0, 9.0], [2.0, 8.0], [2.0, 8.0], [2.0, 7.0], [0.5, 9.0], [3.0, np.nan]])
    assert efficient(figures).tolist() == [True, True, True, False, False, False]


def test_the_curve_of_two_heads_that_disagree(tmp_path):
    """Long watches and likes are of different videos: more weight on one gives more of it and less of the other."""
    random = np.random.default_rng(1)
    requests, taste = np.repeat(np.arange(200), 20), random.random(4000)
    predictions = np.stack([np.full(4000, 0.5), np.full(4000, 0.5), 1 - taste, 120 * taste], 1)
    liked, watched = random.random(4000) < 1 - taste, 120 * taste * random.random(4000)
    points = trade_off(
        lambda weights: Value(weights=weights).of(predictions),
        weights={"like": 0.5, "watch_s": 0.5, "click": 0.1},
        first="watch_s",
        second="like",
        metrics={
            "watch_s@5": lambda values: mean_of_top(watched, values, requests, k=5),
            "like@5": lambda values: mean_of_top(liked, values, requests, k=5),
        },
        steps=5,
    )
    assert points[0].metrics["like@5"] > points[-1].metrics["like@5"] + 0.5
    assert points[-1].metrics["watch_s@5"] > points[0].metrics["watch_s@5"] + 30
    assert points[0].efficient
    assert points[-1].efficient
    table = markdown(points).splitlines()
    assert table[0] == "| share | watch_s@5 | like@5 | |"
    assert len(table) == 2 + 5
    trade_off_plot(points, tmp_path / "trade_off.png")
    assert (tmp_path / "trade_off.png").read_bytes().startswith(b"\x89PNG")


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="weights of 'like' and 'click' sum to 0"):
        weightings({"watch_s": 1.0}, first="like", second="click", steps=3)
    with pytest.raises(ValueError, match="needs two heads and 2 steps, got 'like', 'like' and 3"):
        weightings({"like": 1.0}, first="like", second="like", steps=3)
    with pytest.raises(ValueError, match="between two metrics, got none"):
        trade_off(lambda weights: np.zeros(1), weights={"like": 1.0}, first="like", second="click", metrics={})

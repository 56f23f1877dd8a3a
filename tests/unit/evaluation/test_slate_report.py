"""Slates measured request by request, and two recommenders in pairs, by hand and by brute force."""

from types import SimpleNamespace

import numpy as np
import pytest

from watchnext import metrics
from watchnext.evaluation.comparison.paired import NOISE, areas_apart, noise_floors, paired
from watchnext.evaluation.replay.rule_check import Broken
from watchnext.evaluation.report.slate_report import slate_columns, slate_report, whole_figures, with_intervals


class Facts(SimpleNamespace):
    """Four videos: the first two are copies of a creator, uploaded at 0 h, the others at 50 h."""

    def __len__(self):
        return 4


@pytest.fixture
def facts() -> Facts:
    return Facts(
        upload_ms=np.array([0, 0, 50, 50]) * 3_600_000,
        vectors=np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], np.float32),
        fingerprints=np.array([5, 5, 0, 0]),
        creator_rows=np.array([0, 0, 1, -1]),
    )


POPULARITY = np.array([6, 1, 1, 0])


def request(funnel, slate, watched, long_view, user=1, rules=Broken({}, {}), costs=None):  # noqa: B008
    stages, baselines = {"slate": np.array(slate)}, {"popular": np.array([0, 1]), "random": np.array([3, 1])}
    return funnel(
        watched, long_view, as_of_ms=60 * 3_600_000, user_id=user, stages=stages, baselines=baselines, rules=rules,
        costs=costs or {},
    )  # fmt: skip


def test_columns_by_hand(funnel, facts):
    traces = [request(funnel, [0, 2], [0, 2], [1, 1]), request(funnel, [1, 0], [3], [0])]
    slates = [trace.stages["slate"] for trace in traces]
    columns = slate_columns(traces, slates, [trace.relevant for trace in traces], facts=facts, popularity=POPULARITY, k=2)
    assert columns["recall@2"][0] == 1.0
    assert np.isnan(columns["recall@2"][1])
    assert columns["serendipity"][0] == 0.5  # video 0 is popular
    assert columns["intra_list_distance"].tolist() == pytest.approx([1.0, 0.0])
    assert columns["fresh"].tolist() == [0.5, 0.0]
    assert columns["duplicates"].tolist() == [0.0, 1.0]
    assert columns["popularity_lift"].tolist() == pytest.approx([3.5 / 1.75 - 1, 3.5 / 1.75 - 1])
    assert columns["novelty_bits"][0] == pytest.approx((-np.log2(7 / 12) - np.log2(2 / 12)) / 2)
    beyond = slate_columns(traces, slates, [np.array([0, 4]), np.array([4])], facts=facts, popularity=POPULARITY, k=2)
    assert beyond["recall@2"].tolist() == [0.5, 0.0]  # a relevant video that the catalogue lacks


def test_whole_figures_by_hand(facts):
    found = whole_figures([np.array([0, 2]), np.array([0, 1])], facts)
    assert found == {"coverage": 0.75, "gini": pytest.approx(metrics.gini([2, 1, 1, 0])), "creator_gini": metrics.gini([3, 1])}


def test_a_report_names_broken_rules_and_bent_caps_apart(funnel, facts):
    lost = [{"diversity": 0.25}, {"diversity": 0.75, "safety": 0.5}, {}]  # nothing is known of the last
    rules = Broken({"safety": 1, "seen": 0}, {"creator_cap": 2})
    traces = [request(funnel, [0, 2], [0, 2], [1, 1], user, rules, lost[user]) for user in range(3)]
    report = slate_report(traces, facts=facts, popularity=POPULARITY, k=2, seed=0)
    assert report["broken"] == {"safety": 3, "seen": 0}
    assert report["costs"] == {"diversity": 0.5, "safety": 0.25}
    assert report["bent"] == {"creator_cap": 6}
    assert report["figures"]["recall@2"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert report["gain"]["popular"]["mean"] == 0.5
    assert report["gain"]["random"]["mean"] == 1.0
    assert slate_report([], facts=facts, popularity=POPULARITY, k=2, seed=0) == {}


def test_weighted_means_and_intervals_are_those_of_a_slow_bootstrap():
    random = np.random.default_rng(5)
    viewers, values, weights = random.integers(0, 12, 60), random.normal(size=60), random.random(60)
    values[::7] = np.nan
    known = ~np.isnan(values)
    found = with_intervals({"x": values}, viewers, 3, weights=weights)["x"]
    assert found["mean"] == pytest.approx(np.average(values[known], weights=weights[known]))
    draws, means = np.random.default_rng(3), []
    for drawn in draws.integers(12, size=(1000, 12)):
        rows = np.concatenate([np.flatnonzero((viewers == viewer) & known) for viewer in drawn])
        means.append(np.average(values[rows], weights=weights[rows]))
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_a_difference_must_leave_both_its_interval_and_the_floor():
    viewers = np.arange(200).astype(str)
    random = np.random.default_rng(0)
    base = random.random(200)
    better = {"recall": base + 0.1 + 0.01 * random.normal(size=200), "ndcg": base + random.normal(size=200)}
    other = {"recall": base, "ndcg": base}
    report = paired(better, other, viewers, seed=0, floors={"recall": 0.05})
    assert (report["recall"]["verdict"], report["ndcg"]["verdict"]) == ("higher", NOISE)
    assert report["recall"]["difference"] == pytest.approx(0.1, abs=0.01)
    assert paired(other, better, viewers, seed=0, floors={})["recall"]["verdict"] == "lower"
    assert paired(better, other, viewers, seed=0, floors={"recall": 0.2})["recall"]["verdict"] == NOISE


def test_a_request_without_a_figure_on_one_side_counts_on_neither():
    one, other = np.array([1.0, np.nan, 0.0, 1.0]), np.array([0.0, 1.0, np.nan, 1.0])
    found = paired({"x": one}, {"x": other}, np.arange(4), seed=0, floors={})["x"]
    assert (found["mean"]["mean"], found["other"]["mean"], found["difference"]) == (1.0, 0.5, 0.5)
    nothing = paired({"x": one * np.nan}, {"x": other}, np.arange(4), seed=0, floors={})["x"]
    assert np.isnan(nothing["difference"])
    assert nothing["verdict"] == NOISE


def test_the_floor_is_what_exploration_alone_may_do():
    viewers = np.arange(50)
    served = {"recall": np.zeros(50), "fresh": np.zeros(50)}
    redrawn = {"recall": np.tile([0.2, -0.2], 25), "fresh": np.zeros(50)}
    floors = noise_floors(served, [redrawn], viewers, 0)
    low, high = metrics.interval(redrawn["recall"], seed=0, viewers=viewers)
    assert floors == {"recall": pytest.approx(max(-low, high)), "fresh": 0.0}
    assert floors["recall"] > 0.02
    retrained = {"recall": np.full(50, 0.3), "fresh": np.full(50, -0.1)}
    assert noise_floors(served, [redrawn, retrained], viewers, 0) == pytest.approx({"recall": 0.3, "fresh": 0.1})
    unknown = {"recall": np.full(50, np.nan)}
    assert noise_floors(unknown, [unknown], viewers, 0) == {"recall": 0.0}  # a slice in which nobody has the figure


def test_areas_of_viewers_average_to_gauc():
    random = np.random.default_rng(1)
    labels, users, scores = random.integers(0, 2, 300), random.integers(0, 30, 300), random.random((2, 300))
    areas, viewers, positives = areas_apart(labels, scores, users)
    for each, score in zip(areas, scores, strict=True):
        assert np.average(each, weights=positives) == pytest.approx(metrics.gauc(labels, score, users))
    assert set(viewers) <= set(users)

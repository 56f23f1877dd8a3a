"""The retrieval report against loops over its definition, on random funnels in random order."""

import json
import math
import re

import numpy as np
import polars as pl
import pytest

from watchnext.evaluation.report.report_text import table
from watchnext.evaluation.report.retrieval_plot import retrieval_plot
from watchnext.evaluation.report.retrieval_report import popularity_of, ranks, retrieval_metrics
from watchnext.features.catalogue import Ids
from watchnext.metrics import rounded

VIDEOS = 60


@pytest.fixture(scope="module")
def funnels(funnel):
    random = np.random.default_rng(4)

    def one(request: int):
        watched = np.sort(random.choice(VIDEOS, random.integers(0, 9), replace=False))
        lists = {name: random.permutation(VIDEOS)[:size] for name, size in (("two_tower", 12), ("popular", 20), ("silent", 0))}
        return funnel(
            watched,
            random.random(len(watched)) < 0.4,
            user_id=request % 7,
            watches=int(random.choice([0, 3, 19, 20])),
            age_h=random.choice([3.0, 24.0, 900.0, math.nan], len(watched)),
            stages={"retrieval": random.permutation(VIDEOS)[:9], "slate": random.permutation(VIDEOS)[:4]},
            merged=random.permutation(VIDEOS)[:15],
            sources=lists,
            baselines={"random": random.permutation(VIDEOS)[:20]},
        )

    return [one(request) for request in range(40)]


@pytest.fixture(scope="module")
def report(funnels):
    return retrieval_metrics(funnels, k=[5, 15], popularity=np.arange(VIDEOS), seed=0)


def slow_recall(funnels, ranked, k, keeps):
    """Mean over requests of hits over wanted; `keeps` says of a funnel and a place in its watched whether it counts."""
    shares = []
    for each, rows in zip(funnels, ranked, strict=True):
        wanted = [row for place, row in enumerate(each.watched) if keeps(each, place)]
        if wanted:
            shares.append(np.mean([row in rows[:k].tolist() for row in wanted]))
    return np.mean(shares) if shares else math.nan


SLICES = {
    ("outcome", "watched"): lambda f, i: True,
    ("outcome", "long_view"): lambda f, i: f.long_view[i],
    ("video_age", "under 24 h"): lambda f, i: f.age_h[i] < 24,
    ("video_age", "24 to 168 h"): lambda f, i: 24 <= f.age_h[i] < 168,
    ("video_age", "168 h and more"): lambda f, i: f.age_h[i] >= 168,
    ("video_age", "unknown"): lambda f, i: math.isnan(f.age_h[i]),
    ("activity", "under 1 watches"): lambda f, i: f.watches == 0,
    ("activity", "1 to 5 watches"): lambda f, i: 1 <= f.watches < 5,
    ("activity", "5 to 20 watches"): lambda f, i: 5 <= f.watches < 20,
    ("activity", "20 watches and more"): lambda f, i: f.watches >= 20,
}


@pytest.mark.parametrize("k", [5, 15])
def test_recall_of_every_list_and_slice_is_that_of_a_loop(funnels, report, k):
    lists = {
        "merged": (report["merged"], [f.merged for f in funnels]),
        "popular": (report["sources"]["popular"], [f.sources["popular"] for f in funnels]),
        "silent": (report["sources"]["silent"], [f.sources["silent"] for f in funnels]),
        "random": (report["floors"]["random"], [f.baselines["random"] for f in funnels]),
    }
    for entry, ranked in lists.values():
        assert {(part, value) for part, of in entry[f"recall@{k}"].items() for value in of} == set(SLICES)
        for (part, value), keeps in SLICES.items():
            assert entry[f"recall@{k}"][part][value] == pytest.approx(slow_recall(funnels, ranked, k, keeps))
    assert report["sources"]["silent"][f"recall@{k}"]["outcome"]["watched"] == 0


def test_the_served_lists_are_counted_whole(funnels, report):
    expected = slow_recall(funnels, [f.stages["slate"] for f in funnels], 4, SLICES["outcome", "watched"])
    assert report["slate"]["recall"]["outcome"]["watched"] == pytest.approx(expected)
    assert report["slate"]["candidates"] == 4


def test_every_watched_video_is_in_one_value_of_a_slice(funnels, report):
    watched = sum(len(f.watched) for f in funnels)
    assert report["relevant"]["outcome"] == {"watched": watched, "long_view": sum(int(f.long_view.sum()) for f in funnels)}
    assert sum(report["relevant"]["video_age"].values()) == sum(report["relevant"]["activity"].values()) == watched


def test_the_order_of_requests_changes_nothing_but_the_draws(funnels, report):
    shuffled = retrieval_metrics(
        [funnels[i] for i in np.random.default_rng(1).permutation(len(funnels))],
        k=[5, 15], popularity=np.arange(VIDEOS), seed=0,
    )  # fmt: skip
    assert rounded({**shuffled, "gain": {}}, 9) == rounded({**report, "gain": {}}, 9)
    assert shuffled["gain"]["recall@15"] == pytest.approx(report["gain"]["recall@15"])


def test_the_gain_is_over_the_best_list_without_a_model(report):
    untrained = {"sources/popular": report["sources"]["popular"], "floors/random": report["floors"]["random"]}
    for depth in ("recall@5", "recall@15"):
        best = max(untrained, key=lambda name: untrained[name][depth]["outcome"]["watched"])
        gain = report["gain"][depth]
        assert gain["over"] == best
        expected = report["merged"][depth]["outcome"]["watched"] - untrained[best][depth]["outcome"]["watched"]
        assert gain["mean"] == pytest.approx(expected)
        assert gain["low"] < gain["mean"] < gain["high"]


def test_places_are_those_of_a_search():
    random = np.random.default_rng(0)
    ranked, wanted = random.permutation(50)[:20], random.permutation(50)
    expected = [ranked.tolist().index(row) if row in ranked else np.iinfo(np.int64).max for row in wanted]
    assert ranks(ranked, wanted).tolist() == expected
    assert (ranks(ranked[:0], wanted) == np.iinfo(np.int64).max).all()


def test_popularity_counts_watches_of_the_catalogue():
    log = pl.DataFrame({"video_id": ["b", "a", "b", "x", "a"], "watch_ms": [10, 0, 5, 7, 1]})
    assert popularity_of(log, Ids(np.array([b"a", b"b", b"c"]))).tolist() == [1, 2, 0]


def whole(retrieval: dict) -> dict:
    lost = dict.fromkeys(("retrieval", "filters", "ranking", "re-ranking", "shown"), 0.2)
    return {
        "regime": "streaming",
        "requests": 1,
        "impressions": 1,
        "funnel": {},
        "lost": lost,
        "losses": {},
        "slate": {},
        "ranking": {},
        "retrieval": retrieval,
    }


def test_a_slice_without_videos_is_null_and_can_be_printed_and_drawn(funnel, tmp_path):
    only_old = funnel(
        [1, 2],
        age_h=np.array([900.0, 901.0]),
        stages={"retrieval": np.array([1]), "slate": np.array([], np.int64)},
        merged=np.array([2, 1]),
        sources={"two_tower": np.array([1]), "popular": np.array([2])},
        baselines={"random": np.array([3])},
    )
    found = retrieval_metrics([only_old], k=[5], popularity=np.zeros(VIDEOS), seed=0)
    assert math.isnan(found["merged"]["recall@5"]["video_age"]["under 24 h"])
    assert math.isnan(found["merged"]["popularity_lift"])  # nothing that was watched was known before
    merged = next(line for line in table(whole(found)).splitlines() if line.startswith("  merged "))
    assert merged.split()[1:4] == ["1.0000", "1.0000", "–"]  # watched, watched long, under 24 h
    written = rounded(found, 6)
    assert json.loads(json.dumps(written, allow_nan=False))["merged"]["recall@5"]["video_age"]["under 24 h"] is None
    retrieval_plot(written, tmp_path / "retrieval.png")
    assert (tmp_path / "retrieval.png").read_bytes().startswith(b"\x89PNG")


def test_no_name_and_no_figure_runs_into_the_next(funnel):
    source, many = "a_source_with_a_name_of_forty_characters", 123_456_789
    stages = {"retrieval": np.array([1]), "slate": np.array([1])}
    one = funnel(
        [1, 2], stages=stages, merged=np.array([2, 1]), sources={source: np.array([1])}, baselines={"random": np.array([2])}
    )
    found = retrieval_metrics([one], k=[5, 15], popularity=np.ones(VIDEOS), seed=0)
    found["relevant"]["outcome"]["watched"] = many
    report = whole(found) | {"funnel": {"a_stage_with_a_long_name": {"recall@5": 0.5, "coverage": 0.25}}}
    report["ranking"] = {"frozen": {"long_view_of_somebody": {"auc": 0.5}}}
    lines = table(report).splitlines()
    cells = {line.split()[0]: re.split(" {2,}", line.strip()) for line in lines}
    assert cells["a_stage_with_a_long_name"] == ["a_stage_with_a_long_name", "0.5000", "0.250"]
    assert cells["videos"][:3] == ["videos watched", "123,456,789", "123,456,789"]
    assert cells["long_view_of_somebody"] == ["long_view_of_somebody", "auc 0.5000"]
    of_source, merged = (next(line for line in lines if name in line) for name in (source, "merged"))
    assert len(re.split(" {2,}", of_source.strip())) == len(re.split(" {2,}", merged.strip())) > 5


def test_the_order_inside_requests_stands_under_both_weights():
    names = [f"{name}_request{weight}" for name in ("gauc", "ndcg@5", "mrr") for weight in ("", "_by_impressions")]
    click = {"auc": 0.5, "groups_request": 12} | {name: i / 10 for i, name in enumerate(names)}
    like = {"auc": 0.5, "groups_request": 0} | dict.fromkeys(names, math.nan)
    lines = table(whole({}) | {"ranking": {"request": {"click": click, "like": like, "watch_s": {"xauc": 0.5}}}}).splitlines()
    rows = [re.split(" {2,}", line.strip()) for line in lines]
    assert ["click", "auc 0.5000"] in rows
    assert ["click", "12", "0.0000", "0.1000", "0.2000", "0.3000", "0.4000", "0.5000"] in rows
    assert ["like", "0", *["–"] * 6] in rows


def test_nobody_followed_or_nothing_watched_is_said(funnels, tmp_path):
    assert retrieval_metrics([], k=[5], popularity=np.zeros(VIDEOS), seed=0) == {}
    assert "retrieval of" not in table(whole({}))
    idle = retrieval_metrics([f for f in funnels if not len(f.watched)], k=[5], popularity=np.ones(VIDEOS), seed=0)
    assert math.isnan(idle["merged"]["recall@5"]["outcome"]["watched"])
    assert idle["gain"] == {"recall@5": {}}
    assert "nan" not in table(whole(idle))
    retrieval_plot(rounded(idle, 6), tmp_path / "retrieval.png")
    assert (tmp_path / "retrieval.png").stat().st_size > 1000


def test_the_gain_of_one_viewer_has_no_interval(funnels):
    one = [each for each in funnels if each.user_id == 3]
    found = retrieval_metrics(one, k=[5], popularity=np.ones(VIDEOS), seed=0)
    gain = found["gain"]["recall@5"]
    assert math.isfinite(gain["mean"])
    assert math.isnan(gain["low"])
    assert f"{gain['mean']:+.4f}, 95% – to –" in table(whole(found))

"""Guards one by one, and who decides: guards before replay, replay before live traffic, live traffic alone for a win."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from watchnext.evaluation.experiment.relative import UNKNOWN
from watchnext.lifecycle.promotion.live_result import LiveResult
from watchnext.lifecycle.promotion.promotion_decision import decide, guards
from watchnext.lifecycle.promotion.promotion_report import markdown, page
from watchnext.lifecycle.promotion.replay_comparison import ReplayComparison
from watchnext.sequential import Spread

LIMITS = {
    "calibration": 0.02, "coverage": 0.8, "diversity": 0.9, "latency": 1.5, "skew": 0, "index_recall": 0.95, "size": 1.5,
    "broken": 0, "slice": 0.05,
}  # fmt: skip


def figure(difference: float = 0.0, verdict: str = "within noise", half: float = 0.02) -> dict:
    sides = {side: {"mean": 0.5 + add, "low": 0.4, "high": 0.6} for side, add in (("mean", difference), ("other", 0.0))}
    ends = {"difference": difference, "low": difference - half, "high": difference + half, "floor": 0.01}
    return {**sides, **ends, "verdict": verdict}


EVEN = ReplayComparison(
    replayed=("new", "old"),
    compared={},
    slices={"home": {"requests": 50, **figure()}},
    calibration={"click": (0.03, 0.02)},
    measures={
        "coverage": (0.4, 0.41), "diversity": (0.5, 0.5), "broken": (0.0, 3.0), "latency": (12.0, 10.0),
        "index_recall": (0.99, 1.0), "size": (1e6, 1e6), "skew": (0.0, 0.0),
    },
)  # fmt: skip
WORSE = {
    "coverage": (0.3, 0.41), "diversity": (0.4, 0.5), "broken": (1.0, 3.0), "latency": (16.0, 10.0),
    "index_recall": (0.94, 0.94), "size": (2e6, 1e6), "skew": (1.0, 0.0),
}  # fmt: skip


def broken(comparison: ReplayComparison) -> list[str]:
    return [each.name for each in guards(comparison, LIMITS) if each.broken]


def test_a_candidate_within_all_limits_breaks_no_guard():
    assert broken(EVEN) == []
    assert len(guards(EVEN, LIMITS)) == len(EVEN.measures) + 2


@pytest.mark.parametrize("name", WORSE)
def test_each_measure_has_a_guard(name):
    assert broken(replace(EVEN, measures={**EVEN.measures, name: WORSE[name]})) == [name]


def test_calibration_and_slices_have_guards_and_noise_breaks_none():
    assert broken(replace(EVEN, calibration={"click": (0.05, 0.02)})) == ["calibration of click"]
    assert broken(replace(EVEN, slices={"home": figure(-0.1, "lower")})) == ["slice home"]
    assert broken(replace(EVEN, slices={"home": figure(-0.1)})) == []
    assert broken(replace(EVEN, slices={"home": figure(-0.01, "lower")})) == []


NAN = float("nan")


@pytest.mark.parametrize("name", ["coverage", "diversity", "latency", "size"])
def test_a_measure_that_the_candidate_alone_lacks_breaks_its_guard(name):
    def of(own: float, other: float) -> list[str]:
        return broken(replace(EVEN, measures={**EVEN.measures, name: (own, other)}))

    assert (of(NAN, 0.5), of(NAN, NAN), of(0.5, NAN)) == ([name], [], [])


def test_a_calibration_that_the_candidate_alone_lacks_breaks_its_guard():
    found = [broken(replace(EVEN, calibration={"click": each})) for each in ((NAN, 0.02), (NAN, NAN), (0.02, NAN))]
    assert found == [["calibration of click"], [], []]


def live(low: float, high: float) -> LiveResult:
    return LiveResult("canary", Spread((low + high) / 2, low, high), (50, 1000), 9_000)


@pytest.mark.parametrize(
    ("replayed", "traffic", "verdict", "says"),
    [
        (figure(), None, "shortlisted", "no live traffic"),
        (figure(0.2, "higher"), None, "shortlisted", "no live traffic"),  # replay promotes nobody
        (figure(), live(0.0004, 0.001), "promoted", "won"),  # a win of any size
        (figure(), live(0.01, 0.05), "promoted", r"seconds \+3.0% \[\+1.0%, \+5.0%\], won"),
        (figure(0.2, "higher"), live(-0.01, 0.05), "kept", "a tie keeps the champion"),
        (figure(0.2, "higher"), live(-0.05, -0.01), "rejected", "lost"),
        (
            figure(),
            replace(live(0, 0), relative=UNKNOWN),
            "shortlisted",
            "fewer than 100 viewers of a release watched anything",
        ),
        (figure(-0.1, "lower"), live(0.01, 0.05), "rejected", "clearly worse than the champion"),
        (figure(-0.004, "lower"), live(0.01, 0.05), "promoted", "won"),  # less than counts
    ],
)
def test_live_traffic_must_be_won_and_replay_may_only_reject(replayed, traffic, verdict, says):
    found = decide(replayed, guards(EVEN, LIMITS), traffic, least=0.01)
    assert found.verdict == verdict
    assert found.serves == (verdict == "promoted")
    assert re.search(says, found.reason), found.reason


def test_a_broken_guard_rejects_whatever_was_won():
    checked = guards(replace(EVEN, measures={**EVEN.measures, "latency": (16.0, 10.0)}), LIMITS)
    found = decide(figure(0.2, "higher"), checked, live(0.01, 0.05), least=0.01)
    assert (found.verdict, found.serves) == ("rejected", False)
    assert "latency is 16 beside 10, expected at most 1.5 times the champion's" in found.reason


def test_a_canary_that_ended_rejects():
    found = decide(figure(), guards(EVEN, LIMITS), replace(live(0.01, 0.05), ended="errors: .2 beside .01"), least=0.01)
    assert found.verdict == "rejected"
    assert "its canary ended: errors: .2" in found.reason


def test_the_limits_are_those_of_the_configuration():
    text = (Path(__file__).resolve().parents[3] / "conf" / "config.yaml").read_text()
    assert yaml.safe_load(text)["promotion"]["guards"].keys() == LIMITS.keys()


def test_the_report_is_rendered_twice_and_escapes_what_it_quotes():
    checked = [vars(each) for each in guards(EVEN, LIMITS)]
    who = {"candidate": "new<b>", "champion": "old", "replayed": ["new", "old"], "requests": 1234}
    said = {"verdict": "kept", "reason": "a <script> of a tie", "live": live(-0.01, 0.03).report()}
    report = {**who, **said, "guards": checked, "slate": {"recall@20": figure()}, "slices": EVEN.slices}
    text, html = markdown(report), page(report)
    for each in (text, html):
        for words in ("1,234 requests", "+1.00%", "index_recall", "recall@20", "home", "at most 1.5 times"):
            assert words in each, words
    assert "| latency | 12 | 10 | at most 1.5 times the champion's | kept |" in text
    assert "<script>" not in html
    assert "new<b>" not in html
    bare = {"candidate": "first", "champion": None, "verdict": "promoted", "reason": "none serves"}
    assert "Champion: none." in markdown(bare)
    assert "<table>" not in page(bare)

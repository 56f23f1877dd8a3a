"""Where watches are lost, by hand."""

import re

import numpy as np
import pytest

from watchnext.evaluation.report.bars import bar, stacked
from watchnext.evaluation.report.losses import RANKS, REASONS, loss_report, loss_rows, reasons, survivors
from watchnext.serving.funnel.explanation.trace import LOST_AT, VideoTraces
from watchnext.types import SOURCES

# name, the end in the served trace, its rule, the sources that list it > (rank, within the quota), rank by value
WATCHES = [
    ("barred", "retrieval", "seen", {}, 0),
    ("no source", "retrieval", None, {}, 0),
    ("beyond quota", "retrieval", None, {"fresh": (90, False), "related": (70, False)}, 0),
    ("merge", "retrieval", None, {"fresh": (9, True), "related": (70, False)}, 0),
    ("filters", "filters", "duplicate", {"fresh": (2, True)}, 7),
    ("ranking", "ranking", None, {"two_tower": (2, True)}, 101),
    ("cap", "re-ranking", "creator_cap", {"two_tower": (1, True), "fresh": (1, True)}, 3),
    ("diversity", "re-ranking", None, {"two_tower": (4, True)}, 4),
    ("shown", "shown", None, {"two_tower": (3, True)}, 1),
]


@pytest.fixture
def traced(funnel):
    """One request of a viewer on the surface home, after which all of WATCHES are watched, the last three long."""
    listed, proposed = np.zeros((2, len(WATCHES), len(SOURCES)), np.int64)
    for at, (_, _, _, sources, _) in enumerate(WATCHES):
        for name, (rank, within) in sources.items():
            listed[at, SOURCES.index(name)], proposed[at, SOURCES.index(name)] = rank, within
    ends = np.array([LOST_AT.index(end) for _, end, *_ in WATCHES])
    ranks = np.array([rank for *_, rank in WATCHES])
    ways = VideoTraces(ends, np.where(ends > 0, 0, -1), ranks, (ends == 4) * 1, [rule for _, _, rule, *_ in WATCHES])
    long_view = np.arange(len(WATCHES)) >= len(WATCHES) - 3
    return funnel(np.arange(len(WATCHES)), long_view, ways=ways, listed=listed, proposed=proposed > 0, surface="home")


def test_every_watch_has_its_reason(traced):
    assert [list(REASONS)[end] for end in reasons(traced)] == [name for name, *_ in WATCHES]


def test_losses_are_counted_by_slice_rule_source_and_rank(traced, funnel):
    other = funnel([7], surface=None, ends=[0], age_h=np.array([30.0]), watches=50)
    report = loss_report([traced, other])
    slices = report["slices"]
    assert slices["outcome"]["watched"] == pytest.approx({"watches": 10} | dict.fromkeys(REASONS, 0.1) | {"no source": 0.2})
    long = dict.fromkeys(REASONS, 0.0) | dict.fromkeys(("cap", "diversity", "shown", "no source"), 0.25)
    assert slices["outcome"]["long_view"] == pytest.approx({"watches": 4} | long)
    assert {name: each["watches"] for name, each in slices["surface"].items()} == {"home": 9, "none": 1}
    assert slices["video_age"]["24 to 168 h"]["no source"] == 1.0
    assert slices["activity"]["20 watches and more"]["watches"] == 1
    assert report["rules"] == {
        "creator_cap": {"cap": pytest.approx(0.1)},
        "duplicate": {"filters": pytest.approx(0.1)},
        "seen": {"barred": pytest.approx(0.1)},
    }
    assert report["sources"]["fresh"] == pytest.approx({"proposed": 0.3, "beyond quota": 0.1, "missed": 0.6, "alone": 0.2})
    assert report["sources"]["two_tower"] == pytest.approx({"proposed": 0.4, "beyond quota": 0.0, "missed": 0.6, "alone": 0.3})
    assert report["ranks"] == pytest.approx(dict.fromkeys(RANKS, 0.0) | {"101 to 200": 0.1})
    rows = loss_rows(report)
    assert {"slice": "surface: home", "reason": "merge", "share": pytest.approx(1 / 9)} in rows
    assert not [row for row in rows if row["slice"] == "video_age: unknown"]  # nobody watched one


def test_what_reaches_a_step_is_what_was_not_lost_before(traced):
    reached = survivors(loss_report([traced])["slices"]["outcome"]["watched"])
    assert [round(9 * share) for share in reached.values()] == [9, 8, 7, 6, 5, 4, 3, 1]
    assert list(reached)[-1] == "shown"


def test_nothing_watched_is_no_loss(funnel):
    assert loss_report([]) == loss_report([funnel([])]) == {}
    assert loss_rows({}) == []


def test_bars_are_as_long_as_their_shares():
    drawn = stacked({"a<": 0.25, "b": None, "c": 0.5}, {"a<": "#111111", "b": "#222222", "c": "#333333"})
    widths = re.findall(r'<rect x="([\d.]+)" width="([\d.]+)" height="10" fill="(#\d+)"><title>([^<]+)', drawn)
    assert widths == [("0.00", "25.00", "#111111", "a&lt;: 25.0%"), ("25.00", "50.00", "#333333", "c: 50.0%")]
    assert "<rect" not in bar(None, "#111111", "none")

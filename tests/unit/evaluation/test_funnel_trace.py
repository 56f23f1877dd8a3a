"""Where a watched video is lost, the funnel's recall and the floors' order, by hand and against sorting."""

import math

import numpy as np
import pytest

from watchnext.evaluation.replay.baselines import best
from watchnext.evaluation.replay.funnel_trace import funnel_metrics, loss_shares
from watchnext.serving.funnel.explanation.trace import LOST_AT, VideoTraces
from watchnext.types import TARGETS, Candidates, Scored, Slate


def test_recall_after_each_stage_counts_what_was_watched_long(funnel):
    funnels = [
        funnel([2, 7, 9], [1, 0, 1], stages={"retrieval": np.array([1, 2, 3]), "slate": np.array([2])}),
        funnel([4], stages={"retrieval": np.array([4, 5, 6]), "slate": np.array([4])}),
    ]
    found = funnel_metrics(funnels, [1, 3], catalogue=10)
    assert found["retrieval"]["recall@3"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["retrieval"]["recall@1"] == pytest.approx((0 + 1) / 2)
    assert found["slate"]["recall@1"] == pytest.approx((1 / 2 + 1) / 2)
    assert "recall@3" not in found["slate"]  # nobody got three
    assert found["retrieval"]["coverage"] == pytest.approx(0.6)


def test_nobody_to_follow_gives_no_table():
    assert funnel_metrics([], [10], catalogue=10) == {}
    assert all(math.isnan(value) for value in loss_shares([]).values())


def test_every_watched_video_ends_somewhere():
    """Candidates 10 to 15 by value 15, 14, ..., 10; 15 is seen, 14 above its cap, the slate of two is 13 and, drawn, 10."""
    rows = np.arange(10, 16)
    scored = Scored(Candidates(rows, np.zeros(6, np.uint16), np.zeros(6, np.float32)), np.zeros((6, len(TARGETS))))
    slate = Slate(
        picked=np.array([3, 0]),
        values=np.zeros(2),
        propensities=np.ones(2),
        removed={"seen": np.array([5]), "creator_cap": np.array([4]), "safety": np.array([], np.int64)},
        order=np.array([5, 4, 3, 2, 1, 0]),
    )
    watched = np.array([10, 11, 13, 14, 15, 99])
    traced = VideoTraces.of(watched, scored, slate, filters={"seen", "safety"}, k=2)
    assert [LOST_AT[end] for end in traced.ends] == ["shown", "ranking", "shown", "re-ranking", "filters", "retrieval"]
    assert traced.candidates.tolist() == [0, 1, 3, 4, 5, -1]
    assert traced.value_ranks.tolist() == [6, 5, 3, 2, 1, 0]
    assert traced.positions.tolist() == [2, 0, 1, 0, 0, 0]
    assert traced.rules == [None, None, None, "creator_cap", "seen", None]


def test_nothing_retrieved_is_lost_at_retrieval():
    nothing = Scored(
        Candidates(*(np.zeros(0, kind) for kind in (np.int64, np.uint16, np.float32))), np.zeros((0, len(TARGETS)))
    )
    slate = Slate(picked=np.zeros(0, np.int64), values=np.zeros(0), propensities=np.zeros(0))
    traced = VideoTraces.of(np.array([3, 4]), nothing, slate, filters={"seen"}, k=5)
    assert traced.ends.tolist() == [0, 0]
    assert traced.rules == [None, None]


def test_losses_are_shares_of_what_was_watched_long(funnel):
    found = loss_shares([funnel([1, 2, 3], [1, 1, 0], ends=[0, 4, 1]), funnel([5], ends=[2])])
    assert found == pytest.approx({"retrieval": 1 / 3, "filters": 0, "ranking": 1 / 3, "re-ranking": 0, "shown": 1 / 3})


@pytest.mark.parametrize("k", [1, 7, 40, 200])
def test_the_best_of_a_catalogue_are_those_of_a_sort(k):
    random = np.random.default_rng(k)
    values, allowed = random.integers(0, 6, 120).astype(float), random.random(120) < 0.6
    rows = sorted(np.flatnonzero(allowed), key=lambda row: (-values[row], row))
    assert best(values, allowed, k).tolist() == rows[:k]


def test_a_catalogue_without_allowed_videos_has_no_best():
    assert best(np.ones(3), np.zeros(3, bool), 2).tolist() == []

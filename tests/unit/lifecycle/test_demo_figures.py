"""Figures of the demo by hand: what the shift cost, how much was recovered, and what training takes off the value."""

import numpy as np
import pytest

from watchnext.lifecycle.demo.arms import YARDSTICK, arms_named
from watchnext.lifecycle.demo.demo_figures import demo_figures, verdicts
from watchnext.lifecycle.demo.demo_report import demo_page, demo_plot, table_rows
from watchnext.lifecycle.loop.loop_state import LoopError

STILL = np.full((4, 5), 10.0)
LOOP = STILL - np.array([0.0, 0.0, 5.0, 2.0, 0.5])
DAILY = STILL - np.array([0.0, 0.0, 5.0, 1.0, 0.0])


def one_pass(day: int, *, train_s: float, decision: str = "waits", drift: str = "none") -> dict:
    return {"day": day, "train_s": train_s, "decision": decision, "drift": drift, "drifted": [], "reason": "because"}


PASSES = {
    "loop": [one_pass(2, train_s=0.0), one_pass(3, train_s=2.0, decision="promoted", drift="drift")],
    "daily": [one_pass(day, train_s=2.0, decision="promoted") for day in (1, 2, 3, 4)],
}


def found(**watch_s: np.ndarray) -> dict:
    return demo_figures({YARDSTICK: STILL, **watch_s}, PASSES, shift_day=3, price=1.5, seed=0)


def test_recovery_is_of_what_the_day_of_the_shift_cost():
    figures = found(loop=LOOP, daily=DAILY)
    loop, daily = figures["arms"]["loop"], figures["arms"]["daily"]
    assert figures["judged_day"] == 5
    assert loop["shift_cost_s"] == pytest.approx([5, 5, 5])
    assert loop["left_s"] == pytest.approx([0.5, 0.5, 0.5])
    assert loop["recovered"] == pytest.approx([0.9, 0.9, 0.9])
    assert (loop["trainings"], loop["train_s"], loop["promotions"], loop["drifts"]) == (1, 2.0, [3], [3])
    assert loop["value_s"] == pytest.approx(4 * 42.5 - 3)
    assert loop["cost_s"] == pytest.approx(4 * 7.5 + 3)
    assert daily["train_s"] == 8
    assert set(verdicts(figures).values()) == {True}


def test_a_shift_that_cost_nothing_has_nothing_to_recover():
    figures = found(loop=STILL + 1)
    assert figures["arms"]["loop"]["recovered"] is None
    held = verdicts(figures)
    assert list(held.values()) == [None, None, True]
    assert "is not known" in demo_page({"figures": figures, "passes": PASSES, "seed": 0})


def test_an_arm_that_was_ahead_of_the_yardstick_recovers_what_the_shift_cost_the_untrained_one():
    figures = found(loop=STILL + np.array([0, 0, 2.0, 0, -1.0]), streamed=STILL - np.array([0, 0, 5.0, 4.0, 4.0]))
    assert figures["arms"]["loop"]["shift_cost_s"] == pytest.approx([-2, -2, -2])
    assert figures["arms"]["loop"]["recovered"] == pytest.approx([0.8, 0.8, 0.8])
    assert figures["arms"]["streamed"]["recovered"] == pytest.approx([0.2, 0.2, 0.2])


def test_the_loop_is_judged_by_its_cost_which_watch_time_does_not_hide():
    what = "its cost is within 10% of the best arm's"
    assert verdicts(found(loop=DAILY - 0.5, daily=DAILY))[what]
    figures = found(loop=DAILY - 1.0, daily=DAILY)
    loop, daily = figures["arms"]["loop"], figures["arms"]["daily"]
    assert (loop["cost_s"], daily["cost_s"]) == pytest.approx((4 * 11 + 3, 4 * 6 + 12))
    assert loop["value_s"] >= 0.9 * daily["value_s"]
    assert verdicts(figures)[what] is False


def test_a_loop_that_does_not_win_is_told_so(tmp_path):
    figures = found(loop=LOOP - np.array([0, 0, 0, 0, 4.0]), daily=DAILY)
    assert next(iter(verdicts(figures).values())) is False
    page = demo_page({"figures": figures, "passes": PASSES, "seed": 0})
    assert "within 2 days: no" in page
    assert "- loop, day 3: drift verdict drift; promoted: because" in page
    assert table_rows(figures)[1][:2] == [YARDSTICK, "10.0 [10.0, 10.0]"]
    demo_plot(figures, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").stat().st_size > 5_000


@pytest.mark.parametrize(("names", "said"), [
    (["loop", "hourly"], r"demo.arms has 'hourly', expected some of frozen, streamed, weekly, daily, loop"),
    ([], r"demo.arms is \[\]"),
    (["loop", "loop"], r"each once"),
])  # fmt: skip
def test_arms_that_cannot_be_are_named(names, said):
    with pytest.raises(LoopError, match=said):
        arms_named(names)

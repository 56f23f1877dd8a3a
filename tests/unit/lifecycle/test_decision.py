"""A pass trains where waiting loses more than a training costs, and says both."""

import pytest

from watchnext.lifecycle.loop.decision import Costs, Evidence, decide

COSTS = {"decay": 0.01, "price": 1.0, "horizon_days": 1.0, "least_rows": 1_000, "most_days": 14, "train_s": 600.0}


def decided(costs=(), **found):
    evidence = {"rows": 10_000, "watch_s": 90_000.0, "days": 3, "drift": 0.0, "train_s": 500.0}
    return decide(Evidence(**evidence | found), Costs(**COSTS | dict(costs)))


def test_every_term_of_the_formula_by_hand():
    decision = decided(drift=1.5, rows=500)
    expected = {"watch_s_a_day": 30_000, "age_days": 3, "drift": 1.5, "lost_share": 0.075, "rows": 500, "volume": 0.5,
                "rejected": 0, "loss_s": 30_000 * 0.075 * 0.5, "train_s": 500, "cost_s": 500}  # fmt: skip
    assert decision.terms == pytest.approx(expected)
    assert decision.train
    assert decision.reason == "waiting loses 1,125 s of watch time, a training costs 500 s"


@pytest.mark.parametrize(
    ("costs", "found", "trains", "says"),
    [
        ({}, {}, True, "loses 900 s"),
        ({"price": 2.0}, {}, False, "costs 1,000 s"),
        ({"price": 2.0}, {"drift": 1.0}, True, "loses 1,800 s"),  # drift alone turns it
        ({"price": 2.0}, {"days": 14}, True, "14 days of the log are new"),
        ({"price": 2.0, "most_days": None}, {"days": 14, "watch_s": 1.0}, False, "loses"),
        ({}, {"rows": 100}, False, "loses 90 s"),
        ({}, {"rows": 0, "days": 0, "watch_s": 0.0}, False, "seen the whole log"),
        ({}, {"is_trained": True, "days": 20}, False, "last training has seen the whole log"),
        ({}, {"serves": False, "rows": 0, "days": 0, "watch_s": 0.0}, True, "no release serves"),
        ({}, {"train_s": None}, True, "costs 600 s"),
        ({"decay": 1.0}, {"drift": 9.0}, True, "loses 30,000 s"),  # no more than all
        ({"price": 10.0}, {"drift": 99.0}, True, "loses 5,400 s"),  # as much as a drift of five
        ({}, {"rejected": 1}, False, "loses 450 s of watch time, a training costs 500 s; of the last trainings 1 in a row"),
        ({}, {"rejected": 1, "days": 4, "watch_s": 160_000.0}, True, "loses 800 s"),  # later it is tried again
    ],
)
def test_what_turns_a_decision(costs, found, trains, says):
    decision = decided(costs, **found)
    assert decision.train is trains
    assert says in decision.reason


@pytest.mark.parametrize(("name", "value"), [("decay", -0.1), ("horizon_days", 0), ("least_rows", 0), ("most_days", -1)])
def test_a_setting_that_makes_no_sense_is_named(name, value):
    with pytest.raises(ValueError, match=rf"loop.{name} is {value}, expected a number above 0"):
        decided({name: value})

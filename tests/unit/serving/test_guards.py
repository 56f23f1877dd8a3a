"""The guards of a canary: by hand, on arms that do not differ, and on arms that do."""

from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.serving.http.canary.arm_counts import ArmCounts
from watchnext.serving.http.canary.guards import Guards, share_difference, watch_change

LOOKS = np.unique(np.geomspace(30, 2_000, 40).astype(int))
WORLDS = 300


def counts(answers: int, *, errors: int = 0, ms: float = 10.0) -> ArmCounts:
    arm = ArmCounts()
    for number in range(answers):
        arm.failed() if number < errors else arm.answered(ms=ms + number % 7, degraded=False, short=False)
    return arm


def test_arms_without_answers_and_equal_arms_break_no_guard():
    guards = Guards()
    assert guards.broken(ArmCounts(), ArmCounts()) is None
    assert guards.broken(counts(20, errors=20), counts(500)) is None  # too few to judge
    assert guards.broken(counts(500), counts(500)) is None
    assert guards.broken(counts(500, errors=100), counts(500, errors=100)) is None  # the machine's fault


def test_each_guard_names_what_broke():
    guards = Guards()
    assert "errors: 20 of 200" in guards.broken(counts(200, errors=20), counts(2_000))
    assert "latency: " in guards.broken(counts(200, ms=60.0), counts(2_000))
    unruly = counts(5)
    unruly.broke(["safety"])
    assert "hard rules: safety (1)" in guards.broken(unruly, ArmCounts())
    lost = counts(500)
    lost.broke([])
    assert guards.broken(lost, counts(500)) is None


def test_a_share_has_an_interval_by_hand():
    assert share_difference(0, 29, 0, 1_000, least=30) is None
    found = share_difference(14, 98, 8, 98, least=30)  # with one of each kind more: .15 and .09
    assert found.value == pytest.approx(0.06)
    assert (found.low + found.high) / 2 == pytest.approx(0.06)
    assert found.high - found.low > 2 * 1.96 * np.sqrt(0.15 * 0.85 / 100 + 0.09 * 0.91 / 100)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_equal_shares_are_seldom_found_different_however_often_one_looks(share):
    random, wrong = np.random.default_rng(1), 0
    for _ in range(WORLDS):
        arms = random.random((2, LOOKS[-1])) < share
        sums = arms.cumsum(axis=1)[:, LOOKS - 1].T.tolist()
        found = [share_difference(a, int(n), b, int(n), least=30).low > 0 for (a, b), n in zip(sums, LOOKS, strict=True)]
        wrong += any(found)
    assert wrong <= 0.02 * WORLDS


@pytest.mark.parametrize(("errors", "within"), [(1.0, 30), (0.2, 100), (0.1, 220), (0.05, 500), (0.03, 1_100)])
def test_errors_are_found_within_so_many_answers_of_the_challenger(errors, within):
    """With a share of 5% of the viewers, 2,000 requests are 100 of these answers."""
    random, most, missed = np.random.default_rng(2), Guards().errors, 0
    for _ in range(100):
        bad = (random.random(within) < errors).cumsum()
        looks = [look for look in [30, *LOOKS, within] if look <= within]
        missed += not any(share_difference(int(bad[n - 1]), n, 0, 19 * n, least=30).low > most for n in map(int, looks))
    assert missed <= 7


def viewed(random: np.random.Generator, viewers: int, lift: float) -> ArmCounts:
    arm = ArmCounts()
    for viewer in range(viewers):
        impressions = 1 + random.poisson(20)
        arm.shown(viewer, impressions)
        arm.watched(viewer, lift * random.gamma(2.0, 2.5) * impressions)
    arm.watched("a stranger", 1e9)
    return arm


def test_less_watch_time_is_found_and_the_same_is_not():
    random = np.random.default_rng(3)
    assert watch_change(viewed(random, 49, 1.0), viewed(random, 500, 1.0), least=50) is None
    assert watch_change(viewed(random, 60, 1.0), viewed(random, 60, 0.0), least=50) is None
    wrong = sum(Guards().broken(viewed(random, 400, 1.0), viewed(random, 400, 1.0)) is not None for _ in range(100))
    assert wrong <= 2
    assert "watch time: " in Guards().broken(viewed(random, 400, 0.7), viewed(random, 400, 1.0))
    assert Guards().broken(viewed(random, 400, 1.3), viewed(random, 400, 1.0)) is None


def test_equal_watch_time_is_seldom_found_lower_however_often_one_looks():
    """Seconds have a long tail. On the ratio itself 21 of these worlds were found lower, on its logarithm 2."""
    random, guards, wrong = np.random.default_rng(4), Guards(), 0
    looks = np.unique(np.geomspace(50, 1_000, 25).astype(int))
    for _ in range(WORLDS):
        impressions = 1.0 + random.poisson(5, (2, looks[-1]))
        seconds = impressions * random.lognormal(1.0, 1.5, (2, looks[-1]))
        arms = [(SimpleNamespace(watch=(s[:n], i[:n])) for s, i in zip(seconds, impressions, strict=True)) for n in looks]
        wrong += any(guards._less_watched(*each) is not None for each in arms)
    assert wrong <= 0.01 * WORLDS


def test_viewers_who_watch_nothing_are_found():
    random, guards = np.random.default_rng(5), Guards()
    nothing, something = viewed(random, 60, 0.0), viewed(random, 60, 1.0)
    assert guards.broken(nothing, something) == "watch time: 60 of 60 viewers watched nothing, against 0 of 60"
    assert guards.broken(nothing, nothing) is None  # outcomes that never arrive


def test_an_arm_keeps_a_bounded_number_of_viewers_and_forgets_one():
    arm = ArmCounts()
    for viewer in range(20_010):
        arm.shown(viewer, 2)
    assert arm.summary()["viewers"] == 20_000
    arm.watched(3, 5.0)
    assert arm.watch[0].sum() == 5.0
    arm.forget(3)
    assert (len(arm.watch[0]), arm.watch[0].sum()) == (19_999, 0.0)

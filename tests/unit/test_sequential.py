"""Assignment, sequential intervals, power, interleaving and ratios: by hand, by brute force, and where they refuse."""

import doctest
from importlib import import_module

import numpy as np
import pytest
from scipy import stats

from watchnext.assignment import Assignment, ExperimentError, point_of, require_disjoint
from watchnext.evaluation.experiment.interleaving import credit, team_draft
from watchnext.evaluation.experiment.power import detectable_lift, viewers_needed
from watchnext.ratios import difference, ratio
from watchnext.sequential import Spread, always_valid, first_decision, tuned, widths

MODULES = ("assignment", "sequential", "ratios", "evaluation.experiment.power", "evaluation.experiment.interleaving")


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name):
    tried = doctest.testmod(import_module(f"watchnext.{name}"))
    assert (tried.failed, tried.attempted > 0) == (0, True)


# ---- assignment ------------------------------------------------------------------------------------------------------


def test_a_viewer_has_one_arm_always_and_shares_are_kept():
    assignment = Assignment.of_shares("a", {"old": 0.7, "new": 0.2})
    found = assignment.positions(range(20_000))
    sizes = {arm: len(positions) / 20_000 for arm, positions in found.items()}
    assert sizes == pytest.approx({"old": 0.7, "new": 0.2}, abs=0.01)
    assert not set(found["old"]) & set(found["new"])
    assert [assignment.arm_of(user) for user in range(50)] == [assignment.arm_of(user) for user in range(50)]
    left = next(user for user in range(1000) if point_of("a", user) >= 0.9)
    assert assignment.arm_of(left) is None


def test_points_are_uniform_and_those_of_two_salts_independent():
    one, two = (np.array([point_of(salt, user) for user in range(5_000)]) for salt in ("a", "b"))
    assert stats.kstest(one, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    assert point_of("a", 7) != point_of("a", "7")


def test_a_larger_share_keeps_the_viewers_that_an_arm_has():
    small, large = (Assignment.of_shares("a", {"new": share}).positions(range(1000))["new"] for share in (0.1, 0.3))
    assert set(small) < set(large)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"a": (0.0, 0.6), "b": (0.5, 1.0)}, "arms 'a' and 'b' overlap from 0.5 to 0.6: a viewer would be in both"),
        ({"a": (0.0, 0.5), "b": (0.5, 0.5)}, "arm 'b' is empty: its range 0.5 to 0.5 holds no viewer"),
        ({"a": (0.5, 1.1)}, "arm 'a' has the range 0.5 to 1.1, expected 0 <= start <= end <= 1"),
        ({"a": (0.5, float("nan"))}, "arm 'a' has the range 0.5 to nan"),
    ],
)
def test_arms_that_overlap_or_hold_nobody_are_refused(ranges, message):
    with pytest.raises(ExperimentError, match=message):
        Assignment(salt="x", ranges=ranges)


@pytest.mark.parametrize("shares", [{"a": 0.7, "b": 0.4}, {"a": -0.1, "b": 0.4}])
def test_shares_beyond_all_viewers_are_refused(shares):
    with pytest.raises(ExperimentError, match="expected none below 0, and at most 1 in sum"):
        Assignment.of_shares("x", shares)


def test_an_arm_without_viewers_and_a_viewer_in_two_arms_are_refused():
    with pytest.raises(ExperimentError, match=r"arm 'b' is empty: none of 3 viewers is in it; give it a larger share"):
        Assignment.of_shares("x", {"a": 0.999, "b": 0.001}).positions([1, 2, 3])
    with pytest.raises(ExperimentError, match="arm 'b' is empty: expected at least one viewer"):
        require_disjoint({"a": [1], "b": []})
    with pytest.raises(ExperimentError, match="viewer 3 is in arm 'a' and in arm 'c'"):
        require_disjoint({"a": [1, 3], "b": [2], "c": np.array([4, 3])})
    require_disjoint({"a": [1, 1], "b": [2]})  # a viewer may have several rows in one arm


# ---- sequential ------------------------------------------------------------------------------------------------------


def test_the_interval_is_the_theorem_s():
    """The formula of Waudby-Smith et al. written out for one sample."""
    t, deviation, r, alpha = 400, 3.0, tuned(1000), 0.05
    half = deviation * np.sqrt(2 * (t * r**2 + 1) / (t * r) ** 2 * np.log(np.sqrt(t * r**2 + 1) / alpha))
    found = always_valid(1.0, deviation / t**0.5, t, planned=1000)
    assert found == pytest.approx((1.0, 1.0 - half, 1.0 + half))


@pytest.mark.parametrize(
    ("alpha", "planned", "bounds"),
    [
        (0.05, 100, [8.675255992813673, 17.360279516157824, 30.35446396635931, 246.027963308341]),
        (0.05, 20_000, [116.84252917300822, 117.70779755172336, 119.77685668932469, 228.159834451524]),
        (0.01, 100, [9.184974705854309, 20.236500804605992, 35.718035051921895, 279.9045178046128]),
    ],
)
def test_the_interval_is_the_two_sided_normal_mixture_of_confseq(alpha, planned, bounds):
    """Bounds of sums of 1, 30, 100 and 5,000 steps of variance 1, by confseq 0.0.11 (`normal_mixture_bound`, two-sided) with
    the rho of `tuned`, 1 / r²: v_opt = rho (2 ln(1/α) + ln(1 + 2 ln(1/α))). Its own rho is another approximation of the best
    one, and its bounds differ by up to 5%. It has no wheels, and its source needs Boost and an older Python."""
    t = np.array([1, 30, 100, 5_000])
    assert widths(1 / np.sqrt(t), t, planned=planned, alpha=alpha) * t == pytest.approx(bounds, rel=1e-12)


def test_the_interval_is_narrowest_relative_to_a_single_look_where_it_is_tuned():
    observations = np.geomspace(10, 100_000, 401)
    relative = widths(np.ones(401), observations, planned=1000)
    assert observations[relative.argmin()] == pytest.approx(1000, rel=0.1)
    assert 2.9 < relative.min() < 3.1  # against 1.96 for a single look


def test_no_look_of_950_in_1000_walks_excludes_the_truth():
    steps = np.random.default_rng(0).exponential(size=(1000, 2000)) - 1.0
    t = np.arange(1, 2001)
    means = steps.cumsum(axis=1) / t
    errors = np.sqrt(np.maximum((steps**2).cumsum(axis=1) / t - means**2, 1e-12) / t)
    looks = slice(49, None)
    half = widths(errors[:, looks], t[looks], planned=2000)
    ever = (np.abs(means[:, looks]) > half).any(axis=1).mean()
    peeking = (np.abs(means[:, looks]) > 1.96 * errors[:, looks]).any(axis=1).mean()
    assert ever <= 0.05
    assert peeking > 0.3


def test_the_first_decision_is_the_first_look_that_excludes_zero():
    looks = [Spread(1.0, -1.0, 3.0), Spread(1.0, 0.1, 1.9), Spread(1.0, -0.1, 2.1), Spread(-1.0, -1.5, -0.5)]
    assert first_decision(looks) == 1
    assert first_decision(looks[2:]) == 1
    assert first_decision(looks[:1]) is None


# ---- power -----------------------------------------------------------------------------------------------------------


def test_the_viewers_needed_find_the_lift_as_often_as_promised():
    random = np.random.default_rng(1)
    values = random.gamma(0.5, 100.0, 50_000)
    needed = viewers_needed(values, 0.2)
    old, new = (random.gamma(0.5, 100.0, (1000, needed // 2)) + shift for shift in (0.0, 0.2 * values.mean()))
    found = stats.ttest_ind(new, old, axis=1, equal_var=False)
    assert ((found.pvalue < 0.05) & (found.statistic > 0)).mean() == pytest.approx(0.8, abs=0.04)
    assert detectable_lift(values, needed) == pytest.approx(0.2, rel=1e-3)


def test_a_smaller_share_needs_more_viewers():
    values = np.array([1.0, 3.0, 2.0, 9.0])
    assert viewers_needed(values, 0.1, share=0.1) == pytest.approx(viewers_needed(values, 0.1) * 0.25 / 0.09, rel=1e-3)


@pytest.mark.parametrize("wrong", [{"lift": 0.0}, {"lift": 0.1, "share": 1.0}, {"lift": 0.1, "power": 0.0}])
def test_a_lift_of_nothing_and_shares_of_nobody_are_refused(wrong):
    with pytest.raises(ExperimentError, match=r"expected a lift other than 0, and the others within \(0, 1\)"):
        viewers_needed(np.array([1.0, 2.0]), **wrong)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0]])
def test_a_metric_without_viewers_or_mean_has_no_power(values):
    with pytest.raises(ExperimentError, match="expected two or more, and a mean above 0"):
        viewers_needed(np.array(values), 0.1)


# ---- interleaving ----------------------------------------------------------------------------------------------------


def test_a_draft_takes_turns_and_each_team_s_best():
    random = np.random.default_rng(3)
    for _ in range(200):
        first, second = random.permutation(12).tolist(), random.permutation(12).tolist()
        slate, teams = team_draft(first, second, 8, random)
        assert len(set(slate)) == 8
        assert sum(teams) == 4
        for at in range(8):
            own = (first, second)[teams[at]]
            assert slate[at] == next(row for row in own if row not in slate[:at])
        assert all(teams[at] != teams[at + 1] for at in range(0, 8, 2))


def test_either_team_picks_first_half_of_the_time():
    random = np.random.default_rng(0)
    starts = [team_draft([1, 2], [3, 4], 2, random)[1][0] for _ in range(2000)]
    assert np.mean(starts) == pytest.approx(0.5, abs=0.04)


def test_a_team_that_has_run_out_leaves_its_picks():
    random = np.random.default_rng(0)
    assert sorted(team_draft([1], [1, 2, 3, 4], 4, random)[0]) == [1, 2, 3, 4]
    assert team_draft([], [], 4, random) == ([], [])
    slate, teams = team_draft([], [5, 6], 4, random)
    assert (slate, teams) == ([5, 6], [1, 1])


def test_equal_policies_have_no_preference_in_expectation():
    random = np.random.default_rng(0)
    chance = np.linspace(0.9, 0.1, 8)
    credits = [credit(np.array(team_draft(range(8), range(8), 8, random)[1]), random.random(8) < chance) for _ in range(4000)]
    assert abs(np.mean(credits)) < 3 * np.std(credits) / 4000**0.5


def test_the_better_policy_is_credited():
    random = np.random.default_rng(0)
    chance = np.linspace(0.9, 0.0, 20)

    def once() -> float:
        slate, teams = team_draft(range(20), random.permutation(20).tolist(), 8, random)
        return credit(np.array(teams), random.random(8) < chance[slate])

    assert np.mean([once() for _ in range(500)]) > 0.3


# ---- ratios ----------------------------------------------------------------------------------------------------------


def test_the_delta_method_has_the_error_of_repeated_samples():
    random = np.random.default_rng(2)

    def sample() -> tuple[np.ndarray, np.ndarray]:
        shown = random.poisson(3.0 * random.gamma(1.0, 1.0, 400)) + 1.0
        return random.binomial(shown.astype(int), random.beta(2, 5, 400)), shown

    found = np.array([ratio(*sample()) for _ in range(2000)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.05)
    naive = np.sqrt(0.286 * 0.714 / (400 * 4.0))  # as if impressions were independent
    assert found[:, 0].std() > 1.2 * naive


def test_a_ratio_over_ones_is_a_mean_and_a_difference_welch_s():
    random = np.random.default_rng(4)
    a, b = random.normal(5, 2, 300), random.normal(4, 1, 200)
    found = difference((a, np.ones(300)), (b, np.ones(200)))
    error = np.sqrt(a.var(ddof=1) / 300 + b.var(ddof=1) / 200)
    assert found == pytest.approx(
        (a.mean() - b.mean(), a.mean() - b.mean() - 1.96 * error, a.mean() - b.mean() + 1.96 * error), rel=1e-4
    )
    assert np.isnan(ratio(np.ones(1), np.ones(1))[1])


def test_intervals_and_traffic_are_those_of_tea_tasting():
    """Figures of tea-tasting 1.14: `RatioOfMeans` and `Mean` with use_t=False, and `solve_power` for a lift of 10%."""
    random, count = np.random.default_rng(0), 2000
    shown = random.poisson(3 * random.gamma(1, 1, count)) + 1.0
    long_views = random.binomial(shown.astype(int), random.beta(2, 5, count)).astype(float)
    seconds, second = random.gamma(0.5, 100, count), random.integers(0, 2, count) == 1
    rate = difference(*((long_views[arm], shown[arm]) for arm in (second, ~second)))
    assert rate == pytest.approx((0.005719847651290744, -0.0186688034394707, 0.030108498742052188), rel=1e-6)
    mean = difference(*((seconds[arm], np.ones(arm.sum())) for arm in (second, ~second)))
    assert mean == pytest.approx((0.9081976379832497, -4.93912219559414, 6.75551747156064), rel=1e-6)
    assert viewers_needed(seconds, 0.1) == pytest.approx(5804, rel=1e-3)

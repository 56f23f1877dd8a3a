"""Values of whole logs: intervals over viewers, several loggers, the reward model, the choice and the warnings."""

import numpy as np
import pytest

from random_log import log_of, random_arrays, rates_of
from watchnext.evaluation.off_policy.choice import checked, chosen, disagreement
from watchnext.evaluation.off_policy.estimate import Estimate, effective_requests, estimated, interval_of
from watchnext.evaluation.off_policy.reward_model import FOLDS, cross_fitted
from watchnext.evaluation.off_policy.slate_log import SlateLog
from watchnext.evaluation.off_policy.valuation import combined, contributions


def one_position(viewer: list[int], logger: list[int] | None = None) -> SlateLog:
    number = len(viewer)
    return SlateLog.of(
        request=np.arange(number),
        viewer=np.array(viewer),
        position=np.zeros(number),
        reward=np.arange(number) / number,
        propensity=np.full(number, 0.5),
        logger=None if logger is None else np.array(logger),
    )


# ---- intervals and overlap ---------------------------------------------------------------------------------------------


def test_an_interval_is_over_viewers_by_hand():
    """Sums of what each viewer is off: 1 + 3 - 2 * 2.5 = -1, and 2 + 4 - 5 = 1, with 1 degree of freedom."""
    value, half = interval_of(one_position([0, 1, 0, 1]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert value == 2.5
    assert half == pytest.approx(7.15 * np.sqrt(2 * (1 + 1)) / 4, rel=1e-2)  # the expansion's, not 12.7


@pytest.mark.parametrize(("viewers", "student"), [(11, 2.228), (31, 2.042), (2001, 1.961)])
def test_the_interval_of_equal_spreads_is_student_s(viewers, student):
    values = np.resize([1.0, -1.0], 2 * (viewers // 2)).tolist() + [0.0] * (viewers % 2)
    _, half = interval_of(one_position(list(range(viewers))), np.array(values))
    assert half == pytest.approx(student * np.sqrt((viewers - 1) / (viewers - 1) / viewers), rel=2e-2)


def test_an_interval_that_hangs_on_few_viewers_is_wider():
    values = np.zeros(400)
    values[:4] = 100.0
    _, half = interval_of(one_position(list(range(400))), values)
    assert half > 2.2 * values.std() / 20


def test_requests_that_repeat_each_other_make_an_interval_no_narrower():
    values = np.random.default_rng(0).random(50)
    once, twice = one_position(list(range(50))), one_position(list(range(50)) * 2)
    assert interval_of(twice, np.tile(values, 2)) == pytest.approx(interval_of(once, values))


def test_without_any_spread_or_number_there_is_no_interval():
    assert interval_of(one_position([0, 1]), np.ones(2)) == (1.0, 0.0)
    assert np.isnan(interval_of(one_position([0, 1]), np.full(2, np.nan))).all()


def test_the_effective_number_is_of_the_worst_position():
    log = SlateLog.of(
        request=[0, 0, 1, 1], viewer=[0, 0, 1, 1], position=[0, 1, 0, 1], reward=[0, 1, 0, 1], propensity=[0.5] * 4
    )
    assert effective_requests(log, np.array([[1.0, 3.0], [1.0, 1.0]])) == pytest.approx(16 / 10)
    assert effective_requests(log, np.array([[1.0, 0.0], [1.0, 0.0]])) == 0


def test_thin_overlap_and_missing_support_are_warned_of():
    log = one_position(list(range(400)))
    few = np.where(np.arange(400) < 40, 10.0, 0.0)[:, None]
    assert "worth 40 of 400 requests, expected 100 or more" in estimated("x", "slate", log, few, few[:, 0]).warning
    half = np.full((400, 1), 0.5) + np.linspace(-0.1, 0.1, 400)[:, None]
    assert "weights average 0.50, expected 1" in estimated("x", "slate", log, half, half[:, 0]).warning
    assert estimated("x", "slate", log, half + 0.5, half[:, 0]).warning == ""


def test_most_intervals_hold_the_value():
    """300 logs of one position, whose rewards depend on the video by its cluster, action mod 2."""
    covered, chance = {}, np.tile([0.2, 0.8, 0.2, 0.8, 0.2], (1000, 1))
    for seed in range(300):
        arrays = random_arrays(1000, seed=seed, loggers=1)
        arrays |= {name: arrays[name][:, :1] for name in ("policy", "slates", "model")} | {"logged": arrays["logged"][:, :, :1]}
        drawn = np.random.default_rng([seed, 1]).random((1000, 1))
        arrays["reward"] = (drawn < np.take_along_axis(chance, arrays["slates"], axis=1)).astype(float)
        truth = float((arrays["policy"][:, 0] * chance).sum(axis=1).mean())
        log, rates = log_of(arrays), rates_of(arrays)
        for (level, form), parts in contributions(log, rates).items():
            each = estimated(form, level, log, *parts)
            covered.setdefault((level, form), []).append(each.low <= truth <= each.high)
    assert len(covered) == 11
    assert {name: share for name, held in covered.items() if not 0.92 <= (share := np.mean(held)) <= 0.98} == {}


# ---- reward model ------------------------------------------------------------------------------------------------------


def test_a_reward_that_is_linear_is_predicted_from_other_viewers():
    arrays = random_arrays(300, seed=1)
    arrays["reward"] = 2.0 + 3.0 * rates_of(arrays).features[..., 0]
    log, rates = log_of(arrays), rates_of(arrays)
    predicted, expected = cross_fitted(log, rates.features, rates.expected, to_go=False)
    assert predicted == pytest.approx(log.reward, abs=0.05)
    assert expected == pytest.approx(2.0 + 3.0 * rates.expected[..., 0], abs=0.05)
    to_go, _ = cross_fitted(log, rates.features, rates.expected, to_go=True)
    assert to_go[:, 2] == pytest.approx(predicted[:, 2])
    below = expected[:, 2].mean()  # of another position's features, so only its mean can be known
    assert to_go[:, 1] == pytest.approx(log.reward[:, 1] + below, abs=0.4)


def test_a_viewer_s_own_rewards_do_not_reach_their_prediction():
    arrays = random_arrays(90, seed=1)
    log, rates = log_of(arrays), rates_of(arrays)
    before, _ = cross_fitted(log, rates.features, rates.expected, to_go=True)
    arrays["reward"] = arrays["reward"].copy()
    arrays["reward"][4] += 100.0
    after, _ = cross_fitted(log_of(arrays), rates.features, rates.expected, to_go=True)
    same_fold = np.arange(90) % FOLDS == 4 % FOLDS
    assert np.array_equal(after[same_fold], before[same_fold])
    assert not np.allclose(after[~same_fold], before[~same_fold])


# ---- loggers -----------------------------------------------------------------------------------------------------------


def test_loggers_count_by_what_they_are_worth():
    """The first has equal weights, worth 2; the second one of two, worth 1: 2/3 and 1/3."""
    log = one_position([0, 1, 2, 3], logger=[0, 0, 1, 1])
    weight, values = combined(log, np.array([[1.0], [1.0], [2.0], [0.0]]), np.array([3.0, 5.0, 10.0, 0.0]))
    assert values.mean() == pytest.approx(2 / 3 * 4 + 1 / 3 * 5)
    assert weight.ravel().tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 0.0])


def test_a_logger_without_a_match_does_not_count():
    log = one_position([0, 1, 2, 3], logger=[0, 0, 1, 1])
    _, values = combined(log, np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([3.0, 5.0, 0.0, 0.0]))
    assert values.mean() == pytest.approx(4.0)


def test_every_level_answers_for_two_loggers():
    arrays = random_arrays(500, seed=2)
    two = contributions(log_of(arrays), rates_of(arrays))
    assert len(two) == 11
    assert all(np.isfinite(values).all() for _, values in two.values())


# ---- choice ------------------------------------------------------------------------------------------------------------


def answer(level: str, value: float, half: float, warning: str = "") -> Estimate:
    return Estimate(name=level, level=level, value=value, half=half, effective=1e3, mean_weight=1.0, warning=warning)


def test_the_narrowest_that_agrees_with_all_wider_ones_is_chosen():
    wide, agrees, narrow = answer("slate", 1.0, 0.3), answer("cascade", 1.1, 0.1), answer("cluster", 1.05, 0.02)
    assert chosen([narrow, agrees, wide]) is narrow
    biased = answer("cluster", 1.25, 0.02)  # 0.15 off the cascade, which is more than 0.1 + 1.45 * 0.02
    assert chosen([biased, agrees, wide]) is agrees


def test_nothing_is_chosen_beyond_the_first_that_disagrees():
    wide, biased, narrow = answer("slate", 1.0, 0.3), answer("position", 1.5, 0.1), answer("cluster", 1.05, 0.02)
    assert chosen([wide, narrow]) is narrow
    assert chosen([wide, biased, narrow]) is wide


def test_one_that_assumes_more_and_is_wider_has_no_use():
    one, wider, narrow = answer("cascade", 1.0, 0.1), answer("position", 1.0, 0.2), answer("cluster", 1.0, 0.05)
    assert chosen([one, wider]) is one
    assert chosen([one, wider, narrow]) is narrow


def test_a_choice_is_checked_by_what_assumes_less():
    slate, cascade, cluster = (
        answer("slate", 1.0, 0.3),
        answer("cascade", 1.0, 0.1, warning="thin"),
        answer("cluster", 1.0, 0.02),
    )
    assert checked(cluster, [slate, cascade, cluster])
    assert not checked(cluster, [cascade, cluster])
    assert checked(slate, [slate])


def test_a_choice_is_as_far_apart_as_the_narrowest_of_each_level_that_assumes_less():
    """.3 from the narrower slate estimate, .4 from the cascade; one without overlap, and those of its level, say nothing."""
    estimates = [
        answer("slate", 5.0, 0.9),
        answer("slate", 1.0, 0.5),
        answer("cascade", 1.7, 0.1),
        answer("cluster", 1.3, 0.05),
    ]
    ignored = [answer("position", 9.0, 0.1, warning="thin"), answer("cluster", 7.0, 0.2)]
    assert disagreement(estimates[-1], [*estimates, *ignored]) == pytest.approx(((0.3**2 + 0.4**2) / 2) ** 0.5)
    assert disagreement(estimates[1], estimates) == 0.0


def test_none_is_chosen_without_overlap():
    assert chosen([]) is None
    assert (
        chosen([answer("slate", 0.0, 0.1, warning="thin overlap"), answer("cascade", np.nan, 0.1), answer("cluster", 1.0, 0.0)])
        is None
    )

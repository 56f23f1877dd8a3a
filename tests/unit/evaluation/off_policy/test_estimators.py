"""Estimators against obp 0.5.7, and their expectation over every slate against the value by hand.

The values of obp were computed once on `random_arrays(60, seed=3)`, with its unmodified modules `obp.ope.estimators`,
`estimators_slate`, `estimators_embed` and `estimators_multi`: obp wants Python below 3.11, and this package 3.11, so no
environment of ours holds both.
"""

import numpy as np
import pytest

from random_log import log_of, picked, random_arrays, rates_of
from watchnext.evaluation.off_policy.estimators import above, doubly_robust, ips, snips
from watchnext.evaluation.off_policy.policy_rates import PolicyRates, weights
from watchnext.evaluation.off_policy.slate_log import SlateLog

OBP = {
    "slate ips": 1.0849915122,  # SlateStandardIPS
    "position ips": 1.5433993602,  # SlateIndependentIPS
    "cascade ips": 1.3009809428,  # SlateRewardInteractionIPS
    "slate snips": 1.5044097695,  # SelfNormalizedSlateStandardIPS
    "position snips": 1.6883938475,  # SelfNormalizedSlateIndependentIPS
    "cascade snips": 1.4293977087,  # SelfNormalizedSlateRewardInteractionIPS
    "cascade dr": 1.3154280202,  # SlateCascadeDoublyRobust, q_hat the model
}
OBP_ONE = {  # of the first position alone
    "ips": 0.4907232794,  # InverseProbabilityWeighting
    "snips": 0.5626593016,  # SelfNormalizedInverseProbabilityWeighting
    "dr": 0.5929667836,  # DoublyRobust
    "balanced ips": 0.4916619877,  # MultiLoggersBalancedInverseProbabilityWeighting
    "cluster ips": 0.5812821591,  # MarginalizedInverseProbabilityWeighting, p_e_a known
}


@pytest.mark.parametrize("name", OBP)
def test_a_slate_s_value_is_that_of_obp(name):
    arrays = random_arrays(60, seed=3)
    log, rates, (level, form) = log_of(arrays), rates_of(arrays), name.split()
    weight = weights(log, rates, level)
    if form == "dr":
        found = doubly_robust(log, weight, above(weight), rates.features[..., 0], rates.expected[..., 0])
    else:
        found = {"ips": ips, "snips": snips}[form](log, weight)
    assert found.mean() == pytest.approx(OBP[name], abs=1e-9)


@pytest.mark.parametrize("name", OBP_ONE)
def test_the_value_of_one_position_is_that_of_obp(name):
    arrays = random_arrays(60, seed=3)
    arrays |= {each: arrays[each][:, :1] for each in ("slates", "reward", "policy", "model")} | {
        "logged": arrays["logged"][:, :, :1]
    }
    log, rates = log_of(arrays, balanced=name == "balanced ips"), rates_of(arrays)
    weight = weights(log, rates, "cluster" if "cluster" in name else "position")
    values = {
        "snips": snips,
        "dr": lambda *_: doubly_robust(log, weight, 1.0, rates.features[..., 0], rates.expected_at[..., 0]),
    }
    assert values.get(name, ips)(log, weight).mean() == pytest.approx(OBP_ONE[name], abs=1e-9)


def every_slate(rewards) -> tuple[SlateLog, PolicyRates, np.ndarray, float]:
    """One request for each slate of two of three videos, its probability under the logger, and the policy's value."""
    logged, policy = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    slates = np.array([(a, b) for a in range(3) for b in range(3) if a != b])

    def given(distribution):
        first = distribution[slates[:, 0]]
        return np.stack([first, distribution[slates[:, 1]] / (1 - first)], axis=1)

    reward = np.array([rewards(a, b) for a, b in slates])
    rows = np.arange(12)
    log = SlateLog.of(
        request=rows // 2, viewer=rows // 2, position=rows % 2, reward=reward.ravel(), propensity=given(logged).ravel()
    )
    rng, shape = np.random.default_rng(0), (6, 2)
    model = rng.random((3, 3))  # any: by the first video and the next
    mine = [model[0][slates[:, 0]], model[1:][:, slates[:, 1]].sum(axis=0)]
    follows = np.where(np.arange(3) == slates[:, :1], 0.0, policy) / (1 - policy[slates[:, :1]])
    expected = np.stack([np.full(6, policy @ model[0]), follows @ model[1:].sum(axis=0)], axis=1)
    rates = PolicyRates(given=given(policy), at_position=np.ones(shape), repeated=np.zeros(shape), of_cluster=np.ones(shape),
                        cluster_logged=np.ones(shape), features=np.stack(mine, axis=1)[..., None],
                        expected=expected[..., None], expected_at=np.ones((*shape, 1)))  # fmt: skip
    return log, rates, given(logged).prod(axis=1), float(given(policy).prod(axis=1) @ reward.sum(axis=1))


@pytest.mark.parametrize("level", ["slate", "cascade"])
def test_weights_are_unbiased_over_all_slates(level):
    """The second video earns by what is above it, the first by itself."""
    log, rates, chances, value = every_slate(lambda a, b: (a, 3.0 * b - a))
    assert chances @ ips(log, weights(log, rates, level)) == pytest.approx(value)


def test_cascade_doubly_robust_is_unbiased_whatever_its_model():
    log, rates, chances, value = every_slate(lambda a, b: (a, 3.0 * b - a))
    weight = weights(log, rates, "cascade")
    found = doubly_robust(log, weight, above(weight), rates.features[..., 0], rates.expected[..., 0])
    assert chances @ found == pytest.approx(value)
    assert found.std() > 0.1


def test_a_reward_by_the_video_below_is_beyond_the_cascade():
    log, rates, chances, value = every_slate(lambda a, b: (b, 0.0))
    assert chances @ ips(log, weights(log, rates, "cascade")) != pytest.approx(value, abs=0.01)
    assert chances @ ips(log, weights(log, rates, "slate")) == pytest.approx(value)


def test_slates_of_two_lengths_count_by_their_requests():
    log = SlateLog.of(
        request=[0, 0, 1], viewer=[5, 5, 6], position=[0, 1, 0], reward=[1.0, 2.0, 4.0], propensity=[0.5, 0.5, 0.25]
    )
    weight = np.array([[2.0, 1.0], [4.0, 0.0]])
    assert ips(log, weight).tolist() == [4.0, 16.0]
    assert snips(log, weight).mean() == pytest.approx((2 * 1 + 4 * 4) / 6 + 2.0 / 2)  # half of the requests have a second


def test_videos_above_are_left_out_of_the_policy_s_own_at_a_position():
    rates = every_slate(lambda a, b: (a, b))[1]
    log = every_slate(lambda a, b: (a, b))[0]
    half = PolicyRates(**vars(rates) | {"repeated": np.tile([0.0, 0.5], (6, 1))})
    one, two = weights(log, rates, "position"), weights(log, half, "position")
    assert np.array_equal(two[:, 0], one[:, 0])
    assert np.allclose(two[:, 1], 2 * one[:, 1])


def test_picked_takes_the_values_of_a_slate():
    assert picked(np.arange(6).reshape(1, 2, 3), np.array([[2, 0]])).tolist() == [[2, 3]]

"""Every estimator on one log and policy, for one logger or several."""

import numpy as np

from watchnext.evaluation.off_policy.estimate import effective_requests
from watchnext.evaluation.off_policy.estimators import above, doubly_robust, ips, snips
from watchnext.evaluation.off_policy.policy_rates import LEVELS, PolicyRates, weights
from watchnext.evaluation.off_policy.reward_model import cross_fitted
from watchnext.evaluation.off_policy.slate_log import SlateLog


def contributions(log: SlateLog, rates: PolicyRates) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Return (level, form) > weights (R, K) and contributions (R,) of every estimator."""
    to_go = cross_fitted(log, rates.features, rates.expected, to_go=True)
    at_once = cross_fitted(log, rates.features, rates.expected_at, to_go=False)
    found = {}
    for level in LEVELS:
        weight = weights(log, rates, level)
        found[level, "ips"] = weight, ips(log, weight)
        found[level, "snips"] = weight, snips(log, weight)
        if level == "cascade":
            found[level, "dr"] = weight, doubly_robust(log, weight, above(weight), *to_go)
        elif level != "slate":
            found[level, "dr"] = weight, doubly_robust(log, weight, np.ones_like(weight), *at_once)
    return {name: combined(log, *parts) for name, parts in found.items()}


def combined(log: SlateLog, weight: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weigh loggers by how many requests each is worth, where only a slate's own propensity is known.

    Returns the weights and contributions of the weighted mean over loggers. Agarwal et al. (KDD 2017) weigh by the inverse
    variance; ours is its bound, the effective sample size, as a logger without a match would have a variance of 0.
    """
    loggers = log.logger.max() + 1
    if loggers == 1:
        return weight, values
    effective = np.array(
        [effective_requests(log.take(log.logger == each), weight[log.logger == each]) for each in range(loggers)]
    )
    number = np.bincount(log.logger)
    share = effective / effective.sum() if effective.any() else number / len(log)
    scale, means = (share * len(log) / number)[log.logger], np.bincount(log.logger, values) / number
    return scale[:, None] * weight, means @ share + scale * (values - means[log.logger])

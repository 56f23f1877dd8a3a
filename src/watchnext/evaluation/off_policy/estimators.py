"""Estimators of a policy's value: the mean reward of a slate, if the policy had chosen it. R requests, K positions.

Each returns the contribution (R,) of every request; the value is their mean. So intervals are alike for all of them.
"""

import numpy as np

from watchnext.evaluation.off_policy.slate_log import SlateLog


def ips(log: SlateLog, weights: np.ndarray) -> np.ndarray:
    """Weigh every reward (Horvitz & Thompson 1952)."""
    return (weights * log.reward).sum(axis=1)


def snips(log: SlateLog, weights: np.ndarray) -> np.ndarray:
    """Divide by the mean weight of each position (Swaminathan & Joachims, NeurIPS 2015); nan where no weight is above 0.

    Contributions are those of the linearised ratio, so that their mean is the ratio and their spread gives its error.
    """
    number, total = log.shown.sum(axis=0), weights.sum(axis=0)
    with np.errstate(invalid="ignore"):
        value = (weights * log.reward).sum(axis=0) / total
        parts = value + weights * (log.reward - value) / (total / number)
    return np.where(log.shown, parts, 0.0).sum(axis=1)


def doubly_robust(
    log: SlateLog, weights: np.ndarray, weights_above: np.ndarray, predicted: np.ndarray, expected: np.ndarray
) -> np.ndarray:
    """Weigh the errors of a reward model, and add its mean under the policy (Dudík et al., ICML 2011).

    With cascade weights, those of the position above, and a model of the reward to go, it is the cascade doubly robust
    estimator (Kiyohara et al., WSDM 2022); with cluster weights it is OffCEM (Saito et al., ICML 2023). `weights_above` is 1
    where positions are weighed one by one.
    """
    return np.where(log.shown, weights * (log.reward - predicted) + weights_above * expected, 0.0).sum(axis=1)


def above(weights: np.ndarray) -> np.ndarray:
    """Return the cascade weights of the position above, 1 for the first."""
    return np.concatenate([np.ones((len(weights), 1)), weights[:, :-1]], axis=1)

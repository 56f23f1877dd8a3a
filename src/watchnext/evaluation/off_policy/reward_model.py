"""A linear model of rewards for doubly robust estimators, fitted on other viewers than it is used for."""

import numpy as np

from watchnext.evaluation.off_policy.slate_log import SlateLog

FOLDS = 3
RIDGE = 1.0  # on standardised features, as one more row with an unknown reward


def cross_fitted(log: SlateLog, features: np.ndarray, expected: np.ndarray, *, to_go: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted reward (R, K) of each logged video, and its mean over the policy's video there.

    Each position has its own ridge regression on `features` (R, K, F), from the viewers of the other folds. As it is linear,
    the mean over the policy is the prediction of the mean features `expected` (R, K, F). With `to_go`, it is the reward from
    this position on, with the policy's own videos below (fitted from the last position upwards, Kiyohara et al., WSDM 2022).
    """
    logged, mean = np.zeros(log.reward.shape), np.zeros(log.reward.shape)
    fold = log.viewer % FOLDS
    scaled, expected = _standardised(log, features, expected)
    for each in range(FOLDS):
        fitted, used = fold != each, fold == each
        below = np.zeros(len(log))
        for k in reversed(range(log.shown.shape[1])):
            rows = fitted & log.shown[:, k]
            line = _ridge(scaled[rows, k], log.reward[rows, k] + (below[rows] if to_go else 0.0))
            predicted, below = scaled[:, k] @ line, np.where(log.shown[:, k], expected[:, k] @ line, 0.0)
            logged[used, k], mean[used, k] = predicted[used], below[used]
    return np.where(log.shown, logged, 0.0), mean


def _standardised(log: SlateLog, features: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale both by the logged features, and put a constant before them."""
    rows = features[log.shown]
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    one = np.ones((*log.shown.shape, 1))
    return tuple(np.concatenate([one, (values - centre) / spread], axis=2) for values in (features, expected))


def _ridge(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the coefficients (1 + F,); that of the constant is not shrunk."""
    penalty = RIDGE * np.eye(inputs.shape[1])
    penalty[0, 0] = 1e-9
    return np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)

"""A small random slate log with everything that estimators read, also as the flat arrays that obp takes."""

import numpy as np

from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import SlateLog

ACTIONS, SLOTS = 5, 3


def random_arrays(requests: int, seed: int, loggers: int = 2) -> dict[str, np.ndarray]:
    """Conditional distributions (R, SLOTS, ACTIONS) of the policy and of each logger, the slates and rewards; clusters are
    action mod 2. A video may repeat, as estimators do not care."""
    rng = np.random.default_rng(seed)
    policy, model = rng.dirichlet(np.ones(ACTIONS), (requests, SLOTS)), rng.random((requests, SLOTS, ACTIONS))
    logged = rng.dirichlet(np.full(ACTIONS, 2.0), (loggers, requests, SLOTS))
    logger = rng.integers(0, loggers, requests)
    until = logged[logger, np.arange(requests)].cumsum(axis=2)
    slates = (until[..., :-1] < rng.random((requests, SLOTS, 1))).sum(axis=2)
    return {"policy": policy, "logged": logged, "logger": logger, "slates": slates, "model": model,
            "reward": rng.integers(0, 2, (requests, SLOTS)).astype(float)}  # fmt: skip


def picked(values: np.ndarray, slates: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, slates[..., None], axis=-1)[..., 0]


def log_of(arrays: dict, *, balanced: bool = False) -> SlateLog:
    requests, slots = arrays["slates"].shape
    rows = np.arange(requests * slots)
    own = np.stack([picked(each, arrays["slates"]) for each in arrays["logged"]], axis=2)
    mine = own[np.arange(requests), :, arrays["logger"]]
    return SlateLog.of(
        request=rows // slots,
        viewer=rows // slots,
        position=rows % slots,
        reward=arrays["reward"].ravel(),
        propensity=own.reshape(-1, own.shape[2]) if balanced else mine.ravel(),
        logger=np.repeat(arrays["logger"], slots),
    )


def rates_of(arrays: dict) -> PolicyRates:
    """The features are the model's values, so that one of coefficient 1 is the model itself."""
    policy, slates, model = arrays["policy"], arrays["slates"], arrays["model"]
    first = arrays["logged"][arrays["logger"], np.arange(len(slates))]
    clusters = [np.stack([each[..., c::2].sum(axis=2) for c in (0, 1)], axis=2) for each in (policy, first)]
    return PolicyRates(
        given=picked(policy, slates),
        at_position=picked(policy, slates),
        repeated=np.zeros(slates.shape),
        of_cluster=picked(clusters[0], slates % 2),
        cluster_logged=picked(clusters[1], slates % 2),
        features=picked(model, slates)[..., None],
        expected=(policy * model).sum(axis=2)[..., None],
        expected_at=(policy * model).sum(axis=2)[..., None],
    )

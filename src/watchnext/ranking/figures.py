"""Predictions of held-out impressions > figures by target, the same for every model."""

import numpy as np

from watchnext import metrics
from watchnext.ranking.heads import WATCH
from watchnext.ranking.reliability import DURATION_S
from watchnext.types import TARGETS


def figures(predictions: np.ndarray, targets: np.ndarray, users: np.ndarray, duration_s: np.ndarray) -> dict[str, float]:
    """AUC, GAUC, nDCG@5, log loss and calibration error of every outcome; of watch time the mean absolute error, XAUC, XAUC
    among videos of like duration, and mean predicted over mean watched seconds.

    (N, T) each, `users` (N,) rows, `duration_s` (N,) of the videos. nan where a figure has no meaning, as AUC over one class.
    """
    found = {}
    for place, name in enumerate(TARGETS):
        score, target = predictions[:, place], targets[:, place]
        if place == WATCH:
            found |= _of_seconds(score, target, np.searchsorted(DURATION_S, duration_s, side="right"))
            continue
        found[f"auc_{name}"] = metrics.auc(target, score)
        found[f"gauc_{name}"] = metrics.gauc(target, score, users)
        found[f"ndcg5_{name}"] = metrics.ndcg_at(target, score, users, 5)
        found[f"logloss_{name}"] = metrics.logloss(target, score)
        found[f"ece_{name}"] = metrics.ece(target, score)
    return found


def _of_seconds(score: np.ndarray, target: np.ndarray, strata: np.ndarray) -> dict[str, float]:
    watched = float(target.mean(dtype=np.float64)) if len(target) else 0.0
    return {
        "mae_watch_s": metrics.mean_absolute_error(target, score),
        "xauc_watch_s": metrics.xauc(target, score),
        "stratified_xauc_watch_s": metrics.stratified_xauc(target, score, strata),
        "mean_ratio_watch_s": float(score.mean(dtype=np.float64)) / watched if watched else float("nan"),
    }

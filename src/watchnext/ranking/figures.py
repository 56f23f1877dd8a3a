"""Predictions of held-out impressions > figures by target, the same for every model."""

import numpy as np

from watchnext import metrics
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS


def figures(predictions: np.ndarray, targets: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """AUC, GAUC and log loss of every outcome, mean absolute error of watch time; (N, T) each, `users` (N,) rows. nan where
    a figure has no meaning, as AUC over one class."""
    found = {}
    for place, name in enumerate(TARGETS):
        score, target = predictions[:, place], targets[:, place]
        if place == WATCH:
            found[f"mae_{name}"] = metrics.mean_absolute_error(target, score)
            continue
        found[f"auc_{name}"] = metrics.auc(target, score)
        found[f"gauc_{name}"] = metrics.gauc(target, score, users)
        found[f"logloss_{name}"] = metrics.logloss(target, score)
    return found

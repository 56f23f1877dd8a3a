"""Predictions of held-out impressions > figures by target, the same for every model."""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext import metrics
from watchnext.ranking.calibration.reliability import DURATION_S
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS

TITLES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss"}


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
        found |= {f"{figure}_{name}": value for figure, value in of_head(score, target, users).items()}
        found[f"ndcg5_{name}"] = metrics.ndcg_at(target, score, users, 5)
        found[f"ece_{name}"] = metrics.ece(target, score)
    return found


def of_head(score: np.ndarray, label: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """AUC, GAUC and log loss of one outcome's probabilities, (N,) each."""
    return {
        "auc": metrics.auc(label, score),
        "gauc": metrics.gauc(label, score, users),
        "logloss": metrics.logloss(label, score),
    }


def apart(served: np.ndarray, trained: np.ndarray) -> dict[str, float]:
    """Largest difference of a probability, and of seconds as a part of the trained ones (of 1 s where they are fewer); (N, T)
    each. A nan on either side makes it nan, as do no rows: it is undefined then."""
    differences = np.abs(served - trained, dtype=np.float64)
    differences[:, WATCH] /= np.maximum(trained[:, WATCH], 1.0)
    largest = differences.max(axis=0) if len(differences) else np.full(len(TARGETS), np.nan)
    return {"probability": float(np.delete(largest, WATCH).max()), "watch_s": float(largest[WATCH])}


def mean_and_spread(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Figure > mean and standard deviation over repetitions; the latter is nan for one."""
    values = {name: np.array([each[name] for each in found]) for name in found[0]}
    spread = {name: float(each.std(ddof=1)) if len(each) > 1 else float("nan") for name, each in values.items()}
    return {name: {"mean": float(each.mean()), "spread": spread[name]} for name, each in values.items()}


def differences(whole: Sequence[Mapping[str, float]], less: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By how much figures are worse in `less`, paired: positive where AUC and GAUC fell and where log loss rose."""
    signs = {"auc": 1.0, "gauc": 1.0, "logloss": -1.0}
    pairs = zip(whole, less, strict=True)
    return mean_and_spread([{name: sign * (a[name] - b[name]) + 0.0 for name, sign in signs.items()} for a, b in pairs])


def _of_seconds(score: np.ndarray, target: np.ndarray, strata: np.ndarray) -> dict[str, float]:
    watched = float(target.mean(dtype=np.float64)) if len(target) else 0.0
    return {
        "mae_watch_s": metrics.mean_absolute_error(target, score),
        "xauc_watch_s": metrics.xauc(target, score),
        "stratified_xauc_watch_s": metrics.stratified_xauc(target, score, strata),
        "mean_ratio_watch_s": float(score.mean(dtype=np.float64)) / watched if watched else float("nan"),
    }


def _with_spread(figure: Mapping[str, float]) -> str:
    return " ± ".join(metrics.shown(figure[part], ".4f") for part in ("mean", "spread"))


def markdown_of(report: Mapping) -> str:
    """A line a group, the most important first, or a line a size: figures with their spread."""
    if "sizes" in report:
        lines = [(f"{size['rows']:,}", size) for size in report["sizes"]]
    else:
        lines = sorted(report["worse_by"].items(), key=lambda line: -line[1]["auc"]["mean"])
    cells = [f"| {name} | " + " | ".join(_with_spread(found[key]) for key in TITLES) + " |" for name, found in lines]
    what, sign = ("training impressions", "") if "sizes" in report else ("inputs", " worse by")
    return "\n".join(
        [f"| {what} | {' | '.join(f'{title}{sign}' for title in TITLES.values())} |", "| --- |" + " ---: |" * 3, *cells]
    )

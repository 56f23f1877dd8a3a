"""Metrics of held-out predictions per target, the same for every model."""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext import metrics
from watchnext.ranking.calibration.reliability import DURATION_S
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS

TITLES = {"auc": "AUC", "gauc": "GAUC", "gauc_request": "GAUC in requests", "logloss": "log loss"}
REQUEST_SHARE = 0.1  # with more of it, weights and epochs cost AUC on KuaiRand (docs/decisions.md, 7.15)


def figures(
    predictions: np.ndarray, targets: np.ndarray, users: np.ndarray, requests: np.ndarray, duration_s: np.ndarray
) -> dict[str, float]:
    """Compute the figures of `of_head` and `in_requests`, nDCG@5 over viewers, calibration error and `objective` of every
    outcome. Watch time has mean absolute error, XAUC, XAUC among videos of similar duration, and mean predicted over mean
    watched seconds.

    (N, T) each; rows of viewers `users` (N,), request groups `requests` (N,), video `duration_s` (N,). Undefined metrics, such
    as AUC over one class, are nan.
    """
    result = {}
    for column, name in enumerate(TARGETS):
        score, target = predictions[:, column], targets[:, column]
        if column == WATCH:
            result |= _of_seconds(score, target, np.searchsorted(DURATION_S, duration_s, side="right"))
            continue
        of_outcome = of_head(score, target, users) | in_requests(score, target, requests)
        of_outcome |= {"ndcg5": metrics.ndcg_at(target, score, users, 5), "ece": metrics.ece(target, score)}
        result |= {f"{figure}_{name}": value for figure, value in of_outcome.items()}
        result[f"objective_{name}"] = objective(of_outcome["auc"], of_outcome["gauc_request"])
    return result


def of_head(score: np.ndarray, label: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """Compute AUC, GAUC and log loss of one outcome, (N,) each."""
    return {
        "auc": metrics.auc(label, score),
        "gauc": metrics.gauc(label, score, users),
        "logloss": metrics.logloss(label, score),
    }


def in_requests(score: np.ndarray, label: np.ndarray, requests: np.ndarray) -> dict[str, float]:
    """Compute GAUC, nDCG@5 and MRR inside request groups of one outcome, (N,) each: means over groups with both labels, with
    their positives as weights."""
    means = metrics.RequestFigures.of(label, score, requests).means()
    return {name.replace("@", ""): means[name] for name in ("gauc_request", "ndcg@5_request", "mrr_request")}


def objective(auc: float, gauc_request: float) -> float:
    """Weigh what epochs, settings and members of an ensemble are chosen by: AUC, which probabilities need, and the order inside
    requests, which is served. Alone the latter is too noisy where few requests have both labels; without any it counts as
    chance. nan where AUC is."""
    return auc + REQUEST_SHARE * (gauc_request if np.isfinite(gauc_request) else 0.5)


def apart(served: np.ndarray, trained: np.ndarray) -> dict[str, float]:
    """Compute the largest difference in probability, and in seconds relative to the trained prediction (at least 1 s); (N, T)
    each. nan if either side has nan, or without rows."""
    differences = np.abs(served - trained, dtype=np.float64)
    differences[:, WATCH] /= np.maximum(trained[:, WATCH], 1.0)
    largest = differences.max(axis=0) if len(differences) else np.full(len(TARGETS), np.nan)
    return {"probability": float(np.delete(largest, WATCH).max()), "watch_s": float(largest[WATCH])}


def mean_and_spread(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Compute mean and standard deviation of each metric over repetitions; nan spread for a single run."""
    values = {name: np.array([each[name] for each in runs]) for name in runs[0]}
    spread = {name: float(each.std(ddof=1)) if len(each) > 1 else float("nan") for name, each in values.items()}
    return {name: {"mean": float(each.mean()), "spread": spread[name]} for name, each in values.items()}


def differences(whole: Sequence[Mapping[str, float]], less: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Measure how much worse `less` is, paired: positive where an AUC or GAUC fell and where log loss rose."""
    signs = {"auc": 1.0, "gauc": 1.0, "gauc_request": 1.0, "logloss": -1.0}
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
    """Render one table row per group, most important first, or per training size: metrics with their spread."""
    if "sizes" in report:
        lines = [(f"{size['rows']:,}", size) for size in report["sizes"]]
    else:
        lines = sorted(report["worse_by"].items(), key=lambda line: -line[1]["auc"]["mean"])
    cells = [f"| {name} | " + " | ".join(_with_spread(result[key]) for key in TITLES) + " |" for name, result in lines]
    heading, sign = ("training impressions", "") if "sizes" in report else ("inputs", " worse by")
    headings = f"| {heading} | {' | '.join(f'{title}{sign}' for title in TITLES.values())} |"
    return "\n".join([headings, "| --- |" + " ---: |" * len(TITLES), *cells])

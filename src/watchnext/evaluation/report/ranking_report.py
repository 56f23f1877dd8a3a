"""Measure the predictions of replayed impressions: by target, inside request groups, and against the trained network."""

import numpy as np

from watchnext import metrics
from watchnext.evaluation.report.slate_report import with_intervals
from watchnext.ranking.heads import WATCH
from watchnext.ranking.target_metrics import apart, of_head
from watchnext.types import TARGETS

PROBABILITIES = TARGETS[:WATCH]


def ranking_metrics(scores: np.ndarray, targets: np.ndarray, users: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute AUC, GAUC over viewers, logloss and calibration error of each probability, and the errors in seconds.

    `targets` (N, T) are the labels of the test impressions of `users` (N,). Rows without scores are left out.
    """
    scored = np.isfinite(scores).all(axis=1)
    scores, targets, users = scores[scored], targets[scored], users[scored]
    by_target = {}
    for column, name in enumerate(PROBABILITIES):
        label, score = targets[:, column], scores[:, column]
        by_target[name] = of_head(score, label, users) | {"ece": metrics.ece(label, score)}
    seconds, watch = targets[:, WATCH], scores[:, WATCH]
    return by_target | {"watch_s": {"mae_s": metrics.mean_absolute_error(seconds, watch), "xauc": metrics.xauc(seconds, watch)}}


def gauc_intervals(scores: np.ndarray, targets: np.ndarray, users: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """Return target > `mean`, `low` and `high`: GAUC of each probability with its 95% interval over viewers.

    Rows without scores are left out.
    """
    scored = np.isfinite(scores).all(axis=1)
    report = {}
    for column, name in enumerate(PROBABILITIES):
        areas, positives, viewers = metrics.areas_by_group(targets[scored, column], scores[scored, column], users[scored])
        report[name] = with_intervals({"gauc": areas}, viewers, seed, weights=positives)["gauc"]
    return report


def request_metrics(scores: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute GAUC, nDCG@5 and MRR of each probability inside request groups, and the number of groups with both labels.

    Rows without scores are left out.
    """
    scored = np.isfinite(scores).all(axis=1)
    by_target = {}
    for column, name in enumerate(PROBABILITIES):
        figures = metrics.RequestFigures.of(targets[scored, column], scores[scored, column], groups[scored])
        by_target[name] = {"groups_request": len(figures.first), **figures.means()}
    return by_target


def skew(scores: np.ndarray, offline: np.ndarray) -> dict[str, float]:
    """Measure the largest differences between the served network on replayed state and the trained one on built features.

    `scores` and `offline` are (N, T); rows of videos that the catalogue lacks are left out.
    """
    scored = ~np.isnan(scores).all(axis=1)
    largest = apart(scores[scored], offline[scored])
    return {"skew": largest["probability"], "skew_watch_s": largest["watch_s"]}

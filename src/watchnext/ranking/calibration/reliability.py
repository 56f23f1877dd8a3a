"""Reliability of probabilities: reliability by bin, calibration error by slice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from watchnext import metrics

DURATION_S = (7.0, 15.0, 30.0, 60.0, 180.0)
VIDEO_AGE_H = (1.0, 24.0, 72.0, 168.0, 720.0)
IMPRESSIONS = (1.0, 5.0, 20.0, 100.0)


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins in order of probability: `rows` (n,), mean probability `predicted` (n,), share of positives `observed` (n,)."""

    rows: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def reliability(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 10) -> Reliability:
    """Compute reliability over bins of equal size; equal probabilities share a bin. With bins of equal width, a rare outcome
    would fall into a single bin."""
    if not len(probabilities):
        return Reliability(np.empty(0, np.int64), np.empty(0), np.empty(0))
    edges = np.unique(np.quantile(probabilities, np.arange(1, bins) / bins))
    _, which, rows = np.unique(np.searchsorted(edges, probabilities), return_inverse=True, return_counts=True)
    predicted = np.bincount(which, np.asarray(probabilities, np.float64)) / rows
    return Reliability(rows, predicted, np.bincount(which, np.asarray(labels) > 0) / rows)


def buckets(values: np.ndarray, edges: Sequence[float], unit: str) -> np.ndarray:
    """Name the bucket of each value (N,): "7 to 15 s", "180 s and more", "unknown" for nan."""
    names = [f"under {edges[0]:g} {unit}", *(f"{a:g} to {b:g} {unit}" for a, b in pairwise(edges))]
    names = np.array([*names, f"{edges[-1]:g} {unit} and more", "unknown"])
    values = np.asarray(values, np.float64)
    return names[np.where(np.isnan(values), len(names) - 1, np.searchsorted(edges, values, side="right"))]


def in_order(values: np.ndarray) -> list[str]:
    """Sort the distinct values of a slice: buckets from low to high, then others by name."""
    return sorted({str(value) for value in values}, key=_sort_key)


def _sort_key(name: str) -> tuple[bool, float, str]:
    number = next((float(word) for word in name.split() if word.replace(".", "", 1).isdigit()), None)
    return number is None, -1.0 if number is None or name.startswith("under ") else number, name


def usual_slices(
    *, surface: np.ndarray, duration_s: np.ndarray, video_age_h: np.ndarray, impressions: np.ndarray
) -> dict[str, np.ndarray]:
    """Slice by surface, duration, video age and the viewer's impressions in the state, each (N,); nan where unknown."""
    return {
        "surface": np.asarray(surface),
        "duration": buckets(duration_s, DURATION_S, "s"),
        "video_age": buckets(video_age_h, VIDEO_AGE_H, "h"),
        "activity": buckets(impressions, IMPRESSIONS, "impressions"),
    }


def by_slice(labels: np.ndarray, probabilities: np.ndarray, slices: Mapping[str, np.ndarray]) -> list[dict[str, str | float]]:
    """Tabulate all rows, then every value of every slice: rows, mean probability, share of positives, ECE, AUC."""
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    parts = [("all", "all", np.ones(len(labels), bool))] if len(labels) else []
    for name, values in slices.items():
        if len(values) != len(labels):
            raise ValueError(f"slice {name!r} has {len(values)} rows, expected the {len(labels)} of the labels")
        keys = np.asarray(values).astype(str)
        parts += [(name, value, keys == value) for value in in_order(keys)]
    return [{"slice": name, "value": value, **_figures(labels[part], probabilities[part])} for name, value, part in parts]


def _figures(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    return {
        "rows": len(labels),
        "predicted": float(probabilities.mean(dtype=np.float64)),
        "observed": float((labels > 0).mean()),
        "ece": metrics.ece(labels, probabilities),
        "auc": metrics.auc(labels, probabilities),
    }

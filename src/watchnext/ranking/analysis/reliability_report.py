"""Reliability report of a ranker: calibrated on validation days, measured by slice on test days."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.state.fold import HOUR_MS
from watchnext.metrics import rounded
from watchnext.ranking.analysis.report_plots import reliability_plot
from watchnext.ranking.calibration.curves import fit_calibration
from watchnext.ranking.calibration.reliability import Reliability, by_slice, in_order, reliability, usual_slices
from watchnext.ranking.heads import WATCH
from watchnext.ranking.scoring import metrics_of, scored
from watchnext.types import TARGETS

ROWS_A_BIN = 50
SHOWN = ("surface", "duration", "video_age", "activity")


def write_reliability_report(
    features: FeatureSet, network: torch.nn.Module, folder: Path, *, methods: Mapping[str, str]
) -> dict[str, float]:
    """Calibrate, and write calibration/ (arrays), reliability.json (one table per head, by slice) and reliability_<head>.png.

    Returns the test metrics of the calibrated predictions, `split/metric`, and those of uncalibrated predictions that differ,
    `uncalibrated/metric`. Validation days have none, because the curves were fitted on them.
    """
    rows, network = features.rows("valid"), network.eval()
    calibration = fit_calibration(scored(features, network, rows), features.columns["targets"][rows], methods=methods)
    calibration.save(folder / "calibration")
    raw = scored(features, network, features.rows("test"))
    measured = metrics_of(features, calibration(raw), "test")
    before = metrics_of(features, raw, "test")
    _report(features, raw, calibration(raw), folder)
    changed = [name for name in before if name.startswith(("test/logloss", "test/ece", "test/mae", "test/mean_ratio"))]
    return measured | {f"uncalibrated/{name.removeprefix('test/')}": before[name] for name in changed}


def _report(features: FeatureSet, raw: np.ndarray, served: np.ndarray, folder: Path) -> None:
    rows = features.rows("test")
    targets, slices, tables = features.columns["targets"][rows], slices_of(features, rows), {}
    for column, name in enumerate(TARGETS[:WATCH]):
        label = targets[:, column]
        tables[name] = rounded(by_slice(label, served[:, column], slices), 6)
        panels = {"all": {"calibrated": reliability(label, served[:, column]), "before": reliability(label, raw[:, column])}}
        for title in SHOWN:
            parts = {key: slices[title] == key for key in in_order(slices[title])}
            panels[title.replace("_", " ")] = {key: _line(label[part], served[part, column]) for key, part in parts.items()}
        reliability_plot(panels, folder / f"reliability_{name}.png")
    (folder / "reliability.json").write_text(json.dumps(tables, indent=1))


def _line(label: np.ndarray, probability: np.ndarray) -> Reliability:
    """Compute the reliability of one slice with bins of at least ROWS_A_BIN rows, at most ten; smaller bins are noise."""
    return reliability(label, probability, bins=min(10, max(1, len(label) // ROWS_A_BIN)))


def slices_of(features: FeatureSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Name the surface, duration, video age and activity slice of each impression in `rows`."""
    columns, state = features.columns, features.pipeline.schema.state
    videos = columns["video_rows"][rows]
    duration_s = np.array(features.videos["video_duration_s"][videos, 0], np.float64)
    age_h = (columns["time_ms"][rows] - np.asarray(features.catalogue.upload_ms)[videos]) / HOUR_MS
    shown = state.counts.index("impression") * len(state.half_lives_h) if "impression" in state.counts else 0
    slowest = shown + int(np.argmax(state.half_lives_h))
    return usual_slices(
        surface=_surface(features, rows),
        duration_s=np.where(duration_s > 0, duration_s, np.nan),
        video_age_h=age_h,
        impressions=columns["user"][rows, slowest],
    )


def _surface(features: FeatureSet, rows: np.ndarray) -> np.ndarray:
    """Return the surface of each impression (N,), or "any" if the schema does not declare it."""
    if "context.surface" not in features.columns:
        return np.full(len(rows), "any")
    context = {name: values[rows] for name, values in features.columns.items() if name.startswith("context.")}
    surface = features.dictionaries.raw(context)["surface"].astype(str)
    return np.where(surface == "", "unknown", surface)

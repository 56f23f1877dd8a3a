"""Score logged impressions with built features and the trained ranker."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from watchnext.data.splits import SPLITS
from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.weights import load_network
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.ranking.heads import Scorer
from watchnext.ranking.target_metrics import figures
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

CHUNK = 1024
waiting = partial(tqdm, delay=3.0, leave=False)  # progress bar that appears after 3 seconds


def held_out_rows(features: FeatureSet, split: str) -> np.ndarray:
    """Return the rows (n,) of a split. Raises ValueError for an unknown or empty split."""
    if split not in SPLITS or not len(rows := features.rows(split)):
        raise ValueError(f"split {split!r} has no impressions, expected a non-empty one of {', '.join(SPLITS)}")
    return rows


def scored(features: FeatureSet, network: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """Predict (n, T) for the impressions `rows` (n,) of the feature set."""
    starts = waiting(range(0, len(rows), CHUNK), desc="scores")
    parts = [predicted(network, features.batch(rows[start : start + CHUNK])) for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, len(TARGETS)), np.float32)


@torch.no_grad()
def predicted(network: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Predict (n, T) for inputs (n, ...) in memory, n at least 1."""
    scorer, rows = Scorer(network).eval(), len(inputs["video_codes"])
    chunks = ({name: block[start : start + CHUNK] for name, block in inputs.items()} for start in range(0, rows, CHUNK))
    return np.concatenate([scorer(chunk).numpy() for chunk in chunks])


@torch.no_grad()
def logits_of(features: FeatureSet, network: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """Compute the logits (n, T) of a network for the impressions `rows` (n,)."""
    starts = waiting(range(0, len(rows), CHUNK), desc="logits")
    parts = [network(features.batch(rows[start : start + CHUNK])).numpy() for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, len(TARGETS)), np.float32)


def held_out_metrics(features: FeatureSet, network: torch.nn.Module, split: str) -> dict[str, float]:
    """Compute the metrics of a network on the days of a split, named `split/metric`."""
    return metrics_of(features, scored(features, network, features.rows(split)), split)


def metrics_of(features: FeatureSet, predictions: np.ndarray, split: str) -> dict[str, float]:
    """Compute the metrics of predictions (n, T) for a split, or for its first n rows, named `split/metric`."""
    rows, columns = features.rows(split)[: len(predictions)], features.columns
    duration_s = features.videos["video_duration_s"][columns["video_rows"][rows], 0]
    groups = columns["user_rows"][rows], features.requests(rows)
    measured = figures(predictions, columns["targets"][rows], *groups, duration_s)
    return {f"{split}/{name}": value for name, value in measured.items()}


@dataclass(frozen=True)
class Ranker:
    """A trained network with its calibration and the targets it was trained for."""

    network: torch.nn.Module
    calibration: Calibration
    heads: tuple[str, ...] = TARGETS

    @classmethod
    def load(cls, folder: Path, *, schema: FeatureSchema, repair: str) -> "Ranker":
        """Load a folder written by `train.py`. Raises FileNotFoundError and SchemaError naming `repair`."""
        network = load_network(folder, schema=schema, repair=repair)
        recipe = json.loads((Path(folder) / "model.json").read_text())["recipe"]
        return cls(network, Calibration.load(Path(folder) / "calibration"), tuple(recipe.get("heads", TARGETS)))

    def require(self, heads: Iterable[str], *, by: str) -> None:
        """Raise ValueError if the setting `by` needs a head that the network was not trained for."""
        for name in heads:
            if name not in self.heads:
                raise ValueError(
                    f"{by} needs the head {name!r}, but the ranker was trained for {', '.join(self.heads)} only; remove it "
                    "there, or train with a loss that includes it: "
                    "`python train.py model=dcn loss@model.module.loss=multi_task`"
                )

    def scored(self, features: FeatureSet, rows: np.ndarray) -> np.ndarray:
        """Predict (n, T) for the impressions `rows` (n,), calibrated as in serving."""
        return self.calibration(scored(features, self.network, rows))

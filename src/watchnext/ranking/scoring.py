"""Scores of logged impressions, from built features and the trained ranker."""

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
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

CHUNK = 1024
waiting = partial(tqdm, delay=3.0, leave=False)  # a bar for what may take long, shown after so many seconds


def held_out_rows(features: FeatureSet, split: str) -> np.ndarray:
    """The rows (n,) of a split. Raises ValueError for one that is none or has none."""
    if split not in SPLITS or not len(rows := features.rows(split)):
        raise ValueError(f"there are no {split!r} impressions, expected one of {', '.join(SPLITS)} that has some")
    return rows


def scored(features: FeatureSet, network: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """Predictions (n, T) of the impressions `rows` (n,) of the feature set."""
    starts = waiting(range(0, len(rows), CHUNK), desc="scores")
    parts = [predicted(network, features.batch(rows[start : start + CHUNK])) for start in starts]
    return np.concatenate(parts) if parts else np.zeros((0, len(TARGETS)), np.float32)


@torch.no_grad()
def predicted(network: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    """Predictions (n, T) of inputs (n, ...) that are in memory, n at least 1."""
    scorer, rows = Scorer(network).eval(), len(inputs["video_codes"])
    chunks = ({name: block[start : start + CHUNK] for name, block in inputs.items()} for start in range(0, rows, CHUNK))
    return np.concatenate([scorer(chunk).numpy() for chunk in chunks])


@dataclass(frozen=True)
class Ranker:
    """What ranks: a trained network, the calibration of its predictions, and the targets that it was trained for."""

    network: torch.nn.Module
    calibration: Calibration
    heads: tuple[str, ...] = TARGETS

    @classmethod
    def load(cls, folder: Path, *, schema: FeatureSchema, repair: str) -> "Ranker":
        """Of a folder that `train.py` wrote. Raises FileNotFoundError and SchemaError naming `repair`."""
        network = load_network(folder, schema=schema, repair=repair)
        recipe = json.loads((Path(folder) / "model.json").read_text())["recipe"]
        return cls(network, Calibration.load(Path(folder) / "calibration"), tuple(recipe.get("heads", TARGETS)))

    def require(self, heads: Iterable[str], *, by: str) -> None:
        """Raise ValueError where `by`, a setting, reads a head that the network lacks or was not trained for."""
        for name in heads:
            if name not in self.heads:
                raise ValueError(
                    f"{by} asks the ranker for {name!r}, but it was trained for {', '.join(self.heads)} alone; leave it out "
                    f"there, or train with a loss that has it: `python train.py model=dcn loss@model.module.loss=multi_task`"
                )

    @classmethod
    def calibrated(cls, features: FeatureSet, network: torch.nn.Module, methods: Mapping[str, str]) -> "Ranker":
        """The network with curves fitted on validation rows; `methods` as in `Calibration.fit`."""
        rows = features.rows("valid")
        targets = features.columns["targets"][rows]
        return cls(network, Calibration.fit(scored(features, network, rows), targets, methods=methods))

    def scored(self, features: FeatureSet, rows: np.ndarray) -> np.ndarray:
        """Predictions (n, T) of the impressions `rows` (n,), as they are served."""
        return self.calibration(scored(features, self.network, rows))

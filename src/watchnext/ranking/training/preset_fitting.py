"""Fit a ranking preset: a network, trees, or an ensemble of both."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch

from watchnext.code_digest import code_of, targets_of
from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.checkpoints import Checkpoints
from watchnext.nn.training import TrainerOf, fit_network
from watchnext.ranking.models.ensemble import EnsembleModule
from watchnext.ranking.scoring import scored
from watchnext.ranking.target_metrics import figures

Log = Callable[[Mapping[str, float], int], None]
# () > new module partial without features, callback that keeps its best epoch.
Preset = Callable[[], tuple[partial, pl.Callback | None]]


class Fitted(Protocol):
    """Model without Lightning training: trees or an ensemble. `figures` describes the fit."""

    features: FeatureSet
    network: torch.nn.Module
    recipe: dict

    @property
    def figures(self) -> dict[str, float]: ...

    def save(self, folder: Path) -> None: ...


def code_of_preset(preset: Mapping) -> str:
    """Digest the code that trains a preset: its classes, and this module for trees and ensembles, which have no `best`."""
    return code_of(*targets_of(preset), *(() if "best" in preset else (__name__,)))


def fit(
    module: Fitted | pl.LightningModule,
    best: pl.Callback | None,
    *,
    name: str,
    seed: int,
    trainer: TrainerOf,
    log: Log,
    checkpoints: Checkpoints | None = None,
) -> None:
    """Fit `module`. Networks, including members of an ensemble, resume from `checkpoints`; trees restart, as they take
    seconds."""
    if isinstance(module, pl.LightningModule):
        fit_network(module, best, name=name, seed=seed, trainer=trainer, checkpoints=checkpoints)
        return
    train, valid = (module.features.rows(split) for split in ("train", "valid"))
    if isinstance(module, EnsembleModule):

        def member(name: str, module: Fitted | pl.LightningModule, best: pl.Callback | None, seed: int) -> None:
            torch.manual_seed(seed)
            fit(module, best, name=name, seed=seed, trainer=trainer, log=log, checkpoints=checkpoints)

        module.fit(valid, seed=seed, member=member)
    else:
        module.fit(train, valid, seed=seed, log=log)


def fitted(preset: Preset, features: FeatureSet, *, seed: int, trainer: TrainerOf) -> Fitted:
    """Build and train a preset without logging or checkpoints; the result has `network` and `features`."""
    pl.seed_everything(seed, workers=True, verbose=False)
    make, best = preset()
    module = make(features=features)
    fit(module, best, name="model", seed=seed, trainer=trainer, log=lambda values, step: None)
    return module


def fit_and_measure(
    module: Fitted, *, name: str, seed: int, trainer: TrainerOf, log: Log, checkpoints: Checkpoints
) -> dict[str, float]:
    """Fit trees or an ensemble; return metrics of validation days, test days and the fit."""
    fit(module, None, name=name, seed=seed, trainer=trainer, log=log, checkpoints=checkpoints)
    return held_out(module, "valid") | held_out(module, "test") | module.figures


def held_out(module: Fitted, split: str) -> dict[str, float]:
    """Compute the metrics of a split, named `split/metric`."""
    return figures_of(module.features, scored(module.features, module.network, module.features.rows(split)), split)


def figures_of(features: FeatureSet, predictions: np.ndarray, split: str) -> dict[str, float]:
    """Compute the metrics of predictions (n, T) for a split, named `split/metric`."""
    rows, columns = features.rows(split), features.columns
    duration_s = features.videos["video_duration_s"][columns["video_rows"][rows], 0]
    measured = figures(predictions, columns["targets"][rows], columns["user_rows"][rows], duration_s)
    return {f"{split}/{name}": value for name, value in measured.items()}

"""Fits what a ranking preset describes, be it a network, trees, or a committee of both."""

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
# A module without its features, and the keeper of its best epoch; new ones at every call.
Preset = Callable[[], tuple[partial, pl.Callback | None]]


class Fitted(Protocol):
    """What fits itself: trees and committees. `figures` is what there is to tell of the fit."""

    features: FeatureSet
    network: torch.nn.Module
    recipe: dict

    @property
    def figures(self) -> dict[str, float]: ...

    def save(self, folder: Path) -> None: ...


def code_of_preset(preset: Mapping) -> str:
    """Digest over the code that trains a preset: that of its classes, and this module's for trees and committees, which have no
    `best`."""
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
    """Fit `module`; a network, or each that a committee has, goes on where `checkpoints` hold an epoch of it. Trees start anew:
    they take seconds."""
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
    """What a preset describes, made and trained anew without a trace but the result; a network has `network` and `features`
    alike."""
    pl.seed_everything(seed, workers=True, verbose=False)
    make, best = preset()
    module = make(features=features)
    fit(module, best, name="model", seed=seed, trainer=trainer, log=lambda values, step: None)
    return module


def fit_and_measure(
    module: Fitted, *, name: str, seed: int, trainer: TrainerOf, log: Log, checkpoints: Checkpoints
) -> dict[str, float]:
    """`fit` trees or a committee; their figures on validation and test days, and of the fit."""
    fit(module, None, name=name, seed=seed, trainer=trainer, log=log, checkpoints=checkpoints)
    return held_out(module, "valid") | held_out(module, "test") | module.figures


def held_out(module: Fitted, split: str) -> dict[str, float]:
    """`figures` of a split, named `split/figure`."""
    return figures_of(module.features, scored(module.features, module.network, module.features.rows(split)), split)


def figures_of(features: FeatureSet, predictions: np.ndarray, split: str) -> dict[str, float]:
    """`figures` of the predictions (n, T) of a split's impressions, named `split/figure`."""
    rows, columns = features.rows(split), features.columns
    duration_s = features.videos["video_duration_s"][columns["video_rows"][rows], 0]
    found = figures(predictions, columns["targets"][rows], columns["user_rows"][rows], duration_s)
    return {f"{split}/{name}": value for name, value in found.items()}

"""Training with Lightning: optimizer, loss check, reproducible epochs, best-epoch selection, resuming from checkpoints."""

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.checkpoints import Checkpoints, settings_of, unfinished
from watchnext.tracking import Run, start_run

UNFINISHED = Path("runs/checkpoints")

Log = Callable[[Mapping[str, float], int], None]  # metrics and their step


@dataclass(frozen=True)
class Training:
    """Settings of one fit, beside those of the model.

    seed         of weights, batches and dropout
    trainer      callbacks, logger and other keywords of `pl.Trainer` > trainer
    name         of the model on its checkpoints and its progress bar
    checkpoints  of the interrupted training that is resumed; None writes none
    log          receives metrics while the model is fitted; None also hides the progress bar
    """

    seed: int
    trainer: Callable[..., pl.Trainer]
    name: str = "model"
    checkpoints: Checkpoints | None = None
    log: Log | None = None

    def trainer_with(self, *callbacks: pl.Callback) -> pl.Trainer:
        if self.log is None:
            return self.trainer(callbacks=list(callbacks), logger=False, enable_progress_bar=False)
        return self.trainer(callbacks=[*callbacks, NamedBar(self.name)], logger=StepLogger(self.log))

    def of_member(self, index: int, name: str) -> "Training":
        """Return the training of a member of an ensemble: its own seed, and metrics that bear its name."""
        log = self.log and (lambda values, step: self.log({f"{name}-{key}": values[key] for key in values}, step))
        return replace(self, seed=self.seed + index, name=name, log=log)


class Trainable(Protocol):
    """A model as `model.module` of conf/model/ builds it from features: a network, trees, an ensemble, or nothing to fit."""

    features: FeatureSet
    network: nn.Module

    def fit(self, training: Training) -> dict[str, float]:
        """Fit; return figures of the fit and metrics of validation days. Raises NothingToLearnError without usable rows."""

    def tested(self) -> dict[str, float]:
        """Return metrics of test days, none without usable rows."""

    def save(self, folder: Path) -> None: ...


def built(make: partial, features: FeatureSet, *, seed: int) -> Trainable:
    """Build a model whose initial weights `seed` decides."""
    pl.seed_everything(seed, workers=True, verbose=False)
    return make(features=features)


def fit_and_test(module: Trainable, training: Training) -> dict[str, float]:
    """Fit, and measure validation and test days. Metrics of test days without usable rows are nan."""
    fitted = module.fit(training)
    undefined = {name.replace("valid/", "test/"): float("nan") for name in fitted if name.startswith("valid/")}
    return undefined | fitted | module.tested()


class NothingToLearnError(ValueError):
    """A split without rows to train or to evaluate on; the message names it."""


def adam(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Build a fused AdamW. Embedding tables, gains and biases do not decay: a rare row would shrink in every batch without
    it."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in tables].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=learning_rate,
        fused=True,
    )


def finite(loss: Tensor, batch_index: int, *, key: str, learning_rate: float) -> Tensor:
    """Return the loss of a batch. Raises ValueError if it is nan or infinite, naming the batch and the configuration `key` of
    the learning rate."""
    if not loss.isfinite():
        raise ValueError(
            f"the loss of batch {batch_index} is {loss.item()}; check its inputs, or lower {key} ({learning_rate:g}). "
            "Nothing was written; the previously trained model is unchanged"
        )
    return loss


class SeededEpochs(pl.Callback):
    """Seed each epoch by `seed` and its number, so that a resumed training repeats the uninterrupted one."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.train_dataloader.dataset.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, batch_index: int) -> None:
        """Seed at the first batch. Creating a loader's iterator also draws from torch's generator, and Lightning does so
        earlier when it resumes."""
        if batch_index == 0:
            drawn = np.random.SeedSequence((self.seed, trainer.current_epoch)).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))


class BestWeights(pl.Callback):
    """Keep the weights of the epoch with the best `monitor` in memory, restore them at the end, and stop after `patience`
    epochs without improvement."""

    def __init__(self, *, monitor: str, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self.best, self.epoch, self._stop = float("-inf"), -1, False
        self.metrics: dict[str, float] = {}  # of validation days
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self._stop  # patience was exhausted before the interruption

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor].nan_to_num(nan=float("-inf")))
        if value > self.best or not self._weights:
            self.best, self.epoch = value, trainer.current_epoch
            metrics = trainer.callback_metrics
            self.metrics = {name: float(metrics[name]) for name in metrics if name.startswith("valid/")}
            self._weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = self._stop = True

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._weights:
            module.load_state_dict(self._weights)

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("best", "epoch", "metrics", "_stop", "_weights")}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class KeptEpochs(pl.Callback):
    """Write a checkpoint of `name` after every epoch: weights, optimizer, best epoch and patience."""

    def __init__(self, *, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._name = checkpoints, name

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._checkpoints.write(self._name, trainer.current_epoch, partial(trainer.save_checkpoint, weights_only=False))


class Bf16Training(MixedPrecision):
    """Train in bf16 around f32 weights; validate and test in f32, as serving does."""

    # Lightning refuses to clip with a fused optimizer because of gradient scaling; bf16 does not scale.
    clip_gradients = Precision.clip_gradients

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    def val_step_context(self) -> AbstractContextManager:
        return nullcontext()

    test_step_context = val_step_context


def has_amx() -> bool:
    """Return True if this processor multiplies bf16 matrices in hardware. AVX-512 BF16 alone is slower than f32
    (`python -m benchmarks.ranker_training`)."""
    return torch.cpu._is_amx_tile_supported()


def fastest_precision() -> Precision:
    """Choose bf16 on a processor with AMX, else f32; see `trainer.plugins` in conf/config.yaml."""
    return Bf16Training() if has_amx() else Precision()


class NamedBar(TQDMProgressBar):
    """Progress bar with the network's name and epochs counted from 1."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self._name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self.train_progress_bar.set_description(f"{self._name} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's notes on loaders: one process makes the batches, so that their count is right."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    needless = "does not have many workers|IterableDataset` has `__len__`|treespec, LeafSpec"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({needless}).*")
        yield


@contextmanager
def tracked(
    config: Mapping, features: FeatureSet, *, seed: int, trainer: Callable[..., pl.Trainer]
) -> Iterator[tuple[Run, Training]]:
    """Open the run of a plain configuration, and its checkpoints; both go on where the last one was interrupted."""
    name, tags = config["model"]["name"], {"data": config["data"]["name"]} | features.provenance
    with (
        unfinished(UNFINISHED, name, settings_of(config, features.report)) as kept,
        start_run(name, config=config, tags=tags, continues=kept.run) as run,
    ):
        kept.run = run.id
        yield run, Training(seed, trainer, name, kept, run.log_metrics)


class StepLogger(Logger):
    """Hand the metrics of Lightning to `log`."""

    name = version = None

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._log(metrics, step or 0)

    def log_hyperparams(self, *args: object, **settings: object) -> None:
        """Log none: the run has the whole configuration."""


class TrainableModule(pl.LightningModule, ABC):
    """Lightning module that fits itself: keeps the epoch with the best `monitor`, and stops `patience` epochs after it."""

    def __init__(self, *, monitor: str, patience: int) -> None:
        super().__init__()
        self.monitor, self.patience = monitor, patience

    @abstractmethod
    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Load a split. Raises NothingToLearnError for an empty one."""

    def fit(self, training: Training) -> dict[str, float]:
        """Fit, resuming from the newest checkpoint; return the best epoch and its validation metrics."""
        loaders = [self.loader(split, seed=training.seed) for split in ("train", "valid")]
        best, kept = BestWeights(monitor=self.monitor, patience=self.patience), training.checkpoints
        callbacks = [KeptEpochs(checkpoints=kept, name=training.name)] if kept else []
        reached = kept.latest(training.name) if kept else None
        with quiet():
            trainer = training.trainer_with(SeededEpochs(seed=training.seed), best, *callbacks)
            trainer.fit(self, *loaders, ckpt_path=reached, weights_only=True)
        self.eval()
        return {"best_epoch": float(best.epoch)} | best.metrics

    def tested(self) -> dict[str, float]:
        """Return metrics of test days, none without usable rows."""
        try:
            loader = self.loader("test", seed=0)
        except NothingToLearnError:
            return {}
        with quiet():
            self.trainer.test(self, loader, verbose=False)
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

"""Callbacks and logger of a training with Lightning: repeatable epochs, the best one, checkpoints, progress, metrics."""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor

from watchnext.nn.checkpoints import Checkpoints
from watchnext.nn.sharding import placed_as, whole
from watchnext.nn.trainable import Log


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
        now = module.state_dict()  # the weights of a checkpoint are whole
        self._weights = {name: placed_as(tensor, now[name]) for name, tensor in self._weights.items()}

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
            module.load_state_dict(self._whole())

    def _whole(self) -> dict[str, Tensor]:
        return {name: whole(tensor) for name, tensor in self._weights.items()}

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("best", "epoch", "metrics", "_stop")} | {"_weights": self._whole()}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class KeptEpochs(pl.Callback):
    """Write a checkpoint of `name` after every epoch: weights, optimizer, best epoch and patience."""

    def __init__(self, *, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._name = checkpoints, name

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._checkpoints.write(self._name, trainer.current_epoch, partial(trainer.save_checkpoint, weights_only=False))


class NamedBar(TQDMProgressBar):
    """Progress bar with the network's name and epochs counted from 1."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self._name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self.train_progress_bar.set_description(f"{self._name} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


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

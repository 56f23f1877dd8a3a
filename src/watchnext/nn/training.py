"""Training with Lightning: optimizer, loss check, reproducible epochs, best-epoch selection, resuming from checkpoints."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from torch import Tensor, nn

from watchnext.nn.checkpoints import Checkpoints
from watchnext.tracking import Run

TrainerOf = Callable[[str, list[pl.Callback]], pl.Trainer]  # network name, callbacks > trainer


class DefinedMetricsLogger(MLFlowLogger):
    """MLflow's logger without undefined values, like `log_metrics` of a run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if value == value}, step)


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
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self._stop  # patience was exhausted before the interruption

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor].nan_to_num(nan=float("-inf")))
        if value > self.best or not self._weights:
            self.best, self.epoch = value, trainer.current_epoch
            self._weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = self._stop = True

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._weights:
            module.load_state_dict(self._weights)

    def state_dict(self) -> dict:
        return {"best": self.best, "epoch": self.epoch, "stop": self._stop, "weights": self._weights}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.epoch, self._stop, self._weights = (state[name] for name in ("best", "epoch", "stop", "weights"))


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
    """Choose bf16 on a processor with AMX, else f32; see conf/trainer/fast.yaml."""
    return Bf16Training() if has_amx() else Precision()


class NamedBar(TQDMProgressBar):
    """Progress bar with the network's name and epochs counted from 1."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self._name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self.train_progress_bar.set_description(f"{self._name} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def tracked(trainer: Callable[..., pl.Trainer], *, model: str, run: Run, along: tuple[pl.Callback, ...] = ()) -> TrainerOf:
    """Return a factory of trainers that log to `run`, with `along` as further callbacks. Networks other than `model` log under
    their own name."""

    def trainer_for(name: str, callbacks: list[pl.Callback]) -> pl.Trainer:
        logger = DefinedMetricsLogger(run_id=run.id, tracking_uri=run.tracking_uri, prefix="" if name == model else name)
        return trainer(callbacks=[*callbacks, *along, NamedBar(name)], logger=logger)

    return trainer_for


def fit_network(
    module: pl.LightningModule,
    best: pl.Callback,
    *,
    name: str,
    seed: int,
    trainer: TrainerOf,
    checkpoints: Checkpoints | None = None,
) -> pl.Trainer:
    """Fit `module`, resuming from the newest checkpoint of `name`; return the trainer."""
    callbacks, reached = [SeededEpochs(seed=seed), best], None
    if checkpoints is not None:
        callbacks.append(KeptEpochs(checkpoints=checkpoints, name=name))
        reached = checkpoints.latest(name)
    fitting = trainer(name, callbacks)
    loaders = (module.loader(split, seed=seed) for split in ("train", "valid"))
    fitting.fit(module, *loaders, ckpt_path=reached, weights_only=True)
    module.eval()
    return fitting


def fit_and_measure(
    module: pl.LightningModule, best: BestWeights, *, name: str, seed: int, trainer: TrainerOf, checkpoints: Checkpoints
) -> dict[str, float]:
    """Fit, then evaluate the best epoch on validation and test days. Test metrics are nan if the test days have no rows.

    An unusable validation split raises before training starts.
    """
    valid = module.loader("valid", seed=seed)
    fitted = fit_network(module, best, name=name, seed=seed, trainer=trainer, checkpoints=checkpoints)
    fitted.validate(module, valid, verbose=False)
    reached = {name: float(value) for name, value in fitted.callback_metrics.items()}
    undefined = {name.replace("valid/", "test/"): float("nan") for name in reached if name.startswith("valid/")}
    try:
        fitted.test(module, module.loader("test", seed=seed), verbose=False)
        measured = {name: float(value) for name, value in fitted.callback_metrics.items()}
    except NothingToLearnError:
        measured = {}
    return {"best_epoch": float(best.epoch)} | undefined | reached | measured

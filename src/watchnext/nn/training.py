"""What every Lightning module needs of training: the optimizer, a look at the loss, epochs that repeat, the best epoch instead
of the last, and a place to go on from."""

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

TrainerOf = Callable[[str, list[pl.Callback]], pl.Trainer]  # a network's name, and what its training needs to be called


class DefinedMetricsLogger(MLFlowLogger):
    """MLflow's logger, which leaves out what is undefined, as a run's own `log_metrics` does."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name: value for name, value in metrics.items() if value == value}, step)


class NothingToLearnError(ValueError):
    """A split without a row to learn from, or to measure by; the message names it."""


def adam(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; embedding tables, gains and biases do not decay, as a rare row would shrink with every batch it is not in. Fused:
    one walk over tables that may be large, not a dozen."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in tables].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=learning_rate,
        fused=True,
    )


def finite(loss: Tensor, place: int, *, key: str, learning_rate: float) -> Tensor:
    """The loss of batch `place`. Raises ValueError naming the batch, and the learning rate by its `key` in the configuration,
    where it is nan or infinite."""
    if not loss.isfinite():
        raise ValueError(
            f"the loss of batch {place} is {loss.item()}; look at its inputs, or lower {key}, "
            f"which is {learning_rate:g}. Nothing was written; what was trained before is as it was"
        )
    return loss


class SeededEpochs(pl.Callback):
    """Makes an epoch a function of the weights, the optimizer's state, `seed` and the epoch's number alone: one that is run
    after a restart is the one that would have been."""

    def __init__(self, *, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.train_dataloader.dataset.set_epoch(trainer.current_epoch)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: object, place: int) -> None:
        """At the first batch, not before: making a loader's iterator draws from torch's generator too, and after a restart
        Lightning makes it earlier."""
        if place == 0:
            drawn = np.random.SeedSequence((self.seed, trainer.current_epoch)).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))


class BestWeights(pl.Callback):
    """Keeps the weights of the epoch with the best `monitor` in memory and puts them back at the end; stops after `patience`
    worse ones."""

    def __init__(self, *, monitor: str, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self.best, self.epoch, self._stop = float("-inf"), -1, False
        self._weights: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop |= self._stop  # its patience had ended when it was interrupted

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
    """Writes where the training of `name` stands after every epoch: weights, optimizer, best epoch and patience."""

    def __init__(self, *, checkpoints: Checkpoints, name: str) -> None:
        self._checkpoints, self._name = checkpoints, name

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._checkpoints.write(self._name, trainer.current_epoch, partial(trainer.save_checkpoint, weights_only=False))


class Bf16Training(MixedPrecision):
    """Training steps compute in bf16 around f32 weights; what is measured is what will serve, in f32."""

    # Lightning refuses to clip before a fused optimizer, as that may scale gradients; bf16 has no scale.
    clip_gradients = Precision.clip_gradients

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    def val_step_context(self) -> AbstractContextManager:
        return nullcontext()

    test_step_context = val_step_context


def has_amx() -> bool:
    """Whether this processor multiplies matrices of bf16 in hardware. AVX-512 BF16 alone does not pay: f32 trains a third
    faster (`python -m benchmarks.ranker_training`)."""
    return torch.cpu._is_amx_tile_supported()


def fastest_precision() -> Precision:
    """bf16 where the processor has AMX, else f32; see conf/trainer/fast.yaml."""
    return Bf16Training() if has_amx() else Precision()


class NamedBar(TQDMProgressBar):
    """Lightning's bar under the network's name, epochs counted from 1."""

    def __init__(self, name: str) -> None:
        super().__init__(refresh_rate=10)
        self._name = name

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_start(trainer, module)
        self.train_progress_bar.set_description(f"{self._name} epoch {trainer.current_epoch + 1}/{trainer.max_epochs}")


def tracked(trainer: Callable[..., pl.Trainer], *, model: str, run: Run, along: tuple[pl.Callback, ...] = ()) -> TrainerOf:
    """Trainers that log every epoch's figures in `run`, each network's but that of `model` itself under its own name, with the
    callbacks `along` after those asked for."""

    def made(name: str, callbacks: list[pl.Callback]) -> pl.Trainer:
        logger = DefinedMetricsLogger(run_id=run.id, tracking_uri=run.tracking_uri, prefix="" if name == model else name)
        return trainer(callbacks=[*callbacks, *along, NamedBar(name)], logger=logger)

    return made


def fit_network(
    module: pl.LightningModule,
    best: pl.Callback,
    *,
    name: str,
    seed: int,
    trainer: TrainerOf,
    checkpoints: Checkpoints | None = None,
) -> pl.Trainer:
    """Fit `module`, going on after the last epoch that `checkpoints` hold of `name`; returns the trainer that did."""
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
    """`fit_network`, and what the best epoch's weights reach on validation and test days; on test days without a row to measure
    by, nan. Raises what the loader of validation days raises before anything is trained."""
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

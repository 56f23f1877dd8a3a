"""Training with Lightning: a module that fits itself, optimizer, loss check, precision, tracked runs."""

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, distributed, nn
from torch.utils.data import DataLoader

from watchnext.features.dataset.batches import NO_INPUTS, FeatureSet
from watchnext.features.dataset.epochs import processes
from watchnext.nn.callbacks import BestWeights, KeptEpochs, NamedBar, SeededEpochs, StepLogger
from watchnext.nn.checkpoints import followed, settings_of, unfinished
from watchnext.nn.id_tables import FullTable
from watchnext.nn.sharding import clip_to_norm, is_sharded
from watchnext.nn.trainable import NothingToLearnError, Trainable, Training
from watchnext.tracking import EXAMPLES, Run, start_run

UNFINISHED = Path("runs/checkpoints")


def built(make: partial, features: FeatureSet, *, seed: int) -> Trainable:
    """Build a model whose initial weights `seed` decides."""
    pl.seed_everything(seed, workers=True, verbose=False)
    return make(features=features)


def fit_and_test(module: Trainable, training: Training) -> dict[str, float]:
    """Fit, and measure validation and test days. Metrics of test days without usable rows are nan; a fit that repeats an
    evaluated one has learned from all days, and is not measured."""
    fitted = module.fit(training)
    if training.evaluated is not None:
        return fitted
    undefined = {name.replace("valid/", "test/"): float("nan") for name in fitted if name.startswith("valid/")}
    return undefined | fitted | module.tested()


@torch.no_grad()
def example(module: Trainable, features: FeatureSet, stage: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the inputs of a few training impressions, and what the network makes of them: logits, or vectors of viewers."""
    batch = features.batch(features.rows("train")[:EXAMPLES])
    inputs = {name: values for name, values in batch.items() if name not in NO_INPUTS}
    network = module.network.eval()
    name, outputs = ("queries", network.query(inputs)) if stage == "retrieval" else ("logits", network(inputs))
    return {key: values.numpy() for key, values in inputs.items()}, {name: outputs.numpy()}


def adam(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Build a fused AdamW. Embedding tables, gains and biases do not decay: a rare row would shrink in every batch without
    it. Tables of ids are a group of their own, as fused steps take no mixture of sharded and other parameters."""
    tables = {id(module.weight): type(module) for module in network.modules() if isinstance(module, nn.Embedding)}
    decaying, free, of_ids = [], [], []
    for parameter in network.parameters():
        table = tables.get(id(parameter))
        (of_ids if table is FullTable else free if table or parameter.ndim < 2 else decaying).append(parameter)
    kinds = (decaying, weight_decay), (free, 0.0), (of_ids, 0.0)
    groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in kinds]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def finite(loss: Tensor, batch_index: int, *, key: str, learning_rate: float) -> Tensor:
    """Return the loss of a batch. Raises ValueError if it is nan or infinite, naming the batch and the configuration `key` of
    the learning rate."""
    if not loss.isfinite():
        raise ValueError(
            f"the loss of batch {batch_index} is {loss.item()}; check its inputs, or lower {key} ({learning_rate:g}). "
            "Nothing was written; the previously trained model is unchanged"
        )
    return loss


def in_order(parts: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Join the batches of all processes, each of positions (n,) and values (n, ...); return the values by position."""
    joined = [torch.cat(each).cpu() for each in zip(*parts, strict=True)]
    if processes() > 1:
        found: list = [None] * processes()
        distributed.all_gather_object(found, joined)
        joined = [torch.cat(each) for each in zip(*found, strict=True)]
    positions, *values = joined
    first = np.unique(positions.numpy(), return_index=True)[1]  # a small batch is computed by every process
    return [each[first] for each in values]


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


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's notes on loaders: one process makes the batches, so that their count is right."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    needless = "does not have many workers|IterableDataset` has `__len__`|treespec, LeafSpec|have no `val_dataloader`"
    needless += "|sync_dist=True"  # every process logs the metrics of all
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*({needless}).*")
        yield


def stage_of(config: Mapping) -> str:
    """Return the stage of a plain configuration's model, by whose name its runs are found: "retrieval", "ranking"."""
    return config["model"]["module"]["_target_"].split(".")[1]


def is_first() -> bool:
    """Return True in the process that tracks and writes, False in the others of a training by several."""
    return rank_zero_only.rank == 0


def evaluated_figures(folder: str | None, name: str) -> dict[str, float] | None:
    """Return the figures of the evaluated model `name` in a folder, whose fit is repeated; None without a folder."""
    if folder is None:
        return None
    path = Path(folder) / name / "metrics.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing, expected the figures of an evaluated model; run `dvc repro` first")
    return json.loads(path.read_text())


def following(
    config: Mapping,
    features: FeatureSet,
    *,
    seed: int,
    trainer: Callable[..., pl.Trainer],
    evaluated: Mapping[str, float] | None = None,
) -> Training:
    """Return the training of a process that is not the first: it logs nothing, and resumes from what the first wrote."""
    name = config["model"]["name"]
    kept = followed(UNFINISHED, name, settings_of(config, features.report))
    return Training(seed, trainer, name, kept, evaluated=evaluated)


@contextmanager
def swept(config: Mapping, features: FeatureSet, folder: Path | None, words: Sequence[str]) -> Iterator[Run | None]:
    """Open the run of the sweep in `folder`, started by `words`, or go on with it; None outside a sweep.

    It ends with each of its trainings, as any of them may be the last.
    """
    if folder is None:
        yield None
        return
    stage, tags = stage_of(config), {"data": config["data"]["name"]} | features.provenance
    note = folder / f"{stage}.run"
    continues = note.read_text() if note.exists() else None
    about = {"sweep": list(words), "data": config["data"]}
    with start_run(f"sweep {folder.name}", config=about, tags=tags, stage=stage, continues=continues) as run:
        note.write_text(run.id)
        yield run


@contextmanager
def tracked(
    config: Mapping,
    features: FeatureSet,
    *,
    seed: int,
    trainer: Callable[..., pl.Trainer],
    evaluated: Mapping[str, float] | None = None,
    parent: Run | None = None,
) -> Iterator[tuple[Run, Training]]:
    """Open the run of a plain configuration, below that of a sweep if it has one, and its checkpoints; both go on where the
    last one was interrupted."""
    name, tags = config["model"]["name"], {"data": config["data"]["name"]} | features.provenance
    with (
        unfinished(UNFINISHED, name, settings_of(config, features.report)) as kept,
        start_run(name, config=config, tags=tags, stage=stage_of(config), continues=kept.run, parent=parent) as run,
    ):
        kept.run = run.id
        yield run, Training(seed, trainer, name, kept, run.log_metrics, evaluated)


def trainer_of(training: Training, *callbacks: pl.Callback) -> pl.Trainer:
    if training.log is None:
        return training.trainer(callbacks=list(callbacks), logger=False, enable_progress_bar=False)
    return training.trainer(callbacks=[*callbacks, NamedBar(training.name)], logger=StepLogger(training.log))


class TrainableModule(pl.LightningModule, ABC):
    """Lightning module that fits itself: keeps the epoch with the best `monitor`, and stops `patience` epochs after it."""

    def __init__(self, *, monitor: str, patience: int) -> None:
        super().__init__()
        self.monitor, self.patience = monitor, patience

    @abstractmethod
    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Load a split. Raises NothingToLearnError for an empty one."""

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None, gradient_clip_algorithm: str | None
    ) -> None:
        """Clip as the trainer says; with sharded tables to the norm over all processes."""
        if gradient_clip_val and any(map(is_sharded, self.parameters())):
            clip_to_norm(self.parameters(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def fit(self, training: Training) -> dict[str, float]:
        """Fit, resuming from the newest checkpoint; return the best epoch and its validation metrics.

        A fit that repeats an evaluated one ends with its best epoch.
        """
        repeats = None if training.evaluated is None else int(training.repeated("best_epoch"))
        splits = ("train", "valid") if repeats is None else ("train",)
        loaders = [self.loader(split, seed=training.seed) for split in splits]
        best, kept = BestWeights(monitor=self.monitor, patience=self.patience), training.checkpoints
        callbacks = [KeptEpochs(checkpoints=kept, name=training.name)] if kept else []
        reached = kept.latest(training.name) if kept else None
        with quiet():
            trainer = trainer_of(training, SeededEpochs(seed=training.seed), best, *callbacks)
            if repeats is not None:
                trainer.fit_loop.max_epochs = repeats + 1
            trainer.fit(self, *loaders, ckpt_path=reached, weights_only=True)
        self.eval()
        return {"best_epoch": float(best.epoch if repeats is None else repeats)} | best.metrics

    def tested(self) -> dict[str, float]:
        """Return metrics of test days, none without usable rows."""
        try:
            loader = self.loader("test", seed=0)
        except NothingToLearnError:
            return {}
        with quiet():
            self.trainer.test(self, loader, verbose=False)
        return {name: float(value) for name, value in self.trainer.callback_metrics.items()}

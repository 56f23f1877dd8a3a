"""Distillation: a teacher, usually an ensemble, is fitted first, and one small network then learns its logits."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from watchnext.features.dataset.batches import CANDIDATE_INPUTS, FeatureSet
from watchnext.nn.trainable import Trainable, Training
from watchnext.nn.weights import load_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.student import Standardised
from watchnext.ranking.scoring import logits_of
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.types import TARGETS

TAUGHT = "teacher_logits"  # column of the feature set, and of a training batch
WARM_UP = 100  # steps in which the learning rate rises


class Distillation(nn.Module):
    """Cross entropy of outcomes (Hinton et al., 2015) plus squared error of logits (Ba & Caruana, NeurIPS 2014) against a
    teacher, summed over targets.

    labels  weight of the labels beside the teacher's probabilities, 0 to 1. Watch time is learned from the teacher alone: its
            logit is an expectation, that of a row is not.
    """

    within, heads = None, TARGETS

    def __init__(self, *, labels: float) -> None:
        super().__init__()
        if not 0.0 <= labels <= 1.0:
            raise ValueError(f"the weight of the labels is {labels}, expected 0 to 1")
        self.labels = labels

    def forward(self, logits: Tensor, taught: Tensor, targets: Tensor | None) -> Tensor:
        """Compute the loss (scalar) of logits (N, T); pairs that were never shown have no `targets` (N, T)."""
        outcomes = taught[:, :WATCH].sigmoid()
        if targets is not None:
            outcomes = torch.lerp(outcomes, targets[:, :WATCH].clamp(0.0, 1.0), self.labels)
        entropy = nn.functional.binary_cross_entropy_with_logits(logits[:, :WATCH], outcomes, reduction="none")
        return entropy.mean(0).sum() + (logits - taught).square().mean(0).sum()


class DistilledModule(RankingModule):
    """Fit a teacher, then train one network on its logits and the labels; only the network is saved.

    teacher  preset of the teacher, `{module}`
    trained  folder of a teacher that `train.py` wrote, in place of one that is fitted here; None: fit `teacher`
    epochs   passes over the training impressions, fewer where the trainer allows fewer; the learning rate ends at 0, and the
             last one is kept
    drawn    pairs that were never shown, per impression: in each batch, viewers with the candidates of other rows, scored by
             the teacher. Counters of a viewer and a candidate together stay those of the candidate's own row.
    hide     input groups to exclude from the network, some of `feature_mask.MASKABLE`; the teacher has its own
    """

    along = (TAUGHT,)

    def __init__(
        self,
        *,
        features: FeatureSet,
        teacher: Mapping,
        trained: str | None,
        network: partial,
        loss: Distillation,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        epochs: int,
        drawn: float,
        monitor: str,
        hide: tuple[str, ...] = (),
    ) -> None:
        if not 0.0 <= drawn <= 1.0:
            raise ValueError(f"drawn is {drawn}, expected 0 to 1 pairs per impression")
        fitted: Trainable = teacher["module"](features=features)  # first, so that its initial weights are those of its preset
        super().__init__(
            features=features,
            network=partial(Standardised, network=network),
            loss=loss,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            monitor=monitor,
            patience=epochs,
            hide=hide,
        )
        self.trained, self.epochs, self.drawn = trained, epochs, drawn
        self._teacher = [fitted]  # in a list, so that Lightning does not train it too
        self._taught_by: list[nn.Module] = []

    @property
    def teacher(self) -> Trainable:
        return self._teacher[0]

    def fit(self, training: Training) -> dict[str, float]:
        """Fit the teacher, then the network; return the figures of both, the teacher's as `teacher/...`.

        Raises FileNotFoundError or SchemaError for a `trained` teacher that is missing or of another schema.
        """
        figures: dict[str, float] = {}
        if self.trained:
            repair = f"python train.py model=ensemble out={self.trained}"
            network = load_network(Path(self.trained), schema=self.features.pipeline.schema, repair=repair)
        else:
            figures, network = self.teacher.fit(training.within("teacher/")), self.teacher.network
        self.learn_from(network)
        shortened = partial(_shortened, training.trainer, self.epochs)
        own = super().fit(replace(training.of_member(0, "student"), trainer=shortened))
        return {f"teacher/{name}": value for name, value in figures.items()} | own

    def tested(self) -> dict[str, float]:
        """Return metrics of test days of both; those of a `trained` teacher stand in its folder."""
        figures = {} if self.trained else self.teacher.tested()
        return {f"teacher/{name}": value for name, value in figures.items()} | super().tested()

    def learn_from(self, teacher: nn.Module) -> None:
        """Score the training impressions by the teacher, once for all epochs."""
        rows, columns = self.features.rows("train"), self.features.columns
        taught = np.full((len(columns["split"]), len(TARGETS)), np.nan, np.float32)
        taught[rows] = logits_of(self.features, teacher.eval(), rows)
        self.features = replace(self.features, columns={**columns, TAUGHT: taught})
        self._taught_by = [teacher]
        if len(rows):
            next(each for each in self.network.modules() if isinstance(each, Standardised)).fit(torch.from_numpy(taught[rows]))

    def objective(self, batch: dict[str, Tensor]) -> Tensor:
        loss = self.loss(self.network(batch).float(), batch[TAUGHT], batch["targets"])
        if not self.drawn:
            return loss
        pairs = drawn_pairs(batch, self.drawn)
        with torch.no_grad():  # the teacher stays in the memory of the processor, as its trees do
            taught = self._taught_by[0]({name: values.cpu() for name, values in pairs.items()}).float().to(self.device)
        return loss + self.drawn * self.loss(self.network(pairs).float(), taught, None)

    def configure_optimizers(self) -> dict:
        optimizer, steps = super().configure_optimizers(), self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate, steps=int(steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def drawn_pairs(batch: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the inputs of random viewers of a batch, each with the candidate of another random row: ceil(share * N) pairs."""
    rows = len(batch["video_codes"])
    viewers, candidates = (torch.randperm(rows)[: math.ceil(share * rows)] for _ in range(2))
    return {name: values[candidates if name in CANDIDATE_INPUTS else viewers] for name, values in batch.items()}


def _rate(step: int, *, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine to 0 (Loshchilov & Hutter, ICLR 2017)."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))


def _shortened(trainer: Callable[..., pl.Trainer], epochs: int, **keywords: object) -> pl.Trainer:
    """Build the trainer for at most `epochs` epochs, validated after the last one, at which the learning rate is 0: an earlier
    one that looks better is noise."""
    shortened = trainer(**keywords)
    last = epochs if shortened.max_epochs in (None, -1) else min(epochs, shortened.max_epochs)
    shortened.fit_loop.max_epochs = shortened.check_val_every_n_epoch = last
    return shortened

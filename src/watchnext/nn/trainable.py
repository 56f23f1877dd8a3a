"""Interface of a trainable model, and the settings of one fit. Free of Lightning, which takes seconds to import and which a
trained model does not need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from torch import nn

from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.checkpoints import Checkpoints

if TYPE_CHECKING:
    import pytorch_lightning as pl

Log = Callable[[Mapping[str, float], int], None]  # metrics and their step


class NothingToLearnError(ValueError):
    """A split without rows to train or to evaluate on; the message names it."""


@dataclass(frozen=True)
class Training:
    """Settings of one fit, beside those of the model.

    seed         of weights, batches and dropout
    trainer      callbacks, logger and other keywords of `pl.Trainer` > trainer
    name         of the model on its checkpoints and its progress bar
    checkpoints  of the interrupted training that is resumed; None writes none
    log          receives metrics while the model is fitted; None also hides the progress bar
    evaluated    figures of a fit with the same settings that was evaluated: its epochs, rounds and weights are repeated on all
                 training rows, and no day is held out to choose them; None chooses them on validation days
    """

    seed: int
    trainer: Callable[..., "pl.Trainer"]
    name: str = "model"
    checkpoints: Checkpoints | None = None
    log: Log | None = None
    evaluated: Mapping[str, float] | None = None

    def of_member(self, index: int, name: str) -> "Training":
        """Return the training of a member of an ensemble: its own seed, and metrics that bear its name."""
        log = self.log and (lambda values, step: self.log({f"{name}-{key}": values[key] for key in values}, step))
        return replace(self, seed=self.seed + index, name=name, log=log)

    def within(self, prefix: str) -> "Training":
        """Return the training of a part, whose evaluated figures are those that begin with `prefix`."""
        if self.evaluated is None:
            return self
        kept = {name.removeprefix(prefix): value for name, value in self.evaluated.items() if name.startswith(prefix)}
        return replace(self, evaluated=kept)

    def repeated(self, name: str) -> float:
        """Return a figure of the evaluated fit. Raises ValueError where it has none, as other settings or code fitted it."""
        if (value := (self.evaluated or {}).get(name)) is None:
            raise ValueError(f"the evaluated model of {self.name} has no {name}; train it again: run `dvc repro`")
        return value


class Trainable(Protocol):
    """A model as `model.module` of conf/model/ builds it from features: a network, trees, an ensemble, or nothing to fit."""

    features: FeatureSet
    network: nn.Module

    def fit(self, training: Training) -> dict[str, float]:
        """Fit; return figures of the fit and metrics of validation days. Raises NothingToLearnError without usable rows."""

    def tested(self) -> dict[str, float]:
        """Return metrics of test days, none without usable rows."""

    def save(self, folder: Path) -> None: ...

"""Lightning module of the ranking networks: combines features, network and loss."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.epochs import Batches
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.nn.trainable import NothingToLearnError
from watchnext.nn.training import TrainableModule, adam, finite, in_order
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.ranking.feature_mask import FeatureMask, masked_columns
from watchnext.ranking.heads import WATCH, predictions
from watchnext.ranking.models.with_watch_time import WatchTimeNetwork
from watchnext.ranking.scoring import metrics_of
from watchnext.ranking.training.debias import InversePropensity
from watchnext.ranking.training.groups import GroupedBatches
from watchnext.types import TARGETS

FIT_ROWS = 1_000_000  # training rows for fitting watch-time heads and propensity weights; more change nothing


class RankingModule(TrainableModule):
    """Train any network `inputs > logits (N, T)` under any loss of `ranking_losses`.

    monitor             validation metric that decides the best epoch
    patience            epochs without improvement after which training stops
    hide                input groups to exclude, some of `feature_mask.MASKABLE`
    watch_time          head of `watch_time` for the last columns; None: the last column is log1p seconds
    position_bias       partial of `debias.PositionBias`, added in training only; None: no position tower
    inverse_propensity  clip of `debias.InversePropensity` weights, as a multiple of the median; None: equal weights
    """

    along: tuple[str, ...] = ()  # further columns of training batches

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: nn.Module,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        monitor: str,
        patience: int,
        hide: tuple[str, ...] = (),
        watch_time: partial | None = None,
        position_bias: partial | None = None,
        inverse_propensity: float | None = None,
    ) -> None:
        super().__init__(monitor=monitor, patience=patience)
        self.features, self.learning_rate, self.weight_decay, self.batch_size = (
            features,
            learning_rate,
            weight_decay,
            batch_size,
        )
        self.recipe = _recipe(network, features.pipeline, tuple(hide), watch_time) | {"heads": list(loss.heads)}
        self.network, self.loss = build_network(self.recipe), loss
        self.watch_time = self.network.watch_time if watch_time else None
        if watch_time:
            self.watch_time.fit(*watched(features, _sampled(features)))
        columns = WATCH + self.watch_time.logits if watch_time else len(TARGETS)
        self.position_bias = position_bias(logits=columns) if position_bias else None
        self.propensities = None
        if inverse_propensity is not None:
            logged = features.columns["propensity"][_sampled(features)]
            self.propensities = InversePropensity(propensities=logged, most=inverse_propensity)
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Load the impressions of a split; only training rows are shuffled. Raises NothingToLearnError for an empty split, and
        for a loss over groups none of which has both labels."""
        rows = self.features.rows(split)
        if not len(rows):
            raise NothingToLearnError(f"there are no {split} impressions; check data.split")
        common = {"features": self.features, "rows": rows, "batch_size": self.batch_size, "seed": seed}
        if split == "train" and self.loss.within:
            batches = GroupedBatches(within=self.loss.within, **common)
            if not any(map(batches.has_order, self.loss.ordered)):
                raise NothingToLearnError(
                    f"no {self.loss.within} of the {len(rows):,} training impressions has both labels of "
                    f"{' or '.join(self.loss.ordered)}, expected some for a loss within a {self.loss.within}; train on more "
                    "days, rank within viewers, or take loss@model.module.loss=multi_task"
                )
            return batches.loader()
        if split == "train":
            return Batches(shuffle=True, along=self.along, **common).loader()
        return Batches(shuffle=False, **common).loader()

    def objective(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the training loss of a batch."""
        targets = batch["targets"]
        logits = (self.network.network if self.watch_time else self.network)(batch).float()  # bf16 is too coarse for a loss
        if self.position_bias is not None:
            logits = logits + self.position_bias(batch["position"])
        watch = None
        if self.watch_time:
            watch = self.watch_time.losses(logits[:, WATCH:], targets[:, WATCH], batch["video_duration_s"][:, 0])
        weights = self.propensities(batch["propensity"]) if self.propensities else None
        return self.loss(logits, targets, batch.get("groups"), watch, weights)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        loss = self.objective(batch) * batch["share"][0]
        finite(loss, batch_index, key="model.module.learning_rate", learning_rate=self.learning_rate)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["targets"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        self._predicted.append((batch_index * self.batch_size + batch["own"], predictions(self.network(batch))))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("valid")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        [predicted] = in_order(self._predicted)
        self._predicted.clear()
        for name, value in metrics_of(self.features, predicted.numpy(), split).items():
            self.log(name, value, prog_bar=name == f"{split}/auc_long_view")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)


def _sampled(features: FeatureSet) -> np.ndarray:
    """Return up to FIT_ROWS training rows, evenly spaced in time."""
    rows = features.rows("train")
    return rows[:: max(1, -(-len(rows) // FIT_ROWS))]


def watched(features: FeatureSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return watched seconds (n,) and video durations in seconds (n,) of `rows`; unknown durations are 0."""
    return features.columns["targets"][rows, WATCH], features.videos["video_duration_s"][
        features.columns["video_rows"][rows], 0
    ]


def _recipe(network: partial, pipeline: FeaturePipeline, hide: tuple[str, ...], watch_time: partial | None) -> dict:
    """Return the recipe of the configured network with its feature mask and watch-time head, if any."""
    if hide:
        network = partial(FeatureMask, network=network, masked=masked_columns(pipeline, hide))
    if watch_time:
        network = partial(WatchTimeNetwork, network=network, watch_time=watch_time)
    return recipe_of(partial(network.func, **{**network.keywords, "targets": len(TARGETS)}), pipeline.sizes)

"""Training of a ranking network: introduces features, network and loss to each other."""

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from watchnext.features.batches import Batches, FeatureSet
from watchnext.features.pipeline import FeaturePipeline
from watchnext.nn.module import adam, finite
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.ranking.blind import Blind, hidden_places
from watchnext.ranking.figures import figures
from watchnext.ranking.groups import GroupedBatches
from watchnext.ranking.heads import predictions
from watchnext.types import TARGETS


class RankingModule(pl.LightningModule):
    """Any network `inputs > logits (N, T)` under any loss `(logits, targets, groups) > scalar`.

    hide  what it does not see of the inputs, some of `blind.HIDABLE`
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: nn.Module,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        hide: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.features, self.learning_rate, self.weight_decay, self.batch_size = (
            features,
            learning_rate,
            weight_decay,
            batch_size,
        )
        self.recipe = _recipe(network, features.pipeline, tuple(hide))
        self.network, self.loss = build_network(self.recipe), loss
        self._scored: list[tuple[Tensor, ...]] = []

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Impressions of a split; only training ones are shuffled. Raises ValueError where there are none."""
        rows = self.features.rows(split)
        if not len(rows):
            raise ValueError(f"there are no {split} impressions; check data.split")
        common = {"features": self.features, "rows": rows, "batch_size": self.batch_size, "seed": seed}
        if split == "train" and self.loss.within:
            return GroupedBatches(within=self.loss.within, **common).loader()
        return Batches(shuffle=split == "train", **common).loader()

    def training_step(self, batch: dict[str, Tensor], place: int) -> Tensor:
        loss = self.loss(self.network(batch), batch["targets"], batch.get("groups"))
        finite(loss, place, key="model.module.learning_rate", learning_rate=self.learning_rate)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["targets"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self._scored.append((predictions(self.network(batch)), batch["targets"], batch["user_rows"]))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("valid")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")

    def _log_metrics(self, split: str) -> None:
        scores, targets, users = (torch.cat(parts).numpy() for parts in zip(*self._scored, strict=True))
        self._scored.clear()
        for name, value in figures(scores, targets, users).items():
            self.log(f"{split}/{name}", value, prog_bar=name == "auc_long_view")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)


def _recipe(network: partial, pipeline: FeaturePipeline, hide: tuple[str, ...]) -> dict:
    """What rebuilds the configured network, behind a blind where something is hidden."""
    whole = recipe_of(partial(network.func, **{**network.keywords, "targets": len(TARGETS)}), pipeline.sizes)
    if not hide:
        return whole
    arguments = {
        "network": {"target": whole["target"], "arguments": whole["arguments"]},
        "hidden": hidden_places(pipeline, hide),
    }
    return recipe_of(partial(Blind, targets=len(TARGETS), **arguments), pipeline.sizes)

"""Training of a ranking network: introduces features, network and loss to each other."""

from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from watchnext import metrics
from watchnext.features.batches import Batches, FeatureSet
from watchnext.nn.module import adam
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.ranking.heads import WATCH, predictions
from watchnext.types import TARGETS


class RankingModule(pl.LightningModule):
    """Any network `inputs > logits (N, T)` under any loss `(logits, targets) > scalar`."""

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: nn.Module,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.features, self.learning_rate, self.weight_decay, self.batch_size = (
            features,
            learning_rate,
            weight_decay,
            batch_size,
        )
        self.recipe = recipe_of(partial(network.func, **{**network.keywords, "targets": len(TARGETS)}), features.pipeline.sizes)
        self.network, self.loss = build_network(self.recipe), loss
        self._scored: list[tuple[Tensor, ...]] = []

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Impressions of a split; only training ones are shuffled. Raises ValueError where there are none."""
        rows = self.features.rows(split)
        if not len(rows):
            raise ValueError(f"there are no {split} impressions; check data.split")
        return Batches(
            features=self.features, rows=rows, batch_size=self.batch_size, shuffle=split == "train", seed=seed
        ).loader()

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        loss = self.loss(self.network(batch), batch["targets"])
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
        for place, name in enumerate(TARGETS):
            score, target = scores[:, place], targets[:, place]
            if place == WATCH:
                self.log(f"{split}/mae_{name}", metrics.mean_absolute_error(target, score))
                continue
            self.log(f"{split}/auc_{name}", metrics.auc(target, score), prog_bar=name == "long_view")
            self.log(f"{split}/gauc_{name}", metrics.gauc(target, score, users))
            self.log(f"{split}/logloss_{name}", metrics.logloss(target, score))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)

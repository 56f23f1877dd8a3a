"""Training of the two-tower model: introduces features, network, negatives and loss to each other."""

from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from watchnext.features.batches import Batches, FeatureSet
from watchnext.nn.module import adam
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.retrieval.index import exact
from watchnext.retrieval.negatives import MixedNegatives
from watchnext.types import TARGETS

GUARD_QUERIES = 1000  # real queries that the index guard measures recall on


class RetrievalModule(pl.LightningModule):
    """positive     the target whose impressions are learned from
    recall_at    K of the validation and test recall, over the whole catalogue
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: nn.Module,
        negatives: MixedNegatives,
        positive: str,
        recall_at: int,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.features, self.negatives, self.positive, self.recall_at = features, negatives, TARGETS.index(positive), recall_at
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.recipe = recipe_of(network, features.pipeline.sizes)
        self.network, self.loss = build_network(self.recipe), loss
        self._videos = {name: torch.from_numpy(np.array(values)) for name, values in features.videos.items()}
        counts = np.bincount(features.columns["video_rows"][self._positives("train")], minlength=len(features.catalogue))
        self._shares = torch.from_numpy(counts / max(counts.sum(), 1))
        self._found: list[tuple[Tensor, Tensor]] = []

    def _positives(self, split: str) -> np.ndarray:
        rows = self.features.rows(split)
        return rows[self.features.columns["targets"][rows, self.positive] > 0]

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Positives of a split; only training ones are shuffled. Raises ValueError where there are none."""
        rows = self._positives(split)
        if not len(rows):
            raise ValueError(
                f"the {split} days hold no impression with {TARGETS[self.positive]}; check data.split and model.module.positive"
            )
        return Batches(
            features=self.features, rows=rows, batch_size=self.batch_size, shuffle=split == "train", seed=seed
        ).loader()

    def videos(self, rows: Tensor) -> Tensor:
        """Video vectors (N, D) of catalogue rows."""
        return self.network.video({name: values[rows] for name, values in self._videos.items()})

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        positives = batch["video_rows"]
        rows = torch.cat([positives, self.negatives.draw(len(self.features.catalogue))])
        log_expected = self.negatives.log_expected(rows, shares=self._shares, batch=len(positives)).float()
        loss = self.loss(
            self.network.query(batch), self.videos(rows), positives=positives, pool_rows=rows, log_expected=log_expected
        )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(positives))
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self._found.append((self.network.query(batch), batch["video_rows"]))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_recall("valid")

    def on_test_epoch_end(self) -> None:
        self._log_recall("test")

    def _log_recall(self, split: str) -> None:
        queries, wanted = (torch.cat(parts).numpy() for parts in zip(*self._found, strict=True))
        self._found.clear()
        rows, _ = exact(self.embeddings(), queries, self.recall_at)
        recall = float((rows == wanted[:, None]).any(axis=1).mean())
        self.log(f"{split}/recall_at_{self.recall_at}", recall, prog_bar=True)

    @torch.no_grad()
    def embeddings(self, chunk: int = 8192) -> np.ndarray:
        """Vectors of the whole catalogue (V, D) float32."""
        rows = torch.arange(len(self.features.catalogue))
        training = self.network.training
        self.network.eval()
        vectors = torch.cat([self.videos(part) for part in rows.split(chunk)]).numpy()
        self.network.train(training)
        return vectors

    @torch.no_grad()
    def _queries(self) -> np.ndarray:
        rows = self._positives("valid")
        chosen = rows[:: max(1, len(rows) // GUARD_QUERIES)][:GUARD_QUERIES]
        return self.network.eval().query(self.features.batch(chosen)).numpy()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        """Network, catalogue vectors (embeddings.npy) and validation queries (queries.npy)."""
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)
        np.save(Path(folder) / "embeddings.npy", self.embeddings())
        np.save(Path(folder) / "queries.npy", self._queries())

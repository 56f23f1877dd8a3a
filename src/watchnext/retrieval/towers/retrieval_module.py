"""Lightning module of the two-tower models: combine data, network, negatives and objective."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.epochs import Batches
from watchnext.nn.trainable import NothingToLearnError
from watchnext.nn.training import TrainableModule, adam, finite, in_order
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.retrieval.towers.negatives import NegativeSample
from watchnext.retrieval.towers.objectives import SampledSoftmax
from watchnext.retrieval.towers.recall import recall_among_all
from watchnext.types import TARGETS

NEW_MS = 24 * 3_600_000.0  # a video this young has little or no past
RECALL_CHECK_QUERIES = 1000  # validation queries for the recall check of the index


def nearest_interest(queries: Tensor, positive_vectors: Tensor) -> Tensor:
    """Select the query of each row (B, D) from queries (B, D) or (B, K, D) that is nearest to the vector of its positive (B,
    D): the interest that trains (ComiRec, Cen et al., KDD 2020)."""
    if queries.dim() == 2:
        return queries
    nearest = (queries @ positive_vectors.unsqueeze(-1)).squeeze(-1).argmax(1)
    return queries[torch.arange(len(queries), device=queries.device), nearest]


class RetrievalModule(TrainableModule):
    """Train towers on impressions with positives.

    positive     target that defines a positive
    recall_at    K of the validation and test recall, over the whole catalogue
    hide_new     probability that a video younger than NEW_MS is trained without its id, as new videos are served
    monitor      validation metric that decides the best epoch
    patience     epochs without improvement after which training stops
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: SampledSoftmax,
        negatives: partial,
        positive: str,
        recall_at: int,
        hide_new: float,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        monitor: str,
        patience: int,
    ) -> None:
        super().__init__(monitor=monitor, patience=patience)
        self.features, self.positive, self.recall_at = features, TARGETS.index(positive), recall_at
        self.hide_new, self.batch_size = hide_new, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.recipe = recipe_of(network, features.pipeline.sizes)
        self.network, self.loss = build_network(self.recipe), loss
        self._id = features.pipeline.sizes.video_id
        self._videos = {name: torch.from_numpy(np.array(values)) for name, values in features.videos.items()}
        self._upload_ms = torch.from_numpy(np.array(features.catalogue.upload_ms))
        counts = np.bincount(features.columns["video_rows"][self._positives("train")], minlength=len(features.catalogue))
        self.negatives = negatives(counts=torch.from_numpy(counts))
        self._validated: list[tuple[Tensor, Tensor, Tensor]] = []

    def _positives(self, split: str) -> np.ndarray:
        rows = self.features.rows(split)
        return rows[self.features.columns["targets"][rows, self.positive] > 0]

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Load the positives of a split; only training rows are shuffled. Raises NothingToLearnError for an empty split."""
        rows = self._positives(split)
        if not len(rows):
            raise NothingToLearnError(
                f"the {split} days hold no impression with {TARGETS[self.positive]}; check data.split, "
                "the definition of this target in labels.*, and model.module.positive"
            )
        common = {"features": self.features, "rows": rows, "batch_size": self.batch_size, "seed": seed}
        return Batches(shuffle=split == "train", whole=("video_rows", "time_ms"), **common).loader()

    def videos(self, rows: Tensor, new: Tensor) -> Tensor:
        """Compute video vectors (N, D), where the network is, of catalogue rows; those that are `new` (N,) have no id."""
        inputs = {name: values[rows] for name, values in self._videos.items()} | {"video_new": new.float()}
        if self._id is not None:
            inputs["video_codes"][new, self._id] = 0
        return self.network.video({name: values.to(self.device) for name, values in inputs.items()})

    def _hidden(self, rows: Tensor, positives: Tensor, time_ms: Tensor) -> Tensor:
        """Choose videos (N,) whose id is hidden: a share of the young ones. The positives, by their index in `rows`, are as old
        as at their requests, the others as at a random one."""
        at_ms = time_ms[torch.randint(len(time_ms), (len(rows),))]
        at_ms[positives] = time_ms
        return (self._upload_ms[rows] > at_ms - NEW_MS) & (torch.rand(len(rows)) < self.hide_new)

    def _new(self) -> Tensor:
        """Find videos (V,) that are new after the training days: young at their end, and without an id."""
        last_ms = self.features.columns["time_ms"][self.features.rows("train")].max(initial=-np.inf)
        young = self._upload_ms > last_ms - NEW_MS
        return young if self._id is None else young & (self._videos["video_codes"][: len(young), self._id] == 0)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        # All processes draw the same videos, of the positives of all, and each has a part of the queries. They are drawn and
        # gathered in the memory of the processor, where the catalogue is; its vectors are computed where the network is.
        positives, time_ms, own = (batch[name].cpu() for name in ("all_video_rows", "all_time_ms", "own"))
        positives = positives.long()
        drawn = self.negatives.draw(positives)
        rows, at = torch.cat([positives, drawn.rows]).unique(return_inverse=True)
        # Each video once: the same dropout as positive and as negative.
        vectors = self.videos(rows, self._hidden(rows, at[: len(positives)], time_ms))
        positive_vectors, pool = vectors[at[own]], vectors[at[len(positives) :]]
        queries = nearest_interest(self.network.query(batch), positive_vectors)
        masked = self._masked_pairs(drawn, positives[own], time_ms[own])
        loss = self.loss(queries, positive_vectors, pool, drawn=drawn.to(self.device), masked=masked) * batch["share"][0]
        finite(loss, batch_index, key="model.module.learning_rate", learning_rate=self.learning_rate)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(own), sync_dist=True)
        return loss

    def _masked_pairs(self, drawn: NegativeSample, positives: Tensor, time_ms: Tensor) -> tuple[Tensor, Tensor]:
        """Mask the positive of each query, and videos uploaded after it: videos that could not be shown must not be learned as
        unwanted. Unknown upload times count as early."""
        late = self._upload_ms[drawn.rows] > time_ms[:, None]
        return (late | (drawn.rows == positives[:, None])).nonzero().to(self.device).unbind(1)

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        at = batch_index * self.batch_size + batch["own"]
        self._validated.append((at, self.network.query(batch), batch["video_rows"]))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        self._log_recall("valid")

    def on_test_epoch_end(self) -> None:
        self._log_recall("test")

    def _log_recall(self, split: str) -> None:
        queries, wanted = (values.numpy() for values in in_order(self._validated))
        self._validated.clear()
        recall = recall_among_all(
            self.embeddings(), queries.reshape(len(wanted), -1, queries.shape[-1]), wanted, self.recall_at
        )
        self.log(f"{split}/recall_at_{self.recall_at}", recall, prog_bar=True)

    @torch.no_grad()
    def embeddings(self, chunk: int = 8192) -> np.ndarray:
        """Compute the vectors of the whole catalogue (V, D) float32."""
        rows, new, training = torch.arange(len(self.features.catalogue)), self._new(), self.network.training
        self.network.eval()
        vectors = torch.cat([self.videos(part, new[part]) for part in rows.split(chunk)]).cpu().numpy()
        self.network.train(training)
        return vectors

    def _query_rows(self) -> np.ndarray:
        rows = self._positives("valid")
        if not len(rows):  # no day is held out
            rows = self._positives("train")[-RECALL_CHECK_QUERIES:]
        return rows[:: max(1, len(rows) // RECALL_CHECK_QUERIES)][:RECALL_CHECK_QUERIES]

    @torch.no_grad()
    def _queries(self, rows: np.ndarray) -> np.ndarray:
        return self.network.eval().query(self.features.batch(rows)).flatten(0, -2).numpy()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        """Write network, catalogue vectors (embeddings.npy), validation queries (queries.npy) and their impressions
        (query_rows.npy)."""
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)
        np.save(Path(folder) / "embeddings.npy", self.embeddings())
        rows = self._query_rows()
        queries = self._queries(rows)
        np.save(Path(folder) / "queries.npy", queries)
        np.save(Path(folder) / "query_rows.npy", rows.repeat(len(queries) // max(len(rows), 1)))  # several interests per viewer

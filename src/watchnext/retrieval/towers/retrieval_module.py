"""Training of the two-tower models: introduces data, network, negatives and loss to each other."""

from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from watchnext.features.dataset.batches import Batches, FeatureSet
from watchnext.nn.rowwise import RowWise, clip_gradients
from watchnext.nn.training import NothingToLearnError, adam, finite
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.retrieval.towers.negatives import NegativeSample
from watchnext.retrieval.towers.objectives import Objective
from watchnext.retrieval.towers.sequences.leave_one_out import Histories, LeaveOneOut
from watchnext.retrieval.towers.sequences.sequence_towers import SequenceTowers
from watchnext.retrieval.towers.sequences.whole_catalogue import best, gains, recall_among_all
from watchnext.retrieval.towers.sequences.windows import Windows
from watchnext.retrieval.towers.spectral import SpectralStart
from watchnext.types import TARGETS

RECALL_CHECK_QUERIES = 1000  # real viewers whose queries the index guard measures recall on
VALIDATED = 20_000  # viewers that an epoch of a log of ids is validated on, at most


def nearest_interest(queries: Tensor, own: Tensor) -> Tensor:
    """Of queries (B, D) or (B, K, D), the one of each row (B, D) that is nearest to its positive's vector `own` (B, D): the
    interest that trains (ComiRec, Cen et al., KDD 2020)."""
    if queries.dim() == 2:
        return queries
    found = (queries @ own.unsqueeze(-1)).squeeze(-1).argmax(1)
    return queries[torch.arange(len(queries), device=queries.device), found]


class RetrievalModule(pl.LightningModule):
    """positive     the target whose impressions are learned from
    recall_at    K of the validation and test recall, over the whole catalogue
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        loss: Objective,
        negatives: partial,
        positive: str,
        recall_at: int,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.features, self.positive, self.recall_at = features, TARGETS.index(positive), recall_at
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.recipe = recipe_of(network, features.pipeline.sizes)
        self.network, self.loss = build_network(self.recipe), loss
        self._videos = {name: torch.from_numpy(np.array(values)) for name, values in features.videos.items()}
        self._upload_ms = torch.from_numpy(np.array(features.catalogue.upload_ms))
        counts = np.bincount(features.columns["video_rows"][self._positives("train")], minlength=len(features.catalogue))
        self.negatives = negatives(counts=torch.from_numpy(counts))
        self._found: list[tuple[Tensor, Tensor]] = []

    def _positives(self, split: str) -> np.ndarray:
        rows = self.features.rows(split)
        return rows[self.features.columns["targets"][rows, self.positive] > 0]

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Positives of a split; only training ones are shuffled. Raises NothingToLearnError where there are none."""
        rows = self._positives(split)
        if not len(rows):
            raise NothingToLearnError(
                f"the {split} days hold no impression with {TARGETS[self.positive]}; check data.split, what counts as one "
                "(labels.*) and model.module.positive"
            )
        common = {"features": self.features, "rows": rows, "batch_size": self.batch_size, "seed": seed}
        return Batches(shuffle=split == "train", along=("time_ms",), **common).loader()

    def videos(self, rows: Tensor) -> Tensor:
        """Video vectors (N, D) of catalogue rows."""
        return self.network.video({name: values[rows] for name, values in self._videos.items()})

    def training_step(self, batch: dict[str, Tensor], place: int) -> Tensor:
        positives = batch["video_rows"]
        drawn = self.negatives.draw(positives)
        rows, at = torch.cat([positives, drawn.rows]).unique(return_inverse=True)
        vectors = self.videos(rows)  # each video once, so that its dropout is one as positive and as negative
        own, pool = vectors[at[: len(positives)]], vectors[at[len(positives) :]]
        queries = nearest_interest(self.network.query(batch), own)
        loss = self.loss(queries, own, pool, drawn=drawn, masked=self._no_negatives(drawn, positives, batch["time_ms"]))
        finite(loss, place, key="model.module.learning_rate", learning_rate=self.learning_rate)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(positives))
        return loss

    def _no_negatives(self, drawn: NegativeSample, positives: Tensor, time_ms: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of queries and members of the pool: the own positive, and what was uploaded after the query. Videos that nobody
        could be shown would else be learned as what nobody wants, the latest ones most. Unknown upload times are early."""
        late = self._upload_ms[drawn.rows] > time_ms[:, None]
        return (late | (drawn.rows == positives[:, None])).nonzero(as_tuple=True)

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
        recall = recall_among_all(
            self.embeddings(), queries.reshape(len(wanted), -1, queries.shape[-1]), wanted, self.recall_at
        )
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

    def _query_rows(self) -> np.ndarray:
        rows = self._positives("valid")
        return rows[:: max(1, len(rows) // RECALL_CHECK_QUERIES)][:RECALL_CHECK_QUERIES]

    @torch.no_grad()
    def _queries(self, rows: np.ndarray) -> np.ndarray:
        return self.network.eval().query(self.features.batch(rows)).flatten(0, -2).numpy()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(self, learning_rate=self.learning_rate, weight_decay=self.weight_decay)

    def save(self, folder: Path) -> None:
        """Network, catalogue vectors (embeddings.npy), validation queries (queries.npy) and their impressions
        (query_rows.npy)."""
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)
        np.save(Path(folder) / "embeddings.npy", self.embeddings())
        rows = self._query_rows()
        queries = self._queries(rows)
        np.save(Path(folder) / "queries.npy", queries)
        np.save(Path(folder) / "query_rows.npy", rows.repeat(len(queries) // max(len(rows), 1)))  # several vectors a viewer


def _targets(histories: Histories) -> np.ndarray:
    """How often each video (V,) is what comes next: all but first watches."""
    firsts = histories.rows[histories.starts[:-1][histories.lengths > 0]]
    return histories.counts - np.bincount(firsts, minlength=histories.videos)


class SequenceModule(pl.LightningModule):
    """Towers of a log of ids, trained on every place of every history, validated leave-one-out over the whole catalogue.

    start      where video vectors start from; null is at random
    positions  places in a batch
    batches    in an epoch, at most
    ranked     K of the validation recall and NDCG
    """

    def __init__(
        self,
        *,
        split: LeaveOneOut,
        network: partial,
        loss: Objective,
        negatives: partial,
        start: SpectralStart | None,
        learning_rate: float,
        table_learning_rate: float,
        positions: int,
        batches: int,
        ranked: int,
    ) -> None:
        super().__init__()
        self.split, self.ranked = split, ranked
        self.learning_rate, self.table_learning_rate = learning_rate, table_learning_rate
        self.network: SequenceTowers = network(videos=split.train.videos)
        self._windows = {"places": self.network.places, "positions": positions, "batches": batches}
        self.loss, self.negatives = loss, negatives(counts=torch.from_numpy(_targets(split.train)))
        if start is not None:
            self.network.start_from(torch.from_numpy(start.vectors(split.train, self.network.dimension)))
        self._gains: list[tuple[np.ndarray, np.ndarray]] = []

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Training windows, or the places of viewers who have a validation video, every n-th where they are many."""
        if split == "train":
            return Windows(self.split.train, **self._windows, seed=seed).loader()
        places = torch.arange(len(self.split.viewers))
        return DataLoader(places[:: -(-len(places) // VALIDATED)], batch_size=1024)

    def training_step(self, batch: dict[str, Tensor], place: int) -> Tensor:
        some = batch["targets"] < self.network.videos
        queries, positives = self.network.queries(batch["histories"])[some], batch["targets"][some]
        drawn = self.negatives.draw(positives)
        own, pool = self.network.video(positives), self.network.video(drawn.rows)
        loss = self.loss(queries, own, pool, drawn=drawn, masked=drawn.hits(positives))
        return finite(loss, place, key="retrieval.module.learning_rate", learning_rate=self.learning_rate)

    @torch.no_grad()
    def scores(self, histories: Histories, viewers: np.ndarray) -> np.ndarray:
        """Logits (B, V) float32 of the whole catalogue for what comes after the histories of `viewers`. A CatalogueScorer."""
        training = self.network.training
        self.network.eval()
        rows, lengths = map(torch.from_numpy, histories.padded(viewers, self.network.places))
        queries = self.network.query(rows, lengths) * self.loss.scale
        found = (queries @ self.network.video(torch.arange(self.network.videos)).T).numpy()
        self.network.train(training)
        return found

    def validation_step(self, places: Tensor, _: int) -> None:
        at = places.numpy()
        ranked = best(self.scores, self.split.train, self.split.viewers[at], self.ranked)
        self._gains.append(gains(ranked, self.split.valid[at]))

    def on_validation_epoch_end(self) -> None:
        recall, ndcg = (float(np.concatenate(parts).mean()) for parts in zip(*self._gains, strict=True))
        self._gains.clear()
        self.log_dict({f"valid/recall_at_{self.ranked}": recall, f"valid/ndcg_at_{self.ranked}": ndcg}, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The table has its own rate: it starts from something, the encoder from nothing."""
        tables = list(self.network.table.parameters())
        known = set(map(id, tables))
        others = [parameter for parameter in self.parameters() if id(parameter) not in known]
        return RowWise([{"params": tables, "lr": self.table_learning_rate}, {"params": others, "lr": self.learning_rate}])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By norm: Lightning's own fails on sparse gradients."""
        if gradient_clip_val:
            clip_gradients(self.parameters(), gradient_clip_val)

    def save(self, folder: Path) -> None:
        self.network.save(folder)
        np.save(Path(folder) / "embeddings.npy", self.network.video(torch.arange(self.network.videos)).detach().numpy())

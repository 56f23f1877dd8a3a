"""Lightning module of the towers: combine windows, network, negatives and objective."""

from functools import partial

import numpy as np
import torch
from benchmarks.leave_one_out.catalogue import best, gains
from benchmarks.leave_one_out.protocol import LeaveOneOut, Sequences
from benchmarks.leave_one_out.rowwise import RowWise, clip_gradients
from benchmarks.leave_one_out.spectral import SpectralStart
from benchmarks.leave_one_out.towers import SequenceTowers
from benchmarks.leave_one_out.windows import Windows
from torch import Tensor
from torch.utils.data import DataLoader

from watchnext.nn.training import TrainableModule, finite
from watchnext.retrieval.towers.objectives import SampledSoftmax

VALIDATED = 20_000  # maximum viewers per validation


def _targets(histories: Sequences) -> np.ndarray:
    """Count how often each video (V,) is a target: all but first watches."""
    firsts = histories.rows[histories.starts[:-1][histories.lengths > 0]]
    return histories.counts - np.bincount(firsts, minlength=histories.videos)


class SequenceModule(TrainableModule):
    """Train towers of a log of ids on every position of every history; validate leave-one-out over the whole catalogue.

    start      initial video vectors; None is random
    positions  history positions per batch
    batches    maximum batches per epoch
    ranked     K of the validation recall and NDCG
    monitor    validation metric that decides the best epoch
    patience   epochs without improvement after which training stops
    """

    def __init__(
        self,
        *,
        split: LeaveOneOut,
        network: partial,
        loss: SampledSoftmax,
        negatives: partial,
        start: SpectralStart | None,
        learning_rate: float,
        table_learning_rate: float,
        positions: int,
        batches: int,
        ranked: int,
        monitor: str,
        patience: int,
    ) -> None:
        super().__init__(monitor=monitor, patience=patience)
        self.split, self.ranked = split, ranked
        self.learning_rate, self.table_learning_rate = learning_rate, table_learning_rate
        self.network: SequenceTowers = network(videos=split.train.videos)
        self._windows = {"places": self.network.places, "positions": positions, "batches": batches}
        self.loss, self.negatives = loss, negatives(counts=torch.from_numpy(_targets(split.train)))
        if start is not None:
            self.network.start_from(torch.from_numpy(start.vectors(split.train, self.network.dimension)))
        self._gains: list[tuple[np.ndarray, np.ndarray]] = []

    def loader(self, split: str, *, seed: int) -> DataLoader:
        """Load training windows, or indices of viewers with a validation video, at most VALIDATED of them."""
        if split == "train":
            return Windows(self.split.train, **self._windows, seed=seed).loader()
        viewers = torch.arange(len(self.split.viewers))
        return DataLoader(viewers[:: -(-len(viewers) // VALIDATED)], batch_size=1024)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        known = batch["targets"] < self.network.videos
        queries, positives = self.network.queries(batch["histories"])[known], batch["targets"][known]
        drawn = self.negatives.draw(positives.cpu()).to(self.device)  # the counts stay in the memory of the processor
        positive_vectors, pool = self.network.video(positives), self.network.video(drawn.rows)
        loss = self.loss(queries, positive_vectors, pool, drawn=drawn, masked=drawn.hits(positives))
        return finite(loss, batch_index, key="module.learning_rate", learning_rate=self.learning_rate)

    @torch.no_grad()
    def scores(self, histories: Sequences, viewers: np.ndarray) -> np.ndarray:
        """Score the whole catalogue as next videos of `viewers`: logits (B, V) float32. A CatalogueScorer."""
        training = self.network.training
        self.network.eval()
        rows, lengths = (torch.from_numpy(each).to(self.device) for each in histories.padded(viewers, self.network.places))
        queries = self.network.query(rows, lengths) * self.loss.scale
        videos = self.network.video(torch.arange(self.network.videos, device=self.device))
        logits = (queries @ videos.T).cpu().numpy()
        self.network.train(training)
        return logits

    def validation_step(self, viewers: Tensor, _: int) -> None:
        at = viewers.cpu().numpy()
        ranked = best(self.scores, self.split.train, self.split.viewers[at], self.ranked)
        self._gains.append(gains(ranked, self.split.valid[at]))

    def on_validation_epoch_end(self) -> None:
        recall, ndcg = (float(np.concatenate(parts).mean()) for parts in zip(*self._gains, strict=True))
        self._gains.clear()
        self.log_dict({f"valid/recall_at_{self.ranked}": recall, f"valid/ndcg_at_{self.ranked}": ndcg}, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use a separate learning rate for the table, which starts from informative vectors."""
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
        """Clip by norm; Lightning's implementation fails on sparse gradients."""
        if gradient_clip_val:
            clip_gradients(self.parameters(), gradient_clip_val)

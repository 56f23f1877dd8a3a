"""Rows of the feature set > batches for training and validation. Of each batch, every process of a training takes a part."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, IterableDataset

from watchnext.features.dataset.batches import FeatureSet


def processes() -> int:
    """Return the number of processes that train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def own_part(keys: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the positions (n,) of this process's rows of a batch, and the weight of their mean in that of the batch.

    keys  (N,) int, of a row or of its group: rows with one key stay together

    Weighted means average, over the processes, to the mean of the batch. Where a process would have no row, each takes all.
    """
    count = processes()
    turns = keys % count
    if count == 1 or len(np.unique(turns)) < count:
        return np.arange(len(keys)), 1.0
    own = np.flatnonzero(turns == distributed.get_rank())
    return own, len(own) * count / len(keys)


def part_of(features: FeatureSet, batch_rows: np.ndarray, keys: np.ndarray) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """Return this process's part of the batch with `batch_rows` (N,), and its positions (n,) in it.

    Beside the inputs it has `own` (n,), these positions, and `share` (n,), each the weight of its mean.
    """
    own, weight = own_part(keys)
    shared = {"own": torch.from_numpy(own), "share": torch.full((len(own),), weight)}
    return features.batch(batch_rows[own]) | shared, own


class Batches(IterableDataset):
    """Batches of `rows`, shuffled by seed and epoch if `shuffle`; the last one may be smaller.

    along  further columns that are added to each batch unchanged
    whole  columns that are added for all rows of the batch, also those of other processes, as `all_NAME`
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        rows: np.ndarray,
        batch_size: int,
        shuffle: bool,
        seed: int,
        along: tuple[str, ...] = (),
        whole: tuple[str, ...] = (),
    ) -> None:
        self.features, self.rows, self.batch_size, self.shuffle = features, rows, batch_size, shuffle
        self.along, self.whole = along, whole
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        random = np.random.default_rng((self._seed, self._epoch))
        rows = random.permutation(self.rows) if self.shuffle else self.rows
        for start in range(0, len(rows), self.batch_size):
            # Sorted within the batch, so that the gather reads the map forwards.
            batch_rows = np.sort(rows[start : start + self.batch_size])
            batch, own = part_of(self.features, batch_rows, np.arange(len(batch_rows)))
            along = {name: torch.from_numpy(self.features.columns[name][batch_rows[own]]) for name in self.along}
            whole = {f"all_{name}": torch.from_numpy(self.features.columns[name][batch_rows]) for name in self.whole}
            yield batch | along | whole

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

"""Epochs of batches for a fit with torch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.features.dataset.batches import FeatureSet


class Batches(IterableDataset):
    """Batches of `rows`, shuffled by seed and epoch if `shuffle`; the last one may be smaller.

    along  further columns that are added to each batch unchanged
    """

    def __init__(
        self, *, features: FeatureSet, rows: np.ndarray, batch_size: int, shuffle: bool, seed: int, along: tuple[str, ...] = ()
    ) -> None:
        self.features, self.rows, self.batch_size, self.shuffle = features, rows, batch_size, shuffle
        self.along = along
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
            columns = {name: torch.from_numpy(self.features.columns[name][batch_rows]) for name in self.along}
            yield self.features.batch(batch_rows) | columns

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

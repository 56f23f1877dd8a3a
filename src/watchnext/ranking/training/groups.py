"""Batches that keep the rows of a group together, for pairwise and listwise losses."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.epochs import part_of

GROUPS = ("viewer", "request")


class GroupedBatches(IterableDataset):
    """Yield batches of `rows` with `groups` (N,), from 0 without gaps: whole groups, shuffled by seed and epoch.

    Groups are cut only at batch borders, so a batch has at most two partial groups. Of several processes, each takes whole
    groups, and its mean is that of its own pairs.
    """

    def __init__(self, *, features: FeatureSet, rows: np.ndarray, within: str, batch_size: int, seed: int) -> None:
        self.features, self.rows, self.batch_size = features, rows, batch_size
        users = features.columns["user_rows"][rows]
        self.groups = np.unique(users, return_inverse=True)[1] if within == "viewer" else features.requests(rows)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        random = np.random.default_rng((self._seed, self._epoch))
        rank = random.permutation(int(self.groups.max(initial=-1)) + 1)
        order = np.argsort(rank[self.groups], kind="stable")
        for start in range(0, len(order), self.batch_size):
            chosen = np.sort(order[start : start + self.batch_size])  # read the memory map in order
            batch, own = part_of(self.features, self.rows[chosen], self.groups[chosen])
            yield batch | {"groups": torch.from_numpy(self.groups[chosen[own]])}

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

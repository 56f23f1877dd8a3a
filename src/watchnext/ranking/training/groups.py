"""Batches in which the rows of a group stand together, for losses over pairs and lists."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.features.dataset.batches import FeatureSet

GROUPS = ("viewer", "request")


def groups_of(features: FeatureSet, rows: np.ndarray, within: str) -> np.ndarray:
    """Number (N,) of the group of each row, from 0 without gaps; a request is what a viewer was shown at one time."""
    users = np.asarray(features.columns["user_rows"][rows], np.int64)
    if within == "viewer":
        return np.unique(users, return_inverse=True)[1]
    times = np.unique(features.columns["time_ms"][rows], return_inverse=True)[1]
    return np.unique(users * (int(times.max(initial=0)) + 1) + times, return_inverse=True)[1]


class GroupedBatches(IterableDataset):
    """Batches of `rows` with `groups` (N,), whole groups in an order that seed and epoch decide.

    A group is cut only at the border of two batches, so at most two of a batch are not whole.
    """

    def __init__(self, *, features: FeatureSet, rows: np.ndarray, within: str, batch_size: int, seed: int) -> None:
        self.features, self.rows, self.batch_size = features, rows, batch_size
        self.groups = groups_of(features, rows, within)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        random = np.random.default_rng((self._seed, self._epoch))
        place = random.permutation(int(self.groups.max(initial=-1)) + 1)
        order = np.argsort(place[self.groups], kind="stable")
        for start in range(0, len(order), self.batch_size):
            mine = np.sort(order[start : start + self.batch_size])  # so that the gather walks the map forwards
            yield self.features.batch(self.rows[mine]) | {"groups": torch.from_numpy(self.groups[mine])}

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

"""Batches that keep the rows of a group together, for pairwise and listwise losses."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.epochs import part_of
from watchnext.features.dataset.freshness import request_groups
from watchnext.types import TARGETS

GROUPS = ("viewer", "request")


class GroupedBatches(IterableDataset):
    """Yield batches of training rows, in time order, with `groups` (N,): whole groups, shuffled by seed and epoch.

    Groups are cut only at batch borders, so a batch has at most two partial groups. Of several processes, each takes whole
    groups, and its mean is that of its own pairs.
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
        rank = random.permutation(int(self.groups.max(initial=-1)) + 1)
        order = np.argsort(rank[self.groups], kind="stable")
        for start in range(0, len(order), self.batch_size):
            chosen = np.sort(order[start : start + self.batch_size])  # read the memory map in order
            batch, own = part_of(self.features, self.rows[chosen], self.groups[chosen])
            yield batch | {"groups": torch.from_numpy(self.groups[chosen[own]])}

    def has_order(self, target: str) -> bool:
        """Return True if some group has rows with and rows without the target."""
        happened = self.features.columns["targets"][self.rows, TARGETS.index(target)] > 0
        positives, sizes = np.bincount(self.groups, happened), np.bincount(self.groups)
        return bool(((positives > 0) & (positives < sizes)).any())

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)


def groups_of(features: FeatureSet, rows: np.ndarray, within: str) -> np.ndarray:
    """Number the viewer or request group of each of the training `rows` (N,), in time order, from 0 without gaps.

    Requests are those of `request_groups`, as far as the columns tell: rows of a viewer at one time are a slate, and a session
    may pass midnight.
    """
    users = features.columns["user_rows"][rows]
    if within == "viewer":
        return np.unique(users, return_inverse=True)[1]
    slates, time_ms = features.requests(rows), features.columns["time_ms"][rows]
    shown = pl.DataFrame({"user_id": users, "request_id": slates, "time_ms": time_ms})
    return np.unique(request_groups(shown, np.empty(0)), return_inverse=True)[1]

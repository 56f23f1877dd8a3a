"""Histories > training batches in which every place has something to predict and little is padding."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from watchnext.retrieval.leave_one_out import Histories


class Windows(IterableDataset):
    """Batches {"histories": (B, H), "targets": (B, H)} int64, `videos` where there is nothing; targets are the next watches.

    A history longer than `places` is cut into windows that overlap by one watch, so that each watch but the first is a target
    once. A batch holds windows of about one length and at most `positions` places; epochs are shuffled from one seed,
    and end after `batches`, other ones each time.
    """

    def __init__(self, histories: Histories, *, places: int, positions: int, batches: int, seed: int) -> None:
        self.histories, self.positions, self.batches = histories, positions, batches
        targets = np.maximum(histories.lengths - 1, 0)
        windows = -(-targets // places)
        if not windows.sum():
            raise ValueError("no history has two watches, so there is nothing to predict; give a file with longer lines")
        place = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
        self._ends = np.repeat(histories.starts[1:], windows) - place * places
        self._begins = np.maximum(self._ends - places - 1, np.repeat(histories.starts[:-1], windows))
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        lengths = self._ends - self._begins - 1
        order = np.argsort(lengths + self._random.random(len(lengths)), kind="stable")  # shuffled among equals
        batches, start = [], 0
        while start < len(order):
            width = lengths[order[min(start + self._most(lengths[order[start]]), len(order)) - 1]]
            batches.append(order[start : start + self._most(width)])
            start += len(batches[-1])
        for batch in self._random.permutation(len(batches))[: self.batches]:
            yield self._batch(batches[batch])

    def _most(self, length: int) -> int:
        return max(self.positions // int(length), 1)

    def _batch(self, windows: np.ndarray) -> dict[str, Tensor]:
        begins, ends = self._begins[windows][:, None], self._ends[windows][:, None]
        at = begins + np.arange((ends - begins).max())
        rows = np.where(at < ends, self.histories.rows[np.minimum(at, len(self.histories.rows) - 1)], self.histories.videos)
        histories = np.where(rows[:, 1:] < self.histories.videos, rows[:, :-1], self.histories.videos)
        return {"histories": torch.from_numpy(histories), "targets": torch.from_numpy(rows[:, 1:].copy())}

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

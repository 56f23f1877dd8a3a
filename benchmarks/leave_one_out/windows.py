"""Cut histories into training batches in which every position has a target and padding is rare."""

from collections.abc import Iterator

import numpy as np
import torch
from benchmarks.leave_one_out.protocol import Sequences
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset


class Windows(IterableDataset):
    """Batches {"histories": (B, H), "targets": (B, H)} int64, padded with `videos`; targets are the next watches.

    A history longer than `places` is cut into windows that overlap by one watch, so that each watch but the first is a target
    once. A batch holds windows of similar length and at most `positions` positions. Seed and epoch shuffle them, and an epoch
    ends after `batches` of them.
    """

    def __init__(self, histories: Sequences, *, places: int, positions: int, batches: int, seed: int) -> None:
        self.histories, self.positions, self.batches = histories, positions, batches
        targets = np.maximum(histories.lengths - 1, 0)
        windows = -(-targets // places)
        if not windows.sum():
            raise ValueError("no history has two watches, expected at least one; give a file with longer lines")
        number = np.arange(windows.sum()) - np.repeat(np.cumsum(windows) - windows, windows)
        self._ends = np.repeat(histories.starts[1:], windows) - number * places
        self._begins = np.maximum(self._ends - places - 1, np.repeat(histories.starts[:-1], windows))
        self._borders = self._cut(np.sort(self._lengths))
        self._seed, self._epoch = seed, 0

    @property
    def _lengths(self) -> np.ndarray:
        return self._ends - self._begins - 1

    def _cut(self, lengths: np.ndarray) -> list[int]:
        """Return the start of each batch of windows of ascending `lengths`; the same in every epoch."""
        borders = [0]
        while borders[-1] < len(lengths):
            start = borders[-1]
            width = lengths[min(start + self._most(lengths[start]), len(lengths)) - 1]
            borders.append(min(start + self._most(width), len(lengths)))
        return borders[:-1]

    def _most(self, length: int) -> int:
        return max(self.positions // int(length), 1)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._borders[: self.batches])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        random, lengths = np.random.default_rng((self._seed, self._epoch)), self._lengths
        order = np.argsort(lengths + random.random(len(lengths)), kind="stable")  # shuffled among equals
        batches = np.split(order, self._borders[1:])
        for batch in random.permutation(len(batches))[: self.batches]:
            yield self._batch(batches[batch])

    def _batch(self, windows: np.ndarray) -> dict[str, Tensor]:
        begins, ends = self._begins[windows][:, None], self._ends[windows][:, None]
        at = begins + np.arange((ends - begins).max())
        rows = np.where(at < ends, self.histories.rows[np.minimum(at, len(self.histories.rows) - 1)], self.histories.videos)
        histories = np.where(rows[:, 1:] < self.histories.videos, rows[:, :-1], self.histories.videos)
        return {"histories": torch.from_numpy(histories), "targets": torch.from_numpy(rows[:, 1:].copy())}

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

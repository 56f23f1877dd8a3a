"""Encoded columns > tensors, a whole batch at a time, straight from the memory map."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.data.splits import SPLITS
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue
from watchnext.features.encoding import joined
from watchnext.features.pipeline import FeaturePipeline

BLOCKS = ("context_codes", "query_values", "history_rows", "history_values", "candidate_values")


@dataclass(frozen=True)
class FeatureSet:
    """The output folder of the feature stage, mapped.

    columns   the BLOCKS, `targets` (N, T), `user_rows`, `video_rows`, `time_ms`, `split` (place in SPLITS): one row an
    impression
    users, videos   static blocks, (U + 1, ...) and (V + 1, ...)
    """

    folder: Path
    pipeline: FeaturePipeline
    catalogue: Catalogue
    users: dict[str, np.ndarray]
    videos: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]

    @property
    def report(self) -> dict:
        """What the feature stage said of itself: regime, as_of_ms, sizes."""
        return json.loads((self.folder / "report.json").read_text())

    @classmethod
    def load(cls, folder: str | Path) -> "FeatureSet":
        """Raises FileNotFoundError naming `dvc repro features` where the stage has not run."""
        folder = Path(folder)
        pipeline = FeaturePipeline.load(folder / "pipeline")
        catalogue = Catalogue.load(folder / "catalogue")
        return cls(folder, pipeline, catalogue, *(load_arrays(folder / part) for part in ("users", "videos", "columns")))

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, in time order."""
        return np.flatnonzero(self.columns["split"] == SPLITS.index(split))

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Every input of `rows`, plus `targets`, `user_rows` and `video_rows`, as tensors."""
        blocks = {name: self.columns[name][rows] for name in BLOCKS}
        user_rows, video_rows = self.columns["user_rows"][rows], self.columns["video_rows"][rows]
        inputs = joined(blocks, self.users, self.videos, user_rows, video_rows)
        inputs |= {"targets": self.columns["targets"][rows], "user_rows": user_rows, "video_rows": video_rows}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}


class Batches(IterableDataset):
    """Batches of `rows`, reshuffled every epoch from one seed where `shuffle`; the last one may be smaller."""

    def __init__(self, *, features: FeatureSet, rows: np.ndarray, batch_size: int, shuffle: bool, seed: int) -> None:
        self.features, self.rows, self.batch_size, self.shuffle = features, rows, batch_size, shuffle
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows = self._random.permutation(self.rows) if self.shuffle else self.rows
        for start in range(0, len(rows), self.batch_size):
            # Sorted within the batch, the gather walks the map forwards.
            yield self.features.batch(np.sort(rows[start : start + self.batch_size]))

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

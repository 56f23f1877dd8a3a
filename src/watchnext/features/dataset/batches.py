"""Encoded columns > tensors, a whole batch at a time, straight from the memory map."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.data.splits import SPLITS
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue
from watchnext.features.encode.context import Dictionaries
from watchnext.features.encode.encodings import joined
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.state.fold import Layout, Reads
from watchnext.features.state.history import Watches, gathered

NO_INPUTS = ("targets", "user_rows", "video_rows", "position", "propensity")  # of a batch: what serving does not have


@dataclass(frozen=True)
class FeatureSet:
    """The output folder of the feature stage, mapped.

    columns   one row an impression: `targets` (N, T), `user_rows`, `video_rows`, `time_ms`, `split` (place in SPLITS, -1 in
              none), `position` and `propensity`, and what was read of the state, which `blocks` encodes
    users, videos   static blocks, (U + 1, ...) and (V + 1, ...)
    """

    folder: Path
    pipeline: FeaturePipeline
    catalogue: Catalogue
    users: dict[str, np.ndarray]
    videos: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    watches: Watches
    dictionaries: Dictionaries

    @property
    def report(self) -> dict:
        """What the feature stage said of itself: regime, as_of_ms, sizes."""
        return json.loads((self.folder / "report.json").read_text())

    @property
    def provenance(self) -> dict[str, str]:
        """What a run is tagged with: which data, under which schema, seen in which regime."""
        report = self.report
        return {
            "data_hash": report["data_hash"],
            "schema_fingerprint": report["schema"],
            "regime": report["regime"],
        }

    @classmethod
    def load(cls, folder: str | Path) -> "FeatureSet":
        """Raises FileNotFoundError naming `dvc repro features` where the stage has not run."""
        folder = Path(folder)
        pipeline = FeaturePipeline.load(folder / "pipeline")
        catalogue = Catalogue.load(folder / "catalogue")
        arrays = [load_arrays(folder / part) for part in ("users", "videos", "columns")]
        watches = Watches(**load_arrays(folder / "watches"))
        return cls(folder, pipeline, catalogue, *arrays, watches, Dictionaries.load(folder / "context", pipeline.schema))

    @cached_property
    def _upload_ms(self) -> np.ndarray:
        return np.array(self.catalogue.upload_ms)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split, in time order."""
        return np.flatnonzero(self.columns["split"] == SPLITS.index(split))

    def reads(self, rows: np.ndarray) -> Reads:
        """What the impressions `rows` read of the state."""
        part = {
            name: self.columns[name][rows] for name in ("user", "gap_s", "candidate", "history_at", "history_len", "time_ms")
        }
        slots = self.pipeline.schema.state.history
        history = gathered(part["history_at"], part["history_len"], part["time_ms"], slots, self.watches)
        return Reads(part["user"], *history, part["gap_s"], part["candidate"])

    def blocks(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The as-of inputs of `rows`, as the pipeline names them."""
        reads, as_of = self.reads(rows), self.columns["time_ms"][rows]
        context = {name: values[rows] for name, values in self.columns.items() if name.startswith("context.")}
        blocks = self.pipeline.query(self.dictionaries.raw(context), as_of, reads)
        upload_ms = self._upload_ms[self.columns["video_rows"][rows]]
        return blocks | {"candidate_values": self.pipeline.candidates(upload_ms, as_of, reads.candidate)}

    def newcomers(self, count: int) -> dict[str, torch.Tensor]:
        """Every input of the first `count` videos for viewers of whom nothing is known; it needs no log."""
        state, as_of = self.pipeline.schema.state, np.full(count, float(self.report["as_of_ms"]))
        reads = Reads.none(Layout.of(state), count)
        columns = {
            name: np.full(count, -1 if kind is np.int32 else np.nan, kind)
            for name, (kind, _) in self.dictionaries.kinds.items()
        }
        blocks = self.pipeline.query(self.dictionaries.raw(columns), as_of, reads)
        videos = np.arange(count) % len(self.catalogue)
        blocks |= {"candidate_values": self.pipeline.candidates(self._upload_ms[videos], as_of, reads.candidate)}
        inputs = joined(blocks, self.users, self.videos, np.full(count, -1), videos)
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Every input of `rows`, plus what NO_INPUTS names, as tensors."""
        blocks = self.blocks(rows)
        user_rows, video_rows = (self.columns[name][rows].astype(np.int64) for name in ("user_rows", "video_rows"))
        inputs = joined(blocks, self.users, self.videos, user_rows, video_rows)
        inputs |= {"targets": self.columns["targets"][rows], "user_rows": user_rows, "video_rows": video_rows}
        position, propensity = self.columns["position"][rows].astype(np.int64), self.columns["propensity"][rows]
        inputs |= {"position": position, "propensity": propensity}
        return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}


class Batches(IterableDataset):
    """Batches of `rows`, where `shuffle` in an order that seed and epoch decide; the last one may be smaller. `along` are
    columns that come with the inputs as they are."""

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
            # Sorted within the batch, the gather walks the map forwards.
            some = np.sort(rows[start : start + self.batch_size])
            columns = {name: torch.from_numpy(self.features.columns[name][some]) for name in self.along}
            yield self.features.batch(some) | columns

    def loader(self) -> DataLoader:
        return DataLoader(self, batch_size=None, num_workers=0)

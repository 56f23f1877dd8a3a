"""Feature columns > tensors, batch by batch from the memory map."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from watchnext.data.splits import SPLITS
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue
from watchnext.features.encode.context import Dictionaries
from watchnext.features.encode.encodings import joined
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.state.fold import Layout, Reads
from watchnext.features.state.history import Watches, gathered

if TYPE_CHECKING:
    from torch import Tensor

NO_INPUTS = ("targets", "user_rows", "video_rows", "position", "propensity")  # parts of a batch that serving lacks
CANDIDATE_INPUTS = ("video_codes", "video_tags", "video_vector", "video_values", "video_duration_s", "candidate_values")


def data_hash_in(folder: str | Path) -> str:
    """Return the hash of the tables that the feature stage read; "unknown" where it has not run in this `folder`."""
    path = Path(folder) / "report.json"
    return json.loads(path.read_text())["data_hash"] if path.exists() else "unknown"


@dataclass(frozen=True)
class FeatureSet:
    """The output folder of the feature stage, memory-mapped.

    columns   one row per impression: `targets` (N, T), `user_rows`, `video_rows`, `time_ms` as of which it is encoded, `split`
              (index in SPLITS, -1 none), `position` and `propensity`, and the state as read, which `blocks` encodes
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
        """The report of the feature stage: regime, as_of_ms, sizes."""
        return json.loads((self.folder / "report.json").read_text())

    @property
    def provenance(self) -> dict[str, str]:
        """Tags of a run: data hash, schema fingerprint, freshness regime."""
        report = self.report
        return {
            "data_hash": report["data_hash"],
            "schema_fingerprint": report["schema"],
            "regime": report["regime"],
        }

    @classmethod
    def load(cls, folder: str | Path) -> "FeatureSet":
        """Load the folder. Raises FileNotFoundError naming `dvc repro features` if the stage has not run."""
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
        """Return the row numbers of a split, in time order."""
        return np.flatnonzero(self.columns["split"] == SPLITS.index(split))

    def requests(self, rows: np.ndarray) -> np.ndarray:
        """Number the request group of each of `rows` (N,), from 0 without gaps: rows of a viewer encoded as of one time.

        These are slates, and in the regime `request` sessions of held-out days.
        """
        users = np.asarray(self.columns["user_rows"][rows], np.int64)
        times = np.unique(self.columns["time_ms"][rows], return_inverse=True)[1]
        return np.unique(users * (int(times.max(initial=0)) + 1) + times, return_inverse=True)[1]

    def reads(self, rows: np.ndarray) -> Reads:
        """Return the state that the impressions `rows` read."""
        part = {
            name: self.columns[name][rows] for name in ("user", "gap_s", "candidate", "history_at", "history_len", "time_ms")
        }
        slots = self.pipeline.schema.state.history
        history = gathered(part["history_at"], part["history_len"], part["time_ms"], slots, self.watches)
        return Reads(part["user"], *history, part["gap_s"], part["candidate"])

    def blocks(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Encode the as-of inputs of `rows`, named as in the pipeline."""
        reads, as_of = self.reads(rows), self.columns["time_ms"][rows]
        context = {name: values[rows] for name, values in self.columns.items() if name.startswith("context.")}
        blocks = self.pipeline.query(self.dictionaries.raw(context), as_of, reads)
        upload_ms = self._upload_ms[self.columns["video_rows"][rows]]
        return blocks | {"candidate_values": self.pipeline.candidates(upload_ms, as_of, reads.candidate)}

    def newcomers(self, count: int) -> dict[str, "Tensor"]:
        """Return every input of the first `count` videos for unknown viewers; needs no log."""
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
        return _tensors(inputs)

    def batch(self, rows: np.ndarray) -> dict[str, "Tensor"]:
        """Return every input of `rows`, plus the columns of NO_INPUTS, as tensors."""
        blocks = self.blocks(rows)
        user_rows, video_rows = (self.columns[name][rows].astype(np.int64) for name in ("user_rows", "video_rows"))
        inputs = joined(blocks, self.users, self.videos, user_rows, video_rows)
        inputs |= {"targets": self.columns["targets"][rows], "user_rows": user_rows, "video_rows": video_rows}
        position, propensity = self.columns["position"][rows].astype(np.int64), self.columns["propensity"][rows]
        inputs |= {"position": position, "propensity": propensity}
        return _tensors(inputs)


def _tensors(inputs: dict[str, np.ndarray]) -> dict[str, "Tensor"]:
    # Imported here, as stages that read columns alone start without torch, a second sooner.
    from torch import from_numpy

    return {name: from_numpy(np.ascontiguousarray(values)) for name, values in inputs.items()}

"""Snapshots of the folded state on disk, one at the end of each of the last partitions of the log.

    base/     records of all viewers after the first partitions: viewers.npy (U, layout.viewer), sparse for new viewers
    00012/    the records that partition 12 changed: users.npy (n,), viewers.npy (n, layout.viewer)

The base and every partition also hold all videos.npy, creators.npy, and `pending`: the impressions whose outcomes were not
known yet. A viewer's record is read from the latest partition that has it, else from the base.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.column_files import ColumnFiles
from watchnext.features.state.event_order import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.kernels import kernel


@dataclass
class Items:
    """Records of all videos and creators, and the impressions with pending outcomes, at one time."""

    videos: np.ndarray
    creators: np.ndarray
    pending: dict[str, np.ndarray]  # a Log's columns

    def copy(self) -> "Items":
        return Items(self.videos.copy(), self.creators.copy(), self.pending)

    def grown(self, videos: int, creators: int) -> "Items":
        """Return a copy with room for new videos and creators."""
        return Items(_grown(self.videos, videos), _grown(self.creators, creators), self.pending)


@kernel
def _copy(source, rows, target, positions):
    for i in range(rows.size):
        target[positions[i]] = source[rows[i]]


def _grown(records: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([records, np.zeros((rows - len(records), records.shape[1]))])


class Snapshots:
    """Snapshots of partitions 0, 1, ... of a log, for the given numbers of users, videos and creators."""

    def __init__(self, folder: Path, layout: Layout, *, users: int, videos: int, creators: int) -> None:
        self.folder, self.layout = Path(folder), layout
        self._base = ColumnFiles(self.folder / "base", {"viewers": (np.float64, (layout.viewer,))})
        self._users, self._videos, self._creators = users, videos, creators

    # ---- base -----------------------------------------------------------------------------------------------

    @property
    def through(self) -> int | None:
        """Number of partitions in the base; None while it is written, or if the process died meanwhile."""
        path = self.folder / "base.json"
        return json.loads(path.read_text())["through"] if path.exists() else None

    def _write_through(self, through: int | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / "base.json.new"
        aside.write_text(json.dumps({"through": through}))
        os.replace(aside, self.folder / "base.json")

    def start(self) -> None:
        """Start with an empty base, before the first partition."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._base.resize(self._users)
        layout = self.layout
        none = {name: np.zeros((0, len(layout.shown)) if name == "amounts" else 0) for name in PER_ROW}
        none |= {name: np.zeros(0, np.int64) for name in ("user_rows", "video_rows")}
        self._save(self.folder / "base", Items(np.zeros((0, layout.item)), np.zeros((0, layout.item)), none))
        self._write_through(0)

    def truncate(self, kept: int) -> None:
        """Remove the partitions from `kept` on, and make room for new viewers."""
        for path in self.folder.glob("[0-9]*"):
            if int(path.name) >= kept or int(path.name) < (self.through or 0):
                shutil.rmtree(path)
        self._base.resize(self._users)

    # ---- read --------------------------------------------------------------------------------------------------------

    def items(self, partition: int) -> Items:
        """Load videos, creators and pending impressions at the start of `partition`."""
        folder = self.folder / "base" if partition == self.through else self._of(partition - 1)
        arrays = load_arrays(folder)
        pending = {name.removeprefix("pending."): np.array(v) for name, v in arrays.items() if name.startswith("pending.")}
        items = Items(np.array(arrays["videos"]), np.array(arrays["creators"]), pending)
        return items.grown(self._videos, self._creators)

    def viewers(self, partition: int) -> "ViewerRecords":
        """Return the viewers' records at the start of `partition`; while the base is written in place, those of the base."""
        later = [self._of(k) for k in range(partition if self.through is None else self.through, partition)]
        return ViewerRecords(self._base, [(np.load(folder / "users.npy"), folder / "viewers.npy") for folder in later])

    # ---- write -------------------------------------------------------------------------------------------------------

    @contextmanager
    def writer(self, partition: int, *, into_base: bool) -> Iterator["BaseWriter | PartitionWriter"]:
        """Open the writer of the changed records of `partition`: in place in the base, or into its own files."""
        if into_base:
            self._write_through(None)
            yield BaseWriter(self._base)
        else:
            folder = self._of(partition)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with PartitionWriter(folder, self.layout.viewer) as writer:
                yield writer

    def commit(self, partition: int, items: Items, *, into_base: bool) -> None:
        """Commit the snapshot at the end of `partition`, once all its records are written."""
        self._save(self.folder / "base" if into_base else self._of(partition), items)
        if into_base:
            self._write_through(partition + 1)

    def merge(self, through: int) -> None:
        """Merge the first `through` partitions into the base; repeating a merge after a crash changes nothing."""
        for partition in range(self.through or 0, through):
            part = load_arrays(self._of(partition))
            writer = BaseWriter(self._base)
            for first in range(0, len(part["users"]), 4096):
                chunk = slice(first, first + 4096)
                writer.write(np.array(part["users"][chunk]), np.array(part["viewers"][chunk]))
            for path in self._of(partition).glob("*.npy"):
                if path.stem not in ("users", "viewers"):
                    shutil.copyfile(path, self.folder / "base" / path.name)
            self._write_through(partition + 1)
        self.truncate(1 << 31)

    def _of(self, partition: int) -> Path:
        return self.folder / f"{partition:05d}"

    def _save(self, folder: Path, items: Items) -> None:
        pending = {f"pending.{name}": values for name, values in items.pending.items()}
        save_arrays(folder, {"videos": items.videos, "creators": items.creators, **pending})


class ViewerRecords:
    """Records of all viewers at one time, read from base and partitions."""

    def __init__(self, base: ColumnFiles, later: list[tuple[np.ndarray, Path]]) -> None:
        self._base, self._later = base, later

    def load(self, users: np.ndarray) -> np.ndarray:
        """Return copies of the records (n, layout.viewer) of the viewers `users` (n,), ascending."""
        # Mapped at every call, so that pages do not stay resident.
        records = np.empty((len(users), *self._base.kinds["viewers"][1]))
        every, latest = np.arange(len(users)), np.full(len(users), -1)
        positions = np.zeros(len(users), np.int64)
        for part, (known, _) in enumerate(self._later):
            at = np.minimum(np.searchsorted(known, users), max(len(known) - 1, 0))
            hits = known[at] == users if len(known) else np.zeros(len(users), bool)
            latest[hits], positions[hits] = part, at[hits]
        for part, (_, changed) in enumerate(self._later):
            if (hits := latest == part).any():
                _copy(np.asarray(np.load(changed, mmap_mode="r")), positions[hits], records, every[hits])
        first, hits = int(users[0]), latest < 0
        _copy(self._base.rows(first, int(users[-1]) + 1, write=False)["viewers"], (users - first)[hits], records, every[hits])
        return records


class BaseWriter:
    """Write records into the base, in place."""

    def __init__(self, base: ColumnFiles) -> None:
        self._base = base

    def write(self, users: np.ndarray, records: np.ndarray) -> None:
        if len(users):
            first = int(users[0])
            _copy(records, np.arange(len(users)), self._base.rows(first, int(users[-1]) + 1)["viewers"], users - first)


class PartitionWriter:
    """Append records to a partition's own files."""

    def __init__(self, folder: Path, width: int) -> None:
        self._columns = ColumnFiles(folder, {"users": (np.int64, ()), "viewers": (np.float64, (width,))})
        self._columns.resize(0)
        self._rows = 0

    def write(self, users: np.ndarray, records: np.ndarray) -> None:
        self._columns.append(self._rows, {"users": users, "viewers": records})
        self._rows += len(users)

    def __enter__(self) -> "PartitionWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._columns.resize(self._rows)


def with_pending(items: Items, log: Log) -> Log:
    """Prepend the impressions with pending outcomes to the partition's `log`."""
    return log.after(log._replace(**items.pending, pending=0))

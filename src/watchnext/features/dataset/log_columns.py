"""The columns of a log on disk, one row an impression, written while its state is folded."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.features.catalogue import Catalogue
from watchnext.features.column_files import ColumnFiles
from watchnext.features.dataset import freshness
from watchnext.features.dataset.labels import Labels, watch_ratio
from watchnext.features.encode.context import Dictionaries
from watchnext.features.state.builder import Changes, StateBuilder
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold_log import THREADS, ReadBuffers, replay
from watchnext.features.state.history import Watches
from watchnext.features.state.partitions import Plan, TimePartition
from watchnext.files import synced_below
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

EPOCH = date(1970, 1, 1).toordinal()
PARTS = ("columns", "watches", "context")
READ_BUFFERS = tuple(field.name for field in fields(ReadBuffers))  # columns that the fold writes
WATCHES = {"video_rows": (np.int32, ()), "known_at": (np.float64, ()), "watch_ms": (np.float64, ()), "bits": (np.uint8, ())}


@dataclass(frozen=True)
class PartitionData:
    """The data of one partition.

    visible  (N,) time before which each row sees the state
    facts    sums of its labels per day, and lengths of the dictionaries after it
    """

    log: Log
    visible: np.ndarray
    columns: dict[str, np.ndarray]
    facts: dict


class LogColumns:
    """The columns of a log in `folder`: columns/ (N rows), watches/ (indexed by histories), context/ (dictionaries).

    Its `state` is built in the same pass.
    """

    def __init__(
        self,
        folder: Path,
        stored: StoredTables,
        split: TimeSplit,
        *,
        schema: FeatureSchema,
        labels: Labels,
        regime: str,
        snapshots: int,
    ) -> None:
        self.folder, self.stored, self.plan = folder, stored, Plan.of(stored, split, regime)
        self.labels, self.regime = labels, regime
        vector = schema.of("video", "vector")
        self.catalogue = Catalogue.of(
            stored.videos, tags_per_video=schema.state.tags_per_video, dimension=vector[0].dimension if vector else 0
        )
        partitions = self.plan.partitions
        self.state = StateBuilder(
            folder / "state",
            stored,
            partitions,
            schema=schema,
            catalogue=self.catalogue,
            settings={"labels": vars(labels)},
            code=__name__,
            # All but the last days, and no held-out day.
            through=min([len(partitions) - snapshots, *self.plan.first_partition.values()]),
        )
        self.dictionaries = Dictionaries.load(folder / "context", schema)
        self.columns = ColumnFiles(folder / "columns", self._kinds())
        self.watches = ColumnFiles(folder / "watches", WATCHES)

    def _kinds(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        block = self.state.layout.block
        return {
            "user_rows": (np.int32, ()),
            "video_rows": (np.int32, ()),
            "time_ms": (np.float64, ()),
            "day": (np.int32, ()),
            "split": (np.int8, ()),
            "targets": (np.float32, (len(TARGETS),)),
            "position": (np.int16, ()),
            "propensity": (np.float32, ()),
            "user": (np.float32, (block,)),
            "gap_s": (np.float32, ()),
            "candidate": (np.float32, (4, block)),
            "history_at": (np.int64, ()),
            "history_len": (np.int16, ()),
            **self.dictionaries.kinds,
        }

    # ---- build -------------------------------------------------------------------------------------------------------

    def build(self, replay: Callable = replay) -> int:
        """Keep the valid days of the last build, fold the others by `replay` and write their rows. Returns the number of days
        kept."""
        kept, reason = self.state.plan()
        if reason and self.plan.partitions:
            print(f"{self.folder}: rebuilding from {self.plan.partitions[self.state.kept].days[0].day} on: {reason}")
        if not self.state.kept:
            for part in PARTS:
                shutil.rmtree(self.folder / part, ignore_errors=True)
            self.dictionaries.values.clear()
        self.dictionaries.truncate(self.state.entries[-1].encoded["dictionaries"] if self.state.kept else {})
        self.state.fold(self.prepare, self.encode, replay)
        self.columns.resize(self._rows)
        self.watches.resize(self._watched)
        self.dictionaries.save(self.folder / "context")
        self._write_split()
        for part in PARTS:
            synced_below(self.folder / part)
        self.state.close()
        return kept

    def rows(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield the columns of each partition, memory-mapped."""
        first = 0
        for partition in self.plan.partitions:
            yield self.columns.rows(first, first + partition.rows)
            first += partition.rows

    def _write_split(self) -> None:
        """Write the split of all rows again: its days move on with the log."""
        for partition, columns in zip(self.plan.partitions, self.rows(), strict=True):
            days = [date.fromisoformat(day.day).toordinal() - EPOCH for day in partition.days]
            index = np.searchsorted(days, columns["day"])
            columns["split"][:] = np.array(partition.split, np.int8)[index]

    @property
    def _rows(self) -> int:
        """Number of rows written so far."""
        return sum(entry.rows for entry in self.state.entries)

    @property
    def _watched(self) -> int:
        """Number of watches written so far."""
        return self.state.entries[-1].encoded["watches"] if self.state.entries else 0

    # ---- hooks of the fold -------------------------------------------------------------------------------------------

    def prepare(self, partition: TimePartition, impressions: pl.DataFrame, log: Log) -> PartitionData:
        """Read from the impressions what does not depend on the state."""
        names = impressions["day"].cast(pl.String)
        split_of = {day.day: split for day, split in zip(partition.days, partition.split, strict=True)}
        split = names.replace_strict(split_of, return_dtype=pl.Int8).to_numpy()
        visible = freshness.visible_until(self.regime, impressions, split, self.plan.starts, self.plan.days_ms)
        asked = freshness.encoded_with(self.regime, impressions, split, self.plan.days_ms)
        duration_ms = np.asarray(self.catalogue.duration_ms)[log.video_rows]
        targets, ratio = self.labels.targets(impressions, duration_ms), watch_ratio(impressions, duration_ms)
        days = {day.day: (names == day.day).to_numpy() for day in partition.days}
        sums = {day: self.labels.sums(targets[mask], ratio[mask]) for day, mask in days.items()}
        columns = {"user_rows": log.user_rows, "video_rows": log.video_rows, "time_ms": log.time_ms[asked], "targets": targets}
        columns |= {"day": impressions["day"].cast(pl.Int32).to_numpy(), **_exposure(impressions)}
        columns |= {name: values[asked] for name, values in self.dictionaries.columns(impressions).items()}
        return PartitionData(log, visible, columns, {"dictionaries": self.dictionaries.lengths, "sums": sums})

    def encode(self, index: int, data: PartitionData, changes: Changes) -> dict:
        """Write the rows of one partition, as they read the state while it is folded."""
        first, rows, watched = self._rows, data.log.rows, self._watched
        self.columns.resize(first + rows)
        self.watches.resize(watched)
        # In memory first: the fold writes rows viewer by viewer, which would touch a mapped file page by page.
        read = self._buffers(rows)
        reads = {"visible": data.visible, "as_of": data.columns["time_ms"], "out": ReadBuffers(**read)}
        for watches in changes(**reads, watched=watched):
            watched = self._append_watches(watches, watched)
        for start, first_partition in self._frozen_elsewhere(index):
            watched = self._read_frozen(data, start, first_partition, read, watched)
        columns = data.columns | read
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: self.columns.append(first, {name: columns[name]}), columns))
        # The dictionaries may hold values of a later partition; the manifest has the valid lengths.
        self.dictionaries.save(self.folder / "context")
        return {"watches": watched, **data.facts}

    def _buffers(self, rows: int) -> dict[str, np.ndarray]:
        kinds = self.columns.kinds
        return {name: np.empty((rows, *kinds[name][1]), kinds[name][0]) for name in READ_BUFFERS}

    def _append_watches(self, watches: Watches, watched: int) -> int:
        self.watches.append(watched, vars(watches))
        return watched + len(watches.bits)

    def _frozen_elsewhere(self, index: int) -> list[tuple[float, int]]:
        """Return (start, partition) of the frozen states of earlier partitions that rows of this one read."""
        if self.regime != "frozen":
            return []
        splits = sorted({split for split in self.plan.partitions[index].split if split > 0})
        starts, first_partition = self.plan.starts, self.plan.first_partition
        return [(starts[split], first_partition[split]) for split in splits if first_partition[split] < index]

    def _read_frozen(self, data: PartitionData, start: float, partition: int, read: Mapping, watched: int) -> int:
        """Read the rows that see the frozen state of an earlier partition."""
        rows = np.flatnonzero(data.visible == start)
        buffers = self._buffers(len(rows))
        run = self.state.load(partition).fold(
            data.log.take(rows), start, visible=data.visible[rows], out=ReadBuffers(**buffers), watched=watched
        )
        for _, _, watches in run:
            watched = self._append_watches(watches, watched)
        for name, values in buffers.items():
            read[name][rows] = values
        return watched

    # ---- initial state -----------------------------------------------------------------------------------------------

    @property
    def as_of_ms(self) -> int:
        """Time of the initial state of a release: the first request of the test days.

        A log without test days ends with its last request, an empty log with the last upload. Raises DataError if no upload
        time is known either.
        """
        if 2 in self.plan.starts:
            return int(self.plan.starts[2])
        upload_ms = self.catalogue.upload_ms
        ends = [day.last_ms for day in self.stored.days] or upload_ms[np.isfinite(upload_ms)]
        if not len(ends):
            raise DataError(
                "there are no impressions, and no video has an upload_ms: the time of the initial state is unknown; "
                "add upload_ms to the videos, or add a log"
            )
        return int(max(ends)) + 1


def _exposure(impressions: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return the `position` (-1 if not logged) and `propensity` (nan if not logged) of each impression.

    Training may use them; they are never inputs of a network.
    """
    position = impressions["position"].fill_null(-1).to_numpy()
    return {"position": position, "propensity": impressions["propensity"].fill_null(np.nan).to_numpy()}

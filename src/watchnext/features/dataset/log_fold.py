"""Fold a log partition by partition, continuing the last build: columns, watches and state on disk."""

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.code_digest import code_of
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError, Tables
from watchnext.features.arrays import save_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.column_files import ColumnFiles
from watchnext.features.dataset.freshness import visible_until
from watchnext.features.dataset.labels import Labels, watch_ratio
from watchnext.features.encode.context import Dictionaries
from watchnext.features.state.builder import EntityRows, StateBuilder, read_ahead
from watchnext.features.state.event_order import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import THREADS, ReadBuffers, replay
from watchnext.features.state.history import Watches
from watchnext.features.state.log_arrays import log_of
from watchnext.features.state.partitions import ManifestEntry, Plan, TimePartition
from watchnext.features.state.snapshots import Items, with_pending
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

EPOCH = date(1970, 1, 1).toordinal()
READ_BUFFERS = tuple(field.name for field in fields(ReadBuffers))  # columns that the fold writes
WATCHES = {"video_rows": (np.int32, ()), "known_at": (np.float64, ()), "watch_ms": (np.float64, ()), "bits": (np.uint8, ())}


@dataclass(frozen=True)
class PartitionData:
    """The data of one partition.

    visible       (N,) time before which each row sees the state
    sums          sums of its labels per day
    dictionaries  lengths of the dictionaries after it
    """

    log: Log
    visible: np.ndarray
    columns: dict[str, np.ndarray]
    sums: dict[str, dict[str, float]]
    dictionaries: dict[str, int]


class LogFold:
    """Folds a log into `folder`; `begin` keeps the valid part of the last build, `run` folds the rest of the `plan`.

    In `folder`: stretches.jsonl, columns/ (N rows), watches/ (indexed by histories), context/ (dictionaries), state/.
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
        self.schema, self.labels, self.regime = schema, labels, regime
        vector = schema.of("video", "vector")
        self.catalogue = Catalogue.of(
            stored.videos, tags_per_video=schema.state.tags_per_video, dimension=vector[0].dimension if vector else 0
        )
        self.users = Ids.of(stored.users["user_id"])
        self.layout = Layout.of(schema.state)
        self.dictionaries = Dictionaries.load(folder / "context", schema)
        self.columns = ColumnFiles(folder / "columns", self._kinds())
        self.watches = ColumnFiles(folder / "watches", WATCHES)
        rows, partitions = EntityRows(self.users, self.catalogue), self.plan.partitions
        self.sizes = rows.sizes
        self.days = StateBuilder(
            folder,
            partitions,
            layout=self.layout,
            rows=rows,
            settings={"schema": schema.fingerprint, "labels": vars(labels), "code": code_of(__name__)},
            # All but the last days, and no held-out day.
            through=max(0, min([len(partitions) - snapshots, *self.plan.first_partition.values()])),
        )
        self.state, self.manifest = self.days.snapshots, self.days.manifest

    def _kinds(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        block = self.layout.block
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

    # ---- resume --------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[int, str | None]:
        """Keep the valid partitions of the last build. Returns their number and the reason why not more are kept."""
        kept, reason = self.days.begin()
        if not kept:
            for part in ("columns", "watches", "context"):
                shutil.rmtree(self.folder / part, ignore_errors=True)
            self.dictionaries.values.clear()
        self.dictionaries.truncate(self.manifest.entries[-1].dictionaries if kept else {})
        return kept, reason

    # ---- fold --------------------------------------------------------------------------------------------------------

    def run(self, kept: int) -> None:
        """Fold the partitions from `kept` on."""
        remaining = self.plan.partitions[kept:]
        items = self.days.open(kept)
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=sum(s.rows for s in remaining), desc="features", unit=" impressions", unit_scale=True) as progress,
        ):
            # In order, because every partition may add to the dictionaries.
            for i, data in enumerate(read_ahead(self.load, remaining), start=kept):
                self._fold(i, data, items, pool)
                progress.update(self.plan.partitions[i].rows)
        self.columns.resize(self.manifest.rows(len(self.plan.partitions)))
        self.watches.resize(self._watched())
        self.dictionaries.save(self.folder / "context")
        self._write_split()
        self.days.end()

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

    # ---- initial state ---------------------------------------------------------------------------------------

    @property
    def as_of_ms(self) -> int:
        """Time of the initial state of a release: the first request of the test days.

        A log without test days ends with its last request, an empty log with the last upload. Raises DataError if no upload
        time is known either.
        """
        if 2 in self.plan.starts:
            return int(self.plan.starts[2])
        ends = [day.last_ms for day in self.stored.days] or self._uploads_ms
        if not len(ends):
            raise DataError(
                "there are no impressions, and no video has an upload_ms: the time of the initial state is unknown; "
                "add upload_ms to the videos, or add a log"
            )
        return int(max(ends)) + 1

    @property
    def _uploads_ms(self) -> np.ndarray:
        return self.catalogue.upload_ms[np.isfinite(self.catalogue.upload_ms)]

    def save_initial_state(self) -> None:
        """Save the initial state: the index of its snapshot, and the impressions between that snapshot and `as_of_ms`."""
        index = self.plan.first_partition.get(2, len(self.plan.partitions))
        items = self.state.items(index)
        log = with_pending(items, self._before_as_of(index)) if 2 in self.plan.first_partition else self._pending(items)
        save_arrays(self.folder / "state" / "opening", {name: getattr(log, name) for name in PER_ROW})
        facts = {"stretch": index, "as_of_ms": self.as_of_ms, "pending": log.pending, **self.sizes}
        (self.folder / "state" / "opening.json").write_text(json.dumps(facts))

    def _before_as_of(self, index: int) -> Log:
        """Return the impressions of a partition before `as_of_ms`.

        There are some only where a later day begins before the first test day: both are one partition then.
        """
        impressions = self.plan.partitions[index].impressions(self.stored).filter(pl.col("time_ms") < self.as_of_ms)
        return log_of(Tables(impressions, self.stored.users, self.stored.videos), self.catalogue, self.users, self.schema)

    def _pending(self, items: Items) -> Log:
        """Return a log of the impressions with pending outcomes alone."""
        of_videos = {name: np.array(getattr(self.catalogue, name)) for name in ("creator_rows", "tag_rows")}
        return Log(**items.pending, **of_videos, pending=len(items.pending["time_ms"]))

    def load(self, partition: TimePartition) -> PartitionData:
        """Read a partition."""
        impressions = partition.impressions(self.stored)
        log = log_of(Tables(impressions, self.stored.users, self.stored.videos), self.catalogue, self.users, self.schema)
        names = impressions["day"].cast(pl.String)
        split_of = {day.day: split for day, split in zip(partition.days, partition.split, strict=True)}
        split = names.replace_strict(split_of, return_dtype=pl.Int8).to_numpy()
        visible = visible_until(self.regime, impressions, split, self.plan.starts, self.plan.days_ms)
        duration_ms = np.asarray(self.catalogue.duration_ms)[log.video_rows]
        targets, ratio = self.labels.targets(impressions, duration_ms), watch_ratio(impressions, duration_ms)
        days = {day.day: (names == day.day).to_numpy() for day in partition.days}
        sums = {day: self.labels.sums(targets[mask], ratio[mask]) for day, mask in days.items()}
        columns = {"user_rows": log.user_rows, "video_rows": log.video_rows, "time_ms": log.time_ms, "targets": targets}
        columns |= {"day": impressions["day"].cast(pl.Int32).to_numpy(), **_exposure(impressions)}
        columns |= self.dictionaries.columns(impressions)
        return PartitionData(log, visible, columns, sums, self.dictionaries.lengths)

    def _watched(self) -> int:
        """Return the number of watches written so far."""
        return self.manifest.entries[-1].watches if self.manifest.entries else 0

    def _fold(self, index: int, data: PartitionData, items: Items, pool: ThreadPoolExecutor) -> None:
        """Write the rows of one partition and the state at its end; `items` is the in-memory part of that state."""
        partition, first, watched = self.plan.partitions[index], self.manifest.rows(index), self._watched()
        self.columns.resize(first + partition.rows)
        self.watches.resize(watched)
        # In memory first: the fold writes rows viewer by viewer, which would touch a mapped file page by page.
        kinds = self.columns.kinds
        read = {name: np.empty((partition.rows, *kinds[name][1]), kinds[name][0]) for name in READ_BUFFERS}
        log = with_pending(items, data.log)
        out = ReadBuffers(**read)
        visible = _with_pending_visible(log, data.visible)
        with closing(self.days.fold(index, log, items, pool, visible=visible, out=out, watched=watched)) as run:
            for watches in run:
                watched = self._append_watches(watches, watched)
        for start, first_partition in self._frozen_elsewhere(index):
            watched = self._read_frozen(data, start, first_partition, read, watched, pool)
        columns = data.columns | read
        list(pool.map(lambda name: self.columns.append(first, {name: columns[name]}), columns))
        self.dictionaries.save(
            self.folder / "context"
        )  # may hold values of a later partition; the manifest has the valid length
        self.manifest.add(ManifestEntry(partition.identity, partition.rows, watched, data.dictionaries, data.sums))

    def _append_watches(self, watches: Watches, watched: int) -> int:
        self.watches.append(watched, vars(watches))
        return watched + len(watches.bits)

    def _frozen_elsewhere(self, index: int) -> list[tuple[float, int]]:
        """Return (start, partition) of the frozen states of earlier partitions that rows of this one read."""
        if self.regime != "frozen":
            return []
        splits = sorted({split for split in self.plan.partitions[index].split if split > 0})
        return [
            (self.plan.starts[split], self.plan.first_partition[split])
            for split in splits
            if self.plan.first_partition[split] < index
        ]

    def _read_frozen(self, data: PartitionData, start: float, first_partition: int, mapped: Mapping, watched: int, pool) -> int:
        """Read the rows that see the frozen state of an earlier partition."""
        rows = np.flatnonzero(data.visible == start)
        items = self.state.items(first_partition)
        tables = {"videos": items.videos, "creators": items.creators, "load": self.state.viewers(first_partition).load}
        out = ReadBuffers(*(np.empty((len(rows), *mapped[name].shape[1:]), mapped[name].dtype) for name in READ_BUFFERS))
        log = with_pending(items, data.log.take(rows))
        visible = _with_pending_visible(log, data.visible[rows])
        run = replay(self.layout, log, until=start, visible=visible, out=out, watched=watched, pool=pool, **tables)
        for _, _, watches in run:
            watched = self._append_watches(watches, watched)
        for name in READ_BUFFERS:
            mapped[name][rows] = getattr(out, name)
        return watched


def _exposure(impressions: pl.DataFrame) -> dict[str, np.ndarray]:
    """Return the `position` (-1 if not logged) and `propensity` (nan if not logged) of each impression.

    Training may use them; they are never inputs of a network.
    """
    position = impressions["position"].fill_null(-1).to_numpy()
    return {"position": position, "propensity": impressions["propensity"].fill_null(np.nan).to_numpy()}


def _with_pending_visible(log: Log, visible: np.ndarray) -> np.ndarray:
    """Prepend zeros for the pending impressions, which read nothing, to the `visible` times (N,) of a partition."""
    return np.concatenate([np.zeros(log.pending), visible])

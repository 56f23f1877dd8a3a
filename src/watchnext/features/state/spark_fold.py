"""Fold a partition of a log on Spark, with the same compiled fold and to the same bits as `fold_log.replay`.

An event changes one viewer, one video and one creator, and reads one of each. So the rows go by viewer to tasks that fold
viewers, by video to tasks that fold videos, and by creator to tasks that fold creators, each in the order of the log. A task
holds the rows of a bounded number of keys in one time partition. The events of a key within it are never split: parts that are
decayed to one time and added up differ in the last bits. Into the next partition a key goes on from its snapshot, which keeps
them.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.state.event_order import Log, chunks
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import CHUNK_VIEWERS, Ordered, ReadBuffers, fold_items, fold_viewers
from watchnext.features.state.history import Watches
from watchnext.files import removed
from watchnext.spark import Spark

TASK_ROWS = 262_144  # of a task, unless one key alone has more
TASK_KEYS = 16 * CHUNK_VIEWERS  # viewers' records are the largest part of a task
LEAST_ROWS = 8_192  # starting a task costs about as much
GROUP_ROWS = 65_536  # rows that Spark reads together
BY = ("viewer", "video", "creator")


@dataclass(frozen=True)
class SparkFold:
    """The fold of a partition on `spark`; `scratch` is a folder that all its workers see under the same path."""

    spark: Spark
    scratch: Path

    def replay(
        self,
        layout: Layout,
        log: Log,
        *,
        until: float,
        visible: np.ndarray | None = None,
        as_of: np.ndarray | None = None,
        videos: np.ndarray,
        creators: np.ndarray,
        load: Callable[[np.ndarray], np.ndarray],
        out: ReadBuffers | None = None,
        watched: int = 0,
        pool: ThreadPoolExecutor | None = None,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Watches]]:
        """Fold as `fold_log.replay` does. `load` travels to the workers; `pool` is not used. Raises SparkError."""
        if not log.rows:
            return
        out, scratch = out or ReadBuffers.empty(layout, 0), self.scratch.resolve()
        keys = dict(zip(BY, (log.user_rows, log.video_rows, log.creator_rows[log.video_rows]), strict=True))
        tasks, ends = _tasks(keys, min(TASK_ROWS, max(LEAST_ROWS, -(-log.rows // (2 * self.spark.parallelism)))))
        removed(scratch)
        save_arrays(scratch, {"video": videos, "creator": creators, "creator_rows": log.creator_rows, "tag_rows": log.tag_rows})
        parquet.write_table(_table(log, visible, as_of, keys, tasks), scratch / "log.parquet", row_group_size=GROUP_ROWS)
        work = partial(_fold, _Partition.of(scratch, layout, until, log, visible is not None, ends, out), load)
        self.spark.by_task(scratch / "log.parquet", [f"{name}_task" for name in BY], ends[-1], work)
        out.candidate[:, 1] = 0.0  # of videos without a creator
        for task in range(ends[0], ends[-1]):
            records, cell = (videos, 0) if task < ends[1] else (creators, 1)
            read = load_arrays(scratch / f"{task}")
            records[read["keys"]], out.candidate[read["rows"], cell] = read["records"], read["cells"]
        for task in range(ends[0]):
            read = load_arrays(scratch / f"{task}")
            rows = read["rows"]
            out.user[rows], out.gap_s[rows], out.candidate[rows, 2:] = read["user"], read["gap_s"], read["cells"]
            out.history_at[rows], out.history_len[rows] = watched + read["history_at"], read["history_len"]
            watched += len(read["bits"])
            yield read["keys"], read["records"], Watches(read["video_rows"], read["known_at"], read["watch_ms"], read["bits"])
        removed(scratch)


def _tasks(keys: dict[str, np.ndarray], rows: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Return the task (N,) int32 of each row by kind of key, -1 without a key, and the numbers at which each kind's tasks end.

    A task has an interval of keys with about `rows` rows.
    """
    tasks, ends, first = {}, [], 0
    for name, values in keys.items():
        counts = np.bincount(values[values >= 0])
        present = np.flatnonzero(counts)
        bounds = chunks(np.concatenate([[0], np.cumsum(counts[present])]), rows, TASK_KEYS)
        of_key = np.full(len(counts) + 1, -1, np.int32)  # the last one is that of -1
        of_key[present] = first + np.repeat(np.arange(len(bounds)), [last - begin for begin, last in bounds])
        tasks[name], first = of_key[values], first + len(bounds)
        ends.append(first)
    return tasks, ends


def _table(log: Log, visible: np.ndarray | None, as_of: np.ndarray | None, keys: dict, tasks: dict) -> pa.Table:
    """Return the log as rows for Spark: its position, its columns, when it sees what, and its key and task of each kind."""
    none = np.zeros(log.pending)
    columns = {
        "row": np.arange(log.rows),
        **{name: values for name, values in log.columns.items() if name != "amounts"},
        "visible": np.zeros(log.rows) if visible is None else np.concatenate([none, visible]),
        "as_of": log.time_ms if as_of is None else np.concatenate([none, as_of]),
        **keys,
        **{f"{name}_task": values for name, values in tasks.items()},
    }
    offsets = np.arange(log.rows + 1, dtype=np.int32) * log.amounts.shape[1]
    return pa.table({**columns, "amounts": pa.ListArray.from_arrays(offsets, log.amounts.ravel())})


# ---- in a worker ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Partition:
    """The settings that the tasks of one partition share.

    pending  number of first rows whose impressions were shown before it
    reads    whether its impressions read the state
    ends     numbers at which the tasks of viewers, videos and creators end
    buffers  of `ReadBuffers`, by name: shape of a row and type
    """

    scratch: Path
    layout: Layout
    until: float
    pending: int
    counts: int
    reads: bool
    ends: list[int]
    buffers: dict[str, tuple[tuple[int, ...], np.dtype]]

    @classmethod
    def of(
        cls, scratch: Path, layout: Layout, until: float, log: Log, reads: bool, ends: list, out: ReadBuffers
    ) -> "_Partition":
        buffers = {name: (values.shape[1:], values.dtype) for name, values in vars(out).items()}
        return cls(scratch, layout, until, log.pending, log.amounts.shape[1], reads, ends, buffers)

    def mapped(self, name: str) -> np.ndarray:
        # Private pages that may be written: a read-only array is another type to numba, which would compile again.
        return np.asarray(np.load(self.scratch / f"{name}.npy", mmap_mode="c"))

    def out(self, rows: int) -> ReadBuffers:
        return ReadBuffers(**{name: np.empty((rows, *row), kind) for name, (row, kind) in self.buffers.items()})

    def log(self, columns: dict[str, np.ndarray]) -> Log:
        shared = {name: self.mapped(name) for name in ("creator_rows", "tag_rows")}
        own = {name: columns[name] for name in Log._fields if name in columns}
        return Log(**own, **shared, pending=int(np.searchsorted(columns["row"], self.pending)))

    def ordered(self, log: Log, columns: dict[str, np.ndarray]) -> Ordered:
        visible, as_of = (columns[name][log.pending :] for name in ("visible", "as_of"))
        return Ordered.of(log, until=self.until, visible=visible if self.reads else None, as_of=as_of)


def _fold(partition: _Partition, load: Callable, task: int, table: pa.Table) -> None:
    """Fold the rows of one task, and write what they read and the changed records as arrays."""
    amounts = table["amounts"].combine_chunks().values.to_numpy().reshape(-1, partition.counts)
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "amounts"}
    in_order = np.argsort(columns["row"])  # Spark mixes what it shuffles
    columns = {name: values[in_order] for name, values in (columns | {"amounts": amounts}).items()}
    log = partition.log(columns)
    rows = columns["row"][log.pending :] - partition.pending if partition.reads else np.zeros(0, np.int64)
    kind = BY[int(np.searchsorted(partition.ends, task, side="right"))]
    if kind == "viewer":
        arrays = _viewers(partition, log, columns, load, len(rows))
    else:
        arrays = _items(partition, log, columns, kind, len(rows))
    aside = partition.scratch / f"{task}.{uuid4()}"
    save_arrays(aside, {"rows": rows, **arrays})
    with suppress(OSError):  # an earlier try, whose answer was lost, wrote the same
        aside.rename(partition.scratch / f"{task}")
    removed(aside)


def _viewers(partition: _Partition, log: Log, columns: dict, load: Callable, rows: int) -> dict[str, np.ndarray]:
    out = partition.out(rows)
    with ThreadPoolExecutor(1) as pool:
        parts = list(fold_viewers(partition.layout, partition.ordered(log, columns), load, out, 0, pool))
    users, records, watches = zip(*parts, strict=True)
    changed = {"keys": np.concatenate(users), "records": np.concatenate(records)}
    history = {"history_at": out.history_at, "history_len": out.history_len, **vars(Watches.joined(watches))}
    return changed | history | {"user": out.user, "gap_s": out.gap_s, "cells": out.candidate[:, 2:]}


def _items(partition: _Partition, log: Log, columns: dict, kind: str, rows: int) -> dict[str, np.ndarray]:
    """Fold the counters of videos, or those of creators as if they were videos without one."""
    keys, positions = np.unique(columns[kind], return_inverse=True)
    log = log._replace(video_rows=positions, creator_rows=np.full(len(keys), -1, np.int32))
    records, candidate = partition.mapped(kind)[keys], partition.out(rows).candidate
    no_creators = np.zeros((1, partition.layout.item))
    fold_items(partition.layout, partition.ordered(log, columns), records, no_creators, candidate)
    return {"keys": keys, "records": records, "cells": candidate[:, 0]}

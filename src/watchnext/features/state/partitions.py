"""Plan a build as time partitions, and compare it with the manifest of the last build.

A partition is a day of the log, from its first request to the first request of the next day. Where days overlap in time, the
rest of one day lies in the partition of the other. Small days share a partition, so that cost follows rows, not days. The
output of a partition stays valid as long as the partition and all before it are unchanged.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.splits import NO_SPLIT, TimeSplit
from watchnext.data.storage import Day, StoredTables
from watchnext.files import boot, replaced, synced_below

PARTITION_ROWS = 16_384  # smaller days join the next one: starting and committing a partition costs about as much


@dataclass(frozen=True)
class TimePartition:
    """The `rows` impressions of a log from `start_ms` on, before `end_ms` if a day continues beyond it.

    days, split  the days with impressions in it, and split[i] of days[i] as in SPLITS (-1: none)
    sees         description of the state that its held-out rows see
    """

    days: tuple[Day, ...]
    split: tuple[int, ...]
    sees: str
    start_ms: int
    end_ms: int | None
    rows: int

    @property
    def snapshot_ms(self) -> float:
        """Time of the snapshot, just after the last request: it holds everything known strictly before."""
        return float(self.end_ms or np.nextafter(max(day.last_ms for day in self.days), np.inf))

    @property
    def days_begun(self) -> int:
        """Number of days that begin in this partition."""
        return sum(day.first_ms >= self.start_ms for day in self.days)

    @property
    def identity(self) -> dict:
        """Values that must be unchanged for its output to stay valid."""
        cut = self.start_ms if any(day.first_ms < self.start_ms for day in self.days) else None
        return {"days": [[day.day, day.sha256] for day in self.days], "within": [cut, self.end_ms], "sees": self.sees}

    def impressions(self, stored: StoredTables) -> pl.DataFrame:
        """Read its rows in the order of the log."""
        return stored.impressions(self.days, self.start_ms, self.end_ms)


@dataclass(frozen=True)
class Plan:
    """The whole log as time partitions.

    starts           held-out split (1 valid, 2 test) > its first time
    first_partition  held-out split > index of the partition that holds this time
    days_ms          first times of all days, ascending
    """

    partitions: tuple[TimePartition, ...]
    starts: dict[int, float]
    first_partition: dict[int, int]
    days_ms: np.ndarray

    @classmethod
    def of(cls, stored: StoredTables, split: TimeSplit, regime: str) -> "Plan":
        """Plan a build. If the log is empty or too short for the split, no row is in a split.

        Raises DataError if a split of a longer log would be empty.
        """
        days = stored.days
        dates = pl.Series([day.day for day in days], dtype=pl.String).str.to_date()
        splits = [NO_SPLIT] * len(days) if split.is_too_long_for(dates) else split.assign(dates).tolist()
        of_day = dict(zip(days, splits, strict=True))
        starts = {s: float(min(day.first_ms for day in days if of_day[day] == s)) for s in (1, 2) if s in splits}
        partitions = []
        for partition in time_partitions(stored):
            held_out = [f"{day.day}={of_day[day]}" for day in partition.days if of_day[day] > 0]
            sees = "streaming"
            if held_out and regime != "streaming":
                sees = " ".join([regime, *held_out, *([str(starts)] if regime == "frozen" else [])])
            partitions.append(replace(partition, split=tuple(of_day[day] for day in partition.days), sees=sees))
        first_partition = {s: sum(partition.start_ms <= start for partition in partitions) - 1 for s, start in starts.items()}
        return cls(tuple(partitions), starts, first_partition, np.unique([float(day.first_ms) for day in days]))


def time_partitions(stored: StoredTables) -> tuple[TimePartition, ...]:
    """Cut the log into partitions from one day's first request to the next day's, without splits.

    A day that begins before its predecessor shares a partition with it, and so does a day after a partition of few rows.
    """
    merged: list[tuple[int, int, list[Day]]] = []
    for day in stored.days:
        start, rows, covered = day.first_ms, day.rows, [day]
        while merged and (merged[-1][0] >= start or merged[-1][1] < PARTITION_ROWS):
            earlier, more, days = merged.pop()
            start, rows, covered = min(earlier, start), rows + more, [*days, *covered]
        merged.append((start, rows, covered))
    partitions, continuing = [], []
    for i, (start, _, covered) in enumerate(merged):
        days = tuple(day for day in [*continuing, *covered] if day.last_ms >= start)
        end = merged[i + 1][0] if i + 1 < len(merged) else None
        continuing = [day for day in days if end is not None and day.last_ms >= end]
        end = end if continuing else None
        rows = sum(stored.rows_within(day, start, end) for day in days)
        partitions.append(TimePartition(days, (NO_SPLIT,) * len(days), "nothing", start, end, rows))
    return tuple(partitions)


@dataclass(frozen=True)
class ManifestEntry:
    """One built partition: its identity, the number of its folded rows, and the facts of the hook that encoded them."""

    identity: dict
    rows: int
    encoded: dict


class BuildManifest:
    """The list of built partitions and what they were built `under`: one JSON line each, appended, or replaced in one step.

    Until the manifest is closed, the files that it names may be in memory alone. Memory outlives a killed process but no power
    cut, so an open manifest is valid only on the same boot of the machine. This takes one fsync per build, not one per
    partition.
    """

    def __init__(self, path: Path, under: Mapping) -> None:
        self.path, self.under = Path(path), dict(under)
        self.entries: list[ManifestEntry] = []

    def read(self, plan: Sequence[TimePartition], changed: Callable[[Mapping], str | None]) -> tuple[int, str | None]:
        """Return the number of first partitions of `plan` that are valid, and the reason why the next one is not.

        `changed` gets the settings of the last build and returns their difference to this build, or None.
        """
        if not self.path.exists():
            return 0, None
        first, *lines = self.path.read_text().splitlines()
        header = json.loads(first)
        if reason := changed(header["under"]):
            return 0, reason
        if header["boot"] not in (None, boot()):
            return 0, "the machine stopped during the last build"
        with suppress(ValueError):  # the last line may be cut short
            self.entries.extend(ManifestEntry(**json.loads(line)) for line in lines)
        for i, (entry, partition) in enumerate(zip(self.entries, plan, strict=False)):
            if entry.identity != partition.identity:
                return i, _changed(entry.identity["days"], partition.identity["days"])
        return min(len(self.entries), len(plan)), None

    def truncate(self, kept: int) -> None:
        self.entries = self.entries[:kept]
        self._write(boot())

    def add(self, entry: ManifestEntry) -> None:
        self.entries.append(entry)
        with open(self.path, "a") as file:
            file.write(_line(entry))

    def close(self) -> None:
        """Sync all files in its folder; from then on it is valid after a reboot too."""
        synced_below(self.path.parent)
        self._write(None)

    def _write(self, boot: str | None) -> None:
        head = json.dumps({"boot": boot, "under": self.under})
        replaced(self.path, f"{head}\n{''.join(map(_line, self.entries))}")


def _line(entry: ManifestEntry) -> str:
    return json.dumps(vars(entry)) + "\n"


def _changed(before: list, now: list) -> str | None:
    """Name the first day that changed or is gone; a partition that only gained days did not change."""
    for old, new in itertools.zip_longest(before, now[: len(before)]):
        if old != new:
            return f"{(new or old)[0]} changed"
    return None


def digest_of(arrays: Sequence[np.ndarray], rows: int) -> str:
    """Digest the first `rows` of each array, 16 hex digits; the width of a byte array does not matter."""
    digest = hashlib.sha256()
    for array in arrays:
        part = np.ascontiguousarray(array[:rows])
        digest.update(b"\n".join(part.tolist()) if part.dtype.kind == "S" else part.tobytes())
    return digest.hexdigest()[:16]

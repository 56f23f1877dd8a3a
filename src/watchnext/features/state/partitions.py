"""Which parts of the log were folded, and which are to be: the plan of a build, compared with the ledger of the last one.

A stretch is a day of the log, from its first request to that of the next day: where days overlap in time, the rest of one is in
the stretch of the other. Small days are one stretch with those behind them, so that cost follows rows, not days. What was built
of a stretch stays as long as it, and all before it, are what they were.
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

STRETCH_ROWS = 16_384  # a stretch of fewer goes on with the next day: to open and to close one costs about as much


@dataclass(frozen=True)
class Stretch:
    """The impressions of a log from `start_ms` on, and before `end_ms` where a day goes on behind it; `rows` of them.

    days, split   the days that have some, and split[i] of days[i] as in SPLITS (-1: in none)
    sees          what its held-out rows see
    """

    days: tuple[Day, ...]
    split: tuple[int, ...]
    sees: str
    start_ms: int
    end_ms: int | None
    rows: int

    @property
    def closes_ms(self) -> float:
        """The next moment after its last request: a snapshot holds what was known strictly before."""
        return float(self.end_ms or np.nextafter(max(day.last_ms for day in self.days), np.inf))

    @property
    def begun(self) -> int:
        """How many days begin in it."""
        return sum(day.first_ms >= self.start_ms for day in self.days)

    @property
    def identity(self) -> dict:
        """What must be the same for what was built of it to stay."""
        cut = self.start_ms if any(day.first_ms < self.start_ms for day in self.days) else None
        return {"days": [[day.day, day.sha256] for day in self.days], "within": [cut, self.end_ms], "sees": self.sees}

    def impressions(self, stored: StoredTables) -> pl.DataFrame:
        """Its rows, in the order of the log."""
        return stored.impressions(self.days, self.start_ms, self.end_ms)


@dataclass(frozen=True)
class Plan:
    """The whole log as stretches. Of each held-out split (1 valid, 2 test), `starts` is its first time and `opens` the stretch
    that this is in; `days_ms` are the first times of all days, ascending."""

    stretches: tuple[Stretch, ...]
    starts: dict[int, float]
    opens: dict[int, int]
    days_ms: np.ndarray

    @classmethod
    def of(cls, stored: StoredTables, split: TimeSplit, regime: str) -> "Plan":
        """Of a log shorter than the split takes, or of none, every row is in no split. Raises DataError where one of the splits
        of a longer log would be empty."""
        days = stored.days
        dates = pl.Series([day.day for day in days], dtype=pl.String).str.to_date()
        named = [NO_SPLIT] * len(days) if split.is_too_long_for(dates) else split.assign(dates).tolist()
        of_day = dict(zip(days, named, strict=True))
        starts = {s: float(min(day.first_ms for day in days if of_day[day] == s)) for s in (1, 2) if s in named}
        found = []
        for stretch in unsplit(stored):
            held_out = [f"{day.day}={of_day[day]}" for day in stretch.days if of_day[day] > 0]
            sees = "streaming"
            if held_out and regime != "streaming":
                sees = " ".join([regime, *held_out, *([str(starts)] if regime == "frozen" else [])])
            found.append(replace(stretch, split=tuple(of_day[day] for day in stretch.days), sees=sees))
        opens = {s: sum(stretch.start_ms <= start for stretch in found) - 1 for s, start in starts.items()}
        return cls(tuple(found), starts, opens, np.unique([float(day.first_ms) for day in days]))


def unsplit(stored: StoredTables) -> tuple[Stretch, ...]:
    """The log as stretches of which nothing is read, from one day's first request to the next day's. A day that begins before
    the one that should come before it is one with it, and so is one behind a stretch of few rows."""
    begun: list[tuple[int, int, list[Day]]] = []
    for day in stored.days:
        start, rows, own = day.first_ms, day.rows, [day]
        while begun and (begun[-1][0] >= start or begun[-1][1] < STRETCH_ROWS):
            earlier, more, days = begun.pop()
            start, rows, own = min(earlier, start), rows + more, [*days, *own]
        begun.append((start, rows, own))
    found, going_on = [], []
    for place, (start, _, own) in enumerate(begun):
        days = tuple(day for day in [*going_on, *own] if day.last_ms >= start)
        end = begun[place + 1][0] if place + 1 < len(begun) else None
        going_on = [day for day in days if end is not None and day.last_ms >= end]
        end = end if going_on else None
        rows = sum(stored.rows_within(day, start, end) for day in days)
        found.append(Stretch(days, (NO_SPLIT,) * len(days), "nothing", start, end, rows))
    return tuple(found)


@dataclass(frozen=True)
class Entry:
    """What the ledger keeps of a stretch: its identity, how many `watches` and dictionary entries it ended with, and the sums
    of its labels a day."""

    identity: dict
    rows: int
    watches: int
    dictionaries: dict[str, int]
    sums: dict[str, dict[str, float]]


class Ledger:
    """The stretches that are built, and under what, a line of JSON each; lines are added to the file, or it is replaced in one
    step.

    Until it is closed, what it names may be in memory alone. That outlives a killed process but no power cut, so such a ledger
    is believed only on the same boot of the machine: one sync a build, not one a stretch.
    """

    def __init__(self, path: Path, under: Mapping) -> None:
        self.path, self.under = Path(path), dict(under)
        self.entries: list[Entry] = []

    def read(self, plan: Sequence[Stretch], changed: Callable[[Mapping], str | None]) -> tuple[int, str | None]:
        """How many of the first stretches of `plan` are built as they are, and why no more.

        `changed` is called with what the ledger was written under, and says what of it is another now, or None.
        """
        if not self.path.exists():
            return 0, None
        first, *lines = self.path.read_text().splitlines()
        found = json.loads(first)
        if reason := changed(found["under"]):
            return 0, reason
        if found["boot"] not in (None, boot()):
            return 0, "the machine went down during the last build"
        with suppress(ValueError):  # the last line may be cut short
            self.entries.extend(Entry(**json.loads(line)) for line in lines)
        for place, (entry, stretch) in enumerate(zip(self.entries, plan, strict=False)):
            if entry.identity != stretch.identity:
                return place, _changed(entry.identity["days"], stretch.identity["days"])
        return min(len(self.entries), len(plan)), None

    def truncate(self, kept: int) -> None:
        self.entries = self.entries[:kept]
        self._write(boot())

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        with open(self.path, "a") as file:
            file.write(_line(entry))

    def close(self) -> None:
        """Put what stands beside the ledger on disk; it is believed on another boot too from then on."""
        synced_below(self.path.parent)
        self._write(None)

    def rows(self, stretch: int) -> int:
        """Rows before a stretch."""
        return sum(entry.rows for entry in self.entries[:stretch])

    def _write(self, boot: str | None) -> None:
        head = json.dumps({"boot": boot, "under": self.under})
        replaced(self.path, f"{head}\n{''.join(map(_line, self.entries))}")


def _line(entry: Entry) -> str:
    return json.dumps(vars(entry)) + "\n"


def _changed(before: list, now: list) -> str | None:
    """Name the first day that another one, or nothing, is in the place of; a stretch that only goes on did not change."""
    for was, day in itertools.zip_longest(before, now[: len(before)]):
        if was != day:
            return f"{(day or was)[0]} changed"
    return None


def digest_of(arrays: Sequence[np.ndarray], rows: int) -> str:
    """16 hex digits over the first `rows` of each array; of bytes, however wide the array is."""
    digest = hashlib.sha256()
    for array in arrays:
        part = np.ascontiguousarray(array[:rows])
        digest.update(b"\n".join(part.tolist()) if part.dtype.kind == "S" else part.tobytes())
    return digest.hexdigest()[:16]

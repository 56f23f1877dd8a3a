"""Which parts of the log were folded, and which are to be: the plan of a build, compared with the ledger of the last one.

A stretch is a day of the log; days whose times overlap are one. What was built of a stretch stays as long as it, and all before
it, are what they were.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.days import Day
from watchnext.data.splits import NO_SPLIT, TimeSplit


@dataclass(frozen=True)
class Stretch:
    """Some days of the log, split[i] of days[i] as in SPLITS (-1: in none). `sees` says what its held-out rows see."""

    days: tuple[Day, ...]
    split: tuple[int, ...]
    sees: str

    @property
    def rows(self) -> int:
        return sum(day.rows for day in self.days)

    @property
    def first_ms(self) -> int:
        return min(day.first_ms for day in self.days)

    @property
    def closes_ms(self) -> float:
        """The next moment after its last request: a snapshot holds what was known strictly before."""
        return float(np.nextafter(max(day.last_ms for day in self.days), np.inf))

    @property
    def identity(self) -> dict:
        """What must be the same for what was built of it to stay."""
        return {"days": [[day.day, day.sha256] for day in self.days], "sees": self.sees}


@dataclass(frozen=True)
class Plan:
    """The whole log as stretches. Of each held-out split (1 valid, 2 test), `starts` is its first time and `opens` the stretch
    that this is in."""

    stretches: tuple[Stretch, ...]
    starts: dict[int, float]
    opens: dict[int, int]

    @classmethod
    def of(cls, days: Sequence[Day], split: TimeSplit, regime: str) -> "Plan":
        """Raises DataError where a split would be empty."""
        named = split.assign(pl.Series([day.day for day in days], dtype=pl.String).str.to_date()).tolist()
        of_day = dict(zip(days, named, strict=True))
        starts = {s: float(min(day.first_ms for day in days if of_day[day] == s)) for s in (1, 2) if s in named}
        found = []
        for run in _runs(days):
            held_out = [f"{day.day}={of_day[day]}" for day in run if of_day[day] > 0]
            sees = "streaming"
            if held_out and regime != "streaming":
                sees = " ".join([regime, *held_out, *([str(starts)] if regime == "frozen" else [])])
            found.append(Stretch(tuple(run), tuple(of_day[day] for day in run), sees))
        opens = {s: next(i for i, stretch in enumerate(found) if s in stretch.split) for s in starts}
        return cls(tuple(found), starts, opens)


def unsplit(days: Sequence[Day]) -> tuple[Stretch, ...]:
    """The log as stretches of which nothing is read."""
    return tuple(Stretch(tuple(run), (NO_SPLIT,) * len(run), "nothing") for run in _runs(days))


def _runs(days: Sequence[Day]) -> list[list[Day]]:
    """Days one by one, but those together whose times overlap, and all between them."""
    runs: list[list[Day]] = []
    for day in days:
        run = [day]
        while runs and max(earlier.last_ms for earlier in runs[-1]) >= min(later.first_ms for later in run):
            run = [*runs.pop(), *run]
        runs.append(run)
    return runs


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
    """The stretches that are built, and under what; `stretches.json`, replaced in one step."""

    def __init__(self, path: Path, under: Mapping) -> None:
        self.path, self.under = Path(path), dict(under)
        self.entries: list[Entry] = []

    def read(self, plan: Sequence[Stretch], changed: Callable[[Mapping], str | None]) -> tuple[int, str | None]:
        """How many of the first stretches of `plan` are built as they are, and why no more.

        `changed` is called with what the ledger was written under, and says what of it is another now, or None.
        """
        if not self.path.exists():
            return 0, None
        found = json.loads(self.path.read_text())
        if reason := changed(found["under"]):
            return 0, reason
        self.entries = [Entry(**entry) for entry in found["entries"]]
        for place, (entry, stretch) in enumerate(zip(self.entries, plan, strict=False)):
            if entry.identity != stretch.identity:
                return place, f"{stretch.days[0].day} changed"
        return min(len(self.entries), len(plan)), None

    def truncate(self, kept: int) -> None:
        self.entries = self.entries[:kept]
        self._write()

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._write()

    def rows(self, stretch: int) -> int:
        """Rows before a stretch."""
        return sum(entry.rows for entry in self.entries[:stretch])

    def _write(self) -> None:
        aside = self.path.with_suffix(".new")
        aside.write_text(json.dumps({"under": self.under, "entries": [vars(entry) for entry in self.entries]}, indent=1))
        os.replace(aside, self.path)


def digest_of(arrays: Sequence[np.ndarray], rows: int) -> str:
    """16 hex digits over the first `rows` of each array; of bytes, however wide the array is."""
    digest = hashlib.sha256()
    for array in arrays:
        part = np.ascontiguousarray(array[:rows])
        digest.update(b"\n".join(part.tolist()) if part.dtype.kind == "S" else part.tobytes())
    return digest.hexdigest()[:16]

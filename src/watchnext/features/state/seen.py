"""The videos that a viewer has seen: shown, watched or hidden, each with the last day, from a log or event by event.

A set is `keys` (n,) uint32, ascending, video row * 4 + kind, and `days` (n,) uint16, UTC days since 1970. An event adds one key
or moves its day forward. Of a kind the latest KEPT keys stay: the oldest day goes first, and of a day the lowest row. So a set
follows from its events alone, whatever their order and however they are grouped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from watchnext.features.arrays import save_arrays
from watchnext.features.column_files import ColumnFiles
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.kernels import kernel
from watchnext.types import among

SHOWN, WATCHED, HIDDEN = 0, 1, 2  # kinds: a video that was shown and left within SKIP_MS, without a flag, is only SHOWN
KEPT = 8_192  # keys a kind
SKIP_MS = 1_000
REST_DAYS = 30  # a watched video does not return before
DAY_MS = 86_400_000
CHUNK_VIEWERS = 16_384
ENTRY_BYTES = 6


class SeenSet(NamedTuple):
    """The set of one viewer, `keys` and `days` as above."""

    keys: np.ndarray
    days: np.ndarray

    @classmethod
    def empty(cls) -> "SeenSet":
        return cls(np.zeros(0, np.uint32), np.zeros(0, np.uint16))

    @classmethod
    def from_bytes(cls, packed: bytes) -> "SeenSet":
        count = len(packed) // ENTRY_BYTES
        return cls(np.frombuffer(packed, np.uint32, count), np.frombuffer(packed, np.uint16, offset=4 * count))

    def to_bytes(self) -> bytes:
        return self.keys.tobytes() + self.days.tobytes()

    def with_events(self, keys: np.ndarray, days: np.ndarray) -> "SeenSet":
        """Add the keys (m,) uint32 of a few events of `days` (m,) uint16."""
        return SeenSet(*_inserted(self.keys.copy(), self.days.copy(), keys, days))

    @property
    def rows(self) -> np.ndarray:
        """The video rows (n,) int64, sorted and distinct."""
        return _rows(self.keys)

    def holds(self, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of the video rows that are in the set."""
        return _held(self.keys, rows)

    def again(self, as_of_ms: float) -> np.ndarray:
        """Return the rows (n,) that may return where nothing unseen is left: shown but not watched ones, the oldest first, then
        those watched REST_DAYS ago or before, the oldest first. What was hidden never returns."""
        shown, watched, hidden = (self._of(kind) for kind in (SHOWN, WATCHED, HIDDEN))
        left = ~among(shown[0], watched[0])
        skipped = shown[0][left], shown[1][left]
        rested = watched[1] + REST_DAYS <= as_of_ms // DAY_MS
        parts = (skipped, (watched[0][rested], watched[1][rested]))
        rows = np.concatenate([rows[np.argsort(days, kind="stable")] for rows, days in parts])
        return rows[~among(rows, hidden[0])]

    def resting(self, as_of_ms: float) -> np.ndarray:
        """Return the seen rows (n,), sorted, that may not return."""
        return np.setdiff1d(self.rows, self.again(as_of_ms))

    def _of(self, kind: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.keys & 3 == kind
        return (self.keys[chosen] >> 2).astype(np.int64), self.days[chosen].astype(np.int64)


def keys_of(video_rows: np.ndarray, watch_ms: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return the keys (N,) uint32 of outcomes; an impression has the key of an empty one."""
    bits = bits.astype(np.int64)
    kinds = np.where(bits & OUTCOME_BITS["hide"], HIDDEN, np.where((watch_ms >= SKIP_MS) | (bits > 0), WATCHED, SHOWN))
    return (video_rows * 4 + kinds).astype(np.uint32)


def days_of(known_at: np.ndarray) -> np.ndarray:
    """Return the days (N,) uint16 of times in ms."""
    return np.clip(known_at // DAY_MS, 0, 65_535).astype(np.uint16)


@kernel
def _rows(keys):
    rows, n = np.empty(keys.size, np.int64), 0
    for i in range(keys.size):
        row = np.int64(keys[i] >> 2)
        if n == 0 or rows[n - 1] != row:
            rows[n] = row
            n += 1
    return rows[:n].copy()


@kernel
def _held(keys, rows):
    held = np.zeros(rows.size, np.bool_)
    for i in range(rows.size):
        low, high = 0, keys.size  # binary search of the first key of the row, or behind it
        while low < high:
            middle = (low + high) // 2
            if keys[middle] < np.int64(rows[i]) * 4:
                low = middle + 1
            else:
                high = middle
        held[i] = low < keys.size and np.int64(keys[low] >> 2) == rows[i]
    return held


@kernel
def _inserted(keys, days, new_keys, new_days):
    """Insert keys one after another into sorted `keys` (n,), and drop the oldest of a kind above KEPT."""
    n, counts = keys.size, np.zeros(4, np.int64)
    out_keys, out_days = np.empty(n + new_keys.size, np.uint32), np.empty(n + new_keys.size, np.uint16)
    out_keys[:n], out_days[:n] = keys, days
    for i in range(n):
        counts[keys[i] & 3] += 1
    for j in range(new_keys.size):
        key, day = new_keys[j], new_days[j]
        at = np.searchsorted(out_keys[:n], key)
        if at < n and out_keys[at] == key:
            out_days[at] = max(out_days[at], day)
            continue
        for i in range(n, at, -1):
            out_keys[i], out_days[i] = out_keys[i - 1], out_days[i - 1]
        out_keys[at], out_days[at] = key, day
        n += 1
        kind = key & 3
        counts[kind] += 1
        if counts[kind] > KEPT:
            oldest = -1
            for i in range(n):
                if out_keys[i] & 3 == kind and (oldest < 0 or out_days[i] < out_days[oldest]):
                    oldest = i
            for i in range(oldest, n - 1):
                out_keys[i], out_days[i] = out_keys[i + 1], out_days[i + 1]
            n -= 1
            counts[kind] -= 1
    return out_keys[:n].copy(), out_days[:n].copy()


# ---- of many viewers ---------------------------------------------------------------------------------------------------


def merged(users: np.ndarray, keys: np.ndarray, days: np.ndarray) -> dict[str, np.ndarray]:
    """Merge keys (n,) and days of viewers (n,) in any order into their sets, sorted by viewer and key."""
    owned = users.astype(np.uint64) << np.uint64(32) | keys
    order = np.lexsort((days, owned))
    owned, days = owned[order], days[order]
    last = np.append(owned[1:] != owned[:-1], True)[: len(owned)]
    owned, days = owned[last], days[last]
    kept = _latest(owned, days)
    owned, days = owned[kept], days[kept]
    return {"users": (owned >> np.uint64(32)).astype(np.uint32), "keys": owned.astype(np.uint32), "days": days}


def _latest(owned: np.ndarray, days: np.ndarray) -> np.ndarray:
    """Return the positions of the latest KEPT keys of each viewer and kind."""
    groups = owned >> np.uint64(34) << np.uint64(2) | owned & np.uint64(3)
    if len(groups) <= KEPT or np.unique(groups, return_counts=True)[1].max() <= KEPT:
        return np.arange(len(owned))
    order = np.lexsort((owned, days, groups))
    ends = np.searchsorted(groups[order], groups[order], side="right")
    return np.sort(order[ends - np.arange(len(order)) <= KEPT])


def added(log: Log, until: float) -> dict[str, np.ndarray]:
    """Return what the events of `log` that were known before `until` add: `users`, `keys` and `days` as in `merged`."""
    shown = log.pending + np.flatnonzero(log.time_ms[log.pending :] < until)
    known = np.flatnonzero(log.known_at < until)
    outcomes = keys_of(log.video_rows, log.watch_ms, log.bits)[known]
    return merged(
        np.concatenate([log.user_rows[shown], log.user_rows[known]]),
        np.concatenate([(log.video_rows[shown] * 4 + SHOWN).astype(np.uint32), outcomes]),
        np.concatenate([days_of(log.time_ms[shown]), days_of(log.known_at[known])]),
    )


@dataclass(frozen=True)
class SeenParts:
    """The sets of `count` viewers, in `parts` as `added` returns them, one a partition of the log."""

    parts: list[dict[str, np.ndarray]]
    count: int

    def all(self) -> Iterator[tuple[int, "SeenSets"]]:
        """Yield the first viewer's row and the sets of CHUNK_VIEWERS viewers after another."""
        for first in range(0, self.count, CHUNK_VIEWERS):
            last = min(first + CHUNK_VIEWERS, self.count)
            yield first, SeenSets.of(first, last, [self._slice(part, first, last) for part in self.parts])

    @staticmethod
    def _slice(part: dict[str, np.ndarray], first: int, last: int) -> dict[str, np.ndarray]:
        begin, end = np.searchsorted(part["users"], [first, last])
        return {name: values[begin:end] for name, values in part.items()}

    def write(self, folder: Path) -> None:
        """Write the sets of all viewers to `folder`, as `SeenSets` loads them."""
        files, starts = ColumnFiles(folder, {"keys": (np.uint32, ()), "days": (np.uint16, ())}), [np.zeros(1, np.int64)]
        files.resize(0)
        for _, sets in self.all():
            files.append(int(starts[-1][-1]), {"keys": sets.keys, "days": sets.days})
            starts.append(starts[-1][-1] + sets.starts[1:])
        starts = np.concatenate(starts)
        files.resize(int(starts[-1]))
        save_arrays(folder, {"starts": starts})


@dataclass(frozen=True)
class SeenSets:
    """The sets of viewers: viewer u has `keys` and `days` from starts[u] to starts[u + 1]; `starts` (U + 1,) int64."""

    starts: np.ndarray
    keys: np.ndarray
    days: np.ndarray

    @classmethod
    def of(cls, first: int, last: int, parts: list[dict[str, np.ndarray]]) -> "SeenSets":
        """Merge the parts of the viewers from `first` to `last`."""
        none = {"users": np.zeros(0, np.uint32), "keys": np.zeros(0, np.uint32), "days": np.zeros(0, np.uint16)}
        columns = merged(*(np.concatenate([part[name] for part in (none, *parts)]) for name in none))
        starts = np.searchsorted(columns["users"], np.arange(first, last + 1))
        return cls(starts.astype(np.int64), columns["keys"], columns["days"])

    @classmethod
    def of_records(cls, viewers: np.ndarray, layout: Layout) -> "SeenSets":
        """Take the videos that records (U, layout.viewer) name as watched, on the day of the viewer's last event.

        A release of a version without sets has no others.
        """
        slots = viewers[:, layout.at_seen + 1 : layout.at_seen + 1 + layout.seen]
        users, at = np.nonzero(slots)
        keys = (slots[users, at].astype(np.int64) - 1) * 4 + WATCHED
        part = merged(users, keys.astype(np.uint32), days_of(viewers[users, 0]))
        return cls.of(0, len(viewers), [part])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def part(self, first: int, last: int) -> "SeenSets":
        """Return those of the viewers from `first` to `last`, or to the end."""
        starts = self.starts[first : last + 1]
        return SeenSets(starts - starts[0], self.keys[starts[0] : starts[-1]], self.days[starts[0] : starts[-1]])

    def viewer(self, row: int) -> SeenSet:
        span = slice(int(self.starts[row]), int(self.starts[row + 1]))
        return SeenSet(self.keys[span], self.days[span])

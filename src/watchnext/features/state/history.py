"""A viewer's last watches before `as_of`, and which videos were seen at all: rings inside the viewer's record.

A ring is `[written, entry...]`; entry `written % slots` is overwritten next. A watch is `[video row + 1, known_at, watch_ms,
outcome bits]`; one of 0 ms is an outcome without a watch, as of a video that was hidden or liked unwatched.
"""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel

WATCH = 4  # numbers a watch takes
OUTCOME_BITS = {"click": 1, "long_view": 2, "like": 4, "share": 8, "follow": 16, "comment": 32, "hide": 64}


def outcome_bits(outcomes: dict[str, np.ndarray]) -> np.ndarray:
    """The boolean outcome columns as one (N,) float64 of OUTCOME_BITS."""
    return sum(np.asarray(outcomes[name], np.float64) * bit for name, bit in OUTCOME_BITS.items())


@dataclass(frozen=True)
class Watches:
    """What viewers watched, in the order in which it was known, viewer after viewer; of each first what its record held.

    video_rows (W,) int32, known_at (W,) float64, watch_ms (W,) float64, bits (W,) uint8
    """

    video_rows: np.ndarray
    known_at: np.ndarray
    watch_ms: np.ndarray
    bits: np.ndarray

    @classmethod
    def joined(cls, parts: list["Watches"]) -> "Watches":
        """One after another; of none, none."""
        none = cls(np.empty(0, np.int32), np.empty(0), np.empty(0), np.empty(0, np.uint8))
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in [none, *parts]), strict=True)))


@kernel
def push(record, at, slots, video_row, known_at, watch_ms, bits):
    """Remember a watch in the ring of `slots` watches at `record[at:]`."""
    entry = at + 1 + int(record[at] % slots) * WATCH
    record[entry] = video_row + 1
    record[entry + 1] = known_at
    record[entry + 2] = watch_ms
    record[entry + 3] = bits
    record[at] += 1


@kernel
def read(record, at, slots, as_of, rows, values):
    """Latest first into `rows` (H,) int32 (-1 where empty) and `values` (H, 3): seconds ago, watched seconds, outcome bits."""
    written = int(record[at])
    for j in range(slots):
        rows[j] = -1
        values[j, :] = 0.0
        if j < written:
            entry = at + 1 + ((written - 1 - j) % slots) * WATCH
            rows[j] = int(record[entry]) - 1
            values[j, 0] = max(as_of - record[entry + 1], 0.0) / 1000.0
            values[j, 1] = record[entry + 2] / 1000.0
            values[j, 2] = record[entry + 3]


@kernel
def push_seen(record, at, slots, video_row):
    """Remember a video by name as the latest: one that is already there moves up, and none is forgotten for it."""
    written, place = int(record[at]), 0
    while place < slots and record[at + 1 + place] != video_row + 1:
        place += 1
    if place == slots:
        place = written % slots
        record[at] += 1
    else:
        latest = (written - 1) % slots
        while place != latest:
            following = place + 1 if place + 1 < slots else 0
            record[at + 1 + place] = record[at + 1 + following]
            place = following
    record[at + 1 + place] = video_row + 1


@kernel
def _gather(at, length, as_of, video_rows, known_at, watch_ms, bits, rows, values):
    for i in range(at.size):
        for j in range(length[i]):
            w = at[i] - 1 - j
            rows[i, j] = video_rows[w]
            values[i, j, 0] = max(as_of[i] - known_at[w], 0.0) / 1000.0
            values[i, j, 1] = watch_ms[w] / 1000.0
            values[i, j, 2] = bits[w]


def gathered(
    at: np.ndarray, length: np.ndarray, as_of: np.ndarray, slots: int, watches: Watches
) -> tuple[np.ndarray, np.ndarray]:
    """Histories as `read` gives them, rows (N, H) int32 and values (N, H, 3): the `length` (N,) watches before place `at` (N,)
    of `watches`, as of `as_of` (N,)."""
    rows, values = np.full((len(at), slots), -1, np.int32), np.zeros((len(at), slots, 3))
    _gather(at, length, as_of, *vars(watches).values(), rows, values)
    return rows, values


def seen(record: np.ndarray, at: int, slots: int) -> np.ndarray:
    """Rows of the videos still remembered, (n,) int64, sorted."""
    rows = record[at + 1 : at + 1 + slots].astype(np.int64) - 1
    return np.sort(rows[rows >= 0])

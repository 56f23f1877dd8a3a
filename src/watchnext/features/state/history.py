"""A viewer's last watches before `as_of`, and the videos seen: ring buffers inside the viewer's record.

A ring is `[written, entry...]`; entry `written % slots` is overwritten next. A watch is `[video row + 1, known_at, watch_ms,
outcome bits]`; a watch of 0 ms is an outcome without a watch: a video that was hidden or liked unwatched.
"""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel

WATCH = 4  # numbers a watch takes
OUTCOME_BITS = {"click": 1, "long_view": 2, "like": 4, "share": 8, "follow": 16, "comment": 32, "hide": 64}


def outcome_bits(outcomes: dict[str, np.ndarray]) -> np.ndarray:
    """Pack the boolean outcome columns into (N,) float64 of OUTCOME_BITS."""
    return sum(np.asarray(outcomes[name], np.float64) * bit for name, bit in OUTCOME_BITS.items())


@dataclass(frozen=True)
class Watches:
    """Watches, viewer by viewer, in the order in which they were known; each viewer's start with those of its record.

    video_rows (W,) int32, known_at (W,) float64, watch_ms (W,) float64, bits (W,) uint8
    """

    video_rows: np.ndarray
    known_at: np.ndarray
    watch_ms: np.ndarray
    bits: np.ndarray

    @classmethod
    def joined(cls, parts: list["Watches"]) -> "Watches":
        """Concatenate the parts; no parts give no watches."""
        none = cls(np.empty(0, np.int32), np.empty(0), np.empty(0), np.empty(0, np.uint8))
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(p).values() for p in [none, *parts]), strict=True)))


@kernel
def push(record, at, slots, video_row, known_at, watch_ms, bits):
    """Push a watch into the ring of `slots` watches at `record[at:]`."""
    entry = at + 1 + int(record[at] % slots) * WATCH
    record[entry] = video_row + 1
    record[entry + 1] = known_at
    record[entry + 2] = watch_ms
    record[entry + 3] = bits
    record[at] += 1


@kernel
def read(record, at, slots, as_of, rows, values):
    """Read watches, latest first, into `rows` (H,) int32 (-1 empty) and `values` (H, 3): age in s, watched s, outcome bits."""
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
    """Push a video as the latest one seen: a known video moves up, and no other is evicted."""
    written, slot = int(record[at]), 0
    while slot < slots and record[at + 1 + slot] != video_row + 1:
        slot += 1
    if slot == slots:
        slot = written % slots
        record[at] += 1
    else:
        latest = (written - 1) % slots
        while slot != latest:
            following = slot + 1 if slot + 1 < slots else 0
            record[at + 1 + slot] = record[at + 1 + following]
            slot = following
    record[at + 1 + slot] = video_row + 1


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
    """Gather histories as `read` returns them, rows (N, H) int32 and values (N, H, 3).

    A history is the `length` (N,) watches before position `at` (N,) of `watches`, as of `as_of` (N,).
    """
    rows, values = np.full((len(at), slots), -1, np.int32), np.zeros((len(at), slots, 3))
    _gather(at, length, as_of, *vars(watches).values(), rows, values)
    return rows, values


def seen(record: np.ndarray, at: int, slots: int) -> np.ndarray:
    """Return the rows of the seen videos in the record, (n,) int64, sorted."""
    rows = record[at + 1 : at + 1 + slots].astype(np.int64) - 1
    return np.sort(rows[rows >= 0])

"""A viewer's last watches before `as_of`, and which videos were watched at all: rings inside the viewer's record.

A ring is `[written, entry...]`; entry `written % slots` is overwritten next. A watch is `[video row + 1, known_at, watch_ms,
outcome bits]`.
"""

import numpy as np
from numba import njit

WATCH = 4  # numbers a watch takes
OUTCOME_BITS = {"click": 1, "long_view": 2, "like": 4, "share": 8, "follow": 16, "comment": 32, "hide": 64}


def outcome_bits(outcomes: dict[str, np.ndarray]) -> np.ndarray:
    """The boolean outcome columns as one (N,) float64 of OUTCOME_BITS."""
    return sum(np.asarray(outcomes[name], np.float64) * bit for name, bit in OUTCOME_BITS.items())


@njit(cache=True)
def push(record, at, slots, video_row, known_at, watch_ms, bits):
    """Remember a watch in the ring of `slots` watches at `record[at:]`."""
    entry = at + 1 + int(record[at] % slots) * WATCH
    record[entry] = video_row + 1
    record[entry + 1] = known_at
    record[entry + 2] = watch_ms
    record[entry + 3] = bits
    record[at] += 1


@njit(cache=True)
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


@njit(cache=True)
def push_seen(record, at, slots, video_row):
    """Remember a watched video by name; one that is already there is not written twice."""
    for slot in range(slots):
        if record[at + 1 + slot] == video_row + 1:
            return
    record[at + 1 + int(record[at] % slots)] = video_row + 1
    record[at] += 1


def seen(record: np.ndarray, at: int, slots: int) -> np.ndarray:
    """Rows of the watched videos still remembered, (n,) int64, sorted."""
    rows = record[at + 1 : at + 1 + slots].astype(np.int64) - 1
    return np.sort(rows[rows >= 0])

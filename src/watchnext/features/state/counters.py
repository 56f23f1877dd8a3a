"""Decayed counters: one compiled fold for a whole log or single events.

A counter block in a record is `[last_ms, value...]`, values count-major (count c at half-life h sits at 1 + c * half_lives +
h).
Read at `as_of`, a value is `value * exp(-(as_of - last) * ln 2 / half_life)`; an update decays the block to the event's time
and adds; a late event decays its own increment and leaves `last`. `math.exp` gives the same bits in compiled and plain Python.
"""

import math

import numpy as np

from watchnext.data.tables import WATCH_MS
from watchnext.kernels import kernel

LN2 = math.log(2.0)

# Known counts. An impression counts once when shown; all others count once, when the outcome is known.
COUNTS = ("impression", "click", "long_view", "like", "share", "follow", "comment", "hide", "watch_s", "watch_ratio")


@kernel
def add(record, at, known_at, amounts, counted, half_lives_ms):
    """Fold one event into the block at `record[at:]`. `counted` (counts,) masks the `amounts` of this event."""
    half_lives = half_lives_ms.size
    last = record[at]
    late = known_at < last
    # An empty block, or an event at the same time, decays by nothing: skip the exponential, the bits are equal.
    still = last == 0.0 or known_at == last
    for h in range(half_lives):
        weight = 1.0 if still else math.exp(-abs(known_at - last) * LN2 / half_lives_ms[h])
        for c in range(amounts.size):
            slot = at + 1 + c * half_lives + h
            amount = amounts[c] if counted[c] else 0.0
            record[slot] = record[slot] + amount * weight if late else record[slot] * weight + amount
    record[at] = max(last, known_at)


@kernel
def read(record, at, as_of, half_lives_ms, out):
    """Add the block's values as of `as_of` onto `out` (counts * half_lives,). Never writes the record."""
    if record[at] == 0.0:
        return  # never written
    half_lives = half_lives_ms.size
    gap = max(as_of - record[at], 0.0)
    for h in range(half_lives):
        weight = math.exp(-gap * LN2 / half_lives_ms[h])
        for c in range(out.size // half_lives):
            out[c * half_lives + h] += record[at + 1 + c * half_lives + h] * weight


@kernel
def find(record, at, slots, width, key):
    """Return the position of `key`'s slot in a bounded table of `slots` x `width` at `record[at:]`, -1 if it has none.

    A slot is `[key + 1, last_ms, value...]`; zero is empty, so that a new record is all zeros.
    """
    for slot in range(slots):
        if record[at + slot * width] == key + 1:
            return at + slot * width
    return -1


@kernel
def claim(record, at, slots, width, key):
    """Return the position of `key`'s slot, evicting the least recently updated one (the first among equals) if needed."""
    position = find(record, at, slots, width, key)
    if position >= 0:
        return position
    oldest = at
    for slot in range(1, slots):
        if record[at + slot * width + 1] < record[oldest + 1]:
            oldest = at + slot * width
    record[oldest : oldest + width] = 0.0
    record[oldest] = key + 1
    return oldest


def amounts(counts: tuple[str, ...], outcomes: dict[str, np.ndarray]) -> np.ndarray:
    """Return the increments of each event (N, counts) float64.

    outcomes  boolean columns (N,), `watch_ms`, and `duration_ms` (0 unknown)

    Raises KeyError for a count outside COUNTS.
    """
    watch_ms = np.asarray(outcomes["watch_ms"], np.float64)
    duration_ms = np.asarray(outcomes["duration_ms"], np.float64)
    columns = []
    for name in counts:
        if name not in COUNTS:
            raise KeyError(f"the state counts {name!r}, expected some of {', '.join(COUNTS)}")
        if name == "impression":
            columns.append(np.ones_like(watch_ms))
        elif name == "watch_s":
            columns.append(watch_ms / 1000.0)
        elif name == "watch_ratio":  # a replay counts as 1, an unknown duration as 0
            columns.append(np.minimum(watch_ms, duration_ms) / np.maximum(duration_ms, 1.0))
        else:
            columns.append(np.asarray(outcomes[name], np.float64))
    return np.stack(columns, axis=1) if columns else np.zeros((len(watch_ms), 0))


def most(counts: tuple[str, ...]) -> np.ndarray:
    """Return the largest increment of each count by one impression, (counts,) float64."""
    return np.array([WATCH_MS / 1000.0 if name == "watch_s" else 1.0 for name in counts], np.float64)

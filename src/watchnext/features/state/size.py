"""State size: the bytes that viewers use of their fixed-size records, for the data card and for choosing the bounds."""

from pathlib import Path

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.features.state.history import WATCH
from watchnext.features.state.snapshots import Snapshots

NUMBER = 8  # bytes of a float64
ROWS = 65_536  # viewers read together; a million records are 4 GB


def used_bytes(layout: Layout, viewers: np.ndarray) -> np.ndarray:
    """Return the bytes in use (U,) int64 of `viewers` (U, layout.viewer), which may be a memory map.

    They are those of the fixed part of a record (times, lengths, the viewer's counters), of the filled entries of both rings,
    and of the tags and creators in use; at most `layout.viewer * 8`.
    """
    parts = [_used(layout, viewers[start : start + ROWS]) for start in range(0, len(viewers), ROWS)]
    return NUMBER * np.concatenate([np.zeros(0, np.int64), *parts])


def used_bytes_of(features: Path, layout: Layout) -> np.ndarray:
    """Return the bytes in use (U,) of the feature stage's output `features`, at the start of the test days."""
    viewers = Snapshots.load_as_of(features / "state", layout).viewers
    return np.concatenate([np.zeros(0, np.int64), *(used_bytes(layout, records) for _, records in viewers.all())])


def _used(layout: Layout, viewers: np.ndarray) -> np.ndarray:
    fixed = 1 + layout.block + 1 + 1  # last event, counters, number of watches, number of videos seen
    watches = np.minimum(viewers[:, layout.at_history], layout.history)
    seen = np.minimum(viewers[:, layout.at_seen], layout.seen)
    tags = _filled_slots(layout, viewers, layout.at_tags, layout.tags)
    creators = _filled_slots(layout, viewers, layout.at_creators, layout.creators)
    return (fixed + WATCH * watches + seen + (2 + layout.block) * (tags + creators)).astype(np.int64)


def _filled_slots(layout: Layout, viewers: np.ndarray, at: int, slots: int) -> np.ndarray:
    """Count the slots (U,) of a bounded table that hold a key; 0 is empty."""
    width = 2 + layout.block
    return (viewers[:, at : at + slots * width : width] != 0).sum(axis=1)

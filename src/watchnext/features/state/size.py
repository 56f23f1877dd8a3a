"""How many bytes of its fixed-size record a viewer uses: for the data card, and for whoever sets the bounds of the state."""

from pathlib import Path

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.features.state.history import WATCH
from watchnext.features.state.initial import opening_of

NUMBER = 8  # bytes of a float64
ROWS = 65_536  # viewers looked at together; a million records are 4 GB


def used_bytes(layout: Layout, viewers: np.ndarray) -> np.ndarray:
    """(U,) int64 of `viewers` (U, layout.viewer), which may be a memory map: what every record has (the times and lengths that
    stand before its parts, the viewer's own counters), the filled entries of both rings, the tags and creators that are kept.
    At most `layout.viewer * 8`."""
    parts = [_used(layout, viewers[start : start + ROWS]) for start in range(0, len(viewers), ROWS)]
    return NUMBER * np.concatenate([np.zeros(0, np.int64), *parts])


def used_bytes_of(features: Path, layout: Layout) -> np.ndarray:
    """The same of what the feature stage left in `features`, as the test days begin."""
    facts, state = opening_of(features, layout)
    viewers = state.viewers(facts["stretch"])
    starts = range(0, facts["users"], ROWS)
    parts = [used_bytes(layout, viewers.load(np.arange(start, min(start + ROWS, facts["users"])))) for start in starts]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _used(layout: Layout, viewers: np.ndarray) -> np.ndarray:
    always = 1 + layout.block + 1 + 1  # last event, counters, how many watches and how many names were written
    watches = np.minimum(viewers[:, layout.at_history], layout.history)
    names = np.minimum(viewers[:, layout.at_seen], layout.seen)
    kept = _kept(layout, viewers, layout.at_tags, layout.tags) + _kept(layout, viewers, layout.at_creators, layout.creators)
    return (always + WATCH * watches + names + (2 + layout.block) * kept).astype(np.int64)


def _kept(layout: Layout, viewers: np.ndarray, at: int, slots: int) -> np.ndarray:
    """(U,) slots of a bounded table that hold a key; 0 is none."""
    width = 2 + layout.block
    return (viewers[:, at : at + slots * width : width] != 0).sum(axis=1)

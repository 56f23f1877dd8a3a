"""The state of viewers, videos and creators, and the one fold that updates it, over a log or event by event.

The law: an impression makes two events, `shown` (known at the request's time) and `outcome` (known when it was received, else
impression + watch time); events fold in the order (known_at, event_id); a read takes only events known strictly before the
request and never writes. So videos shown together never see each other's outcomes, offline and online alike.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from watchnext.features.state import counters, history
from watchnext.kernels import kernel
from watchnext.schema import StateSpec

HOUR_MS = 3_600_000.0
SHOWN, OUTCOME = 0, 1


class Layout(NamedTuple):
    """Positions within the records, for the compiled fold. Records are float64: exact for rows and times."""

    half_lives_ms: np.ndarray  # (half_lives,)
    shown: np.ndarray  # (counts,) bool, counted when shown; the others with the outcome
    history: int
    seen: int
    tags: int
    creators: int
    block: int  # counts * half_lives
    at_history: int
    at_seen: int
    at_tags: int
    at_creators: int
    viewer: int  # width of a viewer's record
    item: int  # width of a video's or creator's record

    @classmethod
    def of(cls, spec: StateSpec) -> "Layout":
        block = len(spec.counts) * len(spec.half_lives_h)
        at_history = 1 + block
        at_seen = at_history + 1 + history.WATCH * spec.history
        at_tags = at_seen + 1 + spec.seen
        at_creators = at_tags + spec.tags_kept * (2 + block)
        viewer = at_creators + spec.creators_kept * (2 + block)
        half_lives_ms = np.array(spec.half_lives_h, np.float64) * HOUR_MS
        shown = np.array([name == "impression" for name in spec.counts], np.bool_)
        kept = (spec.history, spec.seen, spec.tags_kept, spec.creators_kept)
        return cls(half_lives_ms, shown, *kept, block, at_history, at_seen, at_tags, at_creators, viewer, 1 + block)


@dataclass(frozen=True)
class State:
    """Folded records: `viewers` (U, layout.viewer), `videos` (V, layout.item), `creators` (R, layout.item), float64, zeros
    when new."""

    viewers: np.ndarray
    videos: np.ndarray
    creators: np.ndarray

    @classmethod
    def empty(cls, layout: Layout, *, users: int, videos: int, creators: int) -> "State":
        return cls(np.zeros((users, layout.viewer)), np.zeros((videos, layout.item)), np.zeros((creators, layout.item)))


@kernel
def is_nothing(kind, watch_ms, bits):
    """Return True for an empty outcome, so that a logged empty outcome and an unsent one leave the same state."""
    return kind == OUTCOME and watch_ms <= 0 and bits == 0


@kernel
def fold_item(layout, record, kind, known_at, amounts, watch_ms, bits):
    """Fold one event into its video's or creator's record, in place."""
    if not is_nothing(kind, watch_ms, bits):
        counted = layout.shown if kind == SHOWN else ~layout.shown
        counters.add(record, 0, known_at, amounts, counted, layout.half_lives_ms)


@kernel
def fold_viewer(layout, viewer, kind, known_at, video_row, creator_row, tags, amounts, watch_ms, bits):
    """Fold one event into its viewer's record, in place. `creator_row` -1: no creator; `tags` end at -1."""
    if is_nothing(kind, watch_ms, bits):
        return
    counted = layout.shown if kind == SHOWN else ~layout.shown
    counters.add(viewer, 0, known_at, amounts, counted, layout.half_lives_ms)
    width = 2 + layout.block
    if creator_row >= 0:
        at = counters.claim(viewer, layout.at_creators, layout.creators, width, creator_row)
        counters.add(viewer, at + 1, known_at, amounts, counted, layout.half_lives_ms)
    for tag in tags:
        if tag < 0:
            break
        at = counters.claim(viewer, layout.at_tags, layout.tags, width, tag)
        counters.add(viewer, at + 1, known_at, amounts, counted, layout.half_lives_ms)
    if kind == OUTCOME:
        history.push(viewer, layout.at_history, layout.history, video_row, known_at, watch_ms, bits)
        history.push_seen(viewer, layout.at_seen, layout.seen, video_row)


@kernel
def fold_event(layout, viewer, video, creator, kind, known_at, video_row, creator_row, tags, amounts, watch_ms, bits):
    """Fold one event into all three records."""
    fold_viewer(layout, viewer, kind, known_at, video_row, creator_row, tags, amounts, watch_ms, bits)
    fold_item(layout, video, kind, known_at, amounts, watch_ms, bits)
    if creator_row >= 0:
        fold_item(layout, creator, kind, known_at, amounts, watch_ms, bits)


@kernel
def fold_events(
    layout, viewers, videos, creators, at, kinds, known_at, video_rows, creator_rows, tags, amounts, watch_ms, bits
):
    """Fold N events one after another into their records, in place.

    `at` (N, 3) are positions in `viewers`, `videos` and `creators`; the last one of an event without a creator is not written.
    """
    for i in range(kinds.size):
        records = viewers[at[i, 0]], videos[at[i, 1]], creators[at[i, 2]]
        about = kinds[i], known_at[i], video_rows[i], creator_rows[i], tags[i], amounts[i], watch_ms[i], bits[i]
        fold_event(layout, *records, *about)


@kernel
def read_counters(layout, viewer, as_of, user_out):
    """Add a viewer's counters as of `as_of` onto `user_out` (block,). Returns seconds since the last event, -1 if none."""
    counters.read(viewer, 0, as_of, layout.half_lives_ms, user_out)
    return max(as_of - viewer[0], 0.0) / 1000.0 if viewer[0] > 0 else -1.0


@kernel
def read_viewer(layout, viewer, as_of, user_out, rows_out, history_out):
    """Read a viewer as of `as_of`: counters (block,), history rows (H,) and values (H, 3).

    Returns seconds since the last event, -1 if none.
    """
    user_out[:] = 0.0
    history.read(viewer, layout.at_history, layout.history, as_of, rows_out, history_out)
    return read_counters(layout, viewer, as_of, user_out)


@kernel
def read_crosses(layout, viewer, as_of, creator_row, tags, tag_out, creator_out):
    """Add a viewer's counters of a video's tags, summed, and of its creator, onto (block,) each."""
    width = 2 + layout.block
    for tag in tags:
        if tag < 0:
            break
        at = counters.find(viewer, layout.at_tags, layout.tags, width, tag)
        if at >= 0:
            counters.read(viewer, at + 1, as_of, layout.half_lives_ms, tag_out)
    if creator_row >= 0:
        at = counters.find(viewer, layout.at_creators, layout.creators, width, creator_row)
        if at >= 0:
            counters.read(viewer, at + 1, as_of, layout.half_lives_ms, creator_out)


@kernel
def _read_tables(layout, viewer, as_of):
    """Read both bounded tables of a viewer: names (slots,), 2 * (row + 1) of a tag and one more of a creator, counters (slots,
    block) as of `as_of`, and a hash table (T,) of slots + 1 by open addressing, as most videos of a request are not in them."""
    width, slots, size = 2 + layout.block, layout.tags + layout.creators, 8
    while size < 4 * slots:
        size *= 2
    names, values, table = np.zeros(slots, np.int64), np.zeros((slots, layout.block)), np.zeros(size, np.int32)
    for slot in range(slots):
        of_creator = slot >= layout.tags
        at = layout.at_creators + (slot - layout.tags) * width if of_creator else layout.at_tags + slot * width
        if viewer[at] == 0.0:
            continue
        names[slot] = 2 * np.int64(viewer[at]) + of_creator
        counters.read(viewer, at + 1, as_of, layout.half_lives_ms, values[slot])
        place = (names[slot] * 2654435761 >> 7) & (size - 1)  # Knuth's multiplicative hash
        while table[place] != 0:
            place = (place + 1) & (size - 1)
        table[place] = slot + 1
    return names, values, table


@kernel
def read_all_crosses(layout, viewer, as_of, creator_rows, tag_rows, out, places):
    """Add a viewer's counters of the tags, summed, and of the creators of C videos onto `out` (C, 2, block), as `read_crosses`
    does, but reading each slot of the viewer's tables once.

    With `places` (C,), those that the tables know are written one after another into `out`, and the positions of their videos
    into `places`; the rest of `out` is not touched. Without (0,), `out` is by video. Returns the number of known ones.
    """
    names, values, table = _read_tables(layout, viewer, as_of)
    found, known, mask = 0, True, table.size - 1
    for i in range(creator_rows.size):
        row = found if places.size else i
        if places.size and known:  # else the last row is still zeros
            out[row] = 0.0
        known = False
        for j in range(-1, tag_rows.shape[1]):  # in one loop: a call would pass five arrays, which costs more than the sum
            key = np.int64(creator_rows[i] if j < 0 else tag_rows[i, j])
            if key < 0 <= j:
                break
            name = 2 * (key + 1) + (j < 0)
            place = (name * 2654435761 >> 7) & mask
            while table[place] != 0 and key >= 0:
                slot = table[place] - 1
                if names[slot] == name:
                    for k in range(values.shape[1]):
                        out[row, 1 if j < 0 else 0, k] += values[slot, k]
                    known = True
                    break
                place = (place + 1) & mask
        if known:
            if places.size:
                places[found] = i
            found += 1
    return found


@kernel
def read_candidates(layout, viewer, videos, creators, as_of, creator_rows, tag_rows, out):
    """Read one viewer's candidates into `out` (C, 4, block): video, creator, user x tag, user x creator.

    `videos` and `creators` (C, item) are their records, `creator_rows` (C,) and `tag_rows` (C, tags) their rows.
    """
    out[:, :, :] = 0.0
    for i in range(creator_rows.size):
        counters.read(videos[i], 0, as_of, layout.half_lives_ms, out[i, 0])
        if creator_rows[i] >= 0:
            counters.read(creators[i], 0, as_of, layout.half_lives_ms, out[i, 1])
    read_all_crosses(layout, viewer, as_of, creator_rows, tag_rows, out[:, 2:], np.empty(0, np.int64))


def creators_of(layout: Layout, viewer: np.ndarray, as_of: float, slot: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the creators in a viewer's record (n,) int64, and its counter at position `slot` of their blocks (n,) as of
    `as_of`."""
    table = viewer[layout.at_creators :][: layout.creators * (2 + layout.block)].reshape(layout.creators, -1)
    table = table[table[:, 0] > 0]
    half_life_ms = layout.half_lives_ms[slot % layout.half_lives_ms.size]
    decay = np.exp(-np.maximum(as_of - table[:, 1], 0.0) * counters.LN2 / half_life_ms)
    return table[:, 0].astype(np.int64) - 1, table[:, 2 + slot] * decay


@dataclass(frozen=True)
class Reads:
    """State read as of N requests: `user` (N, block), `history_rows` (N, H) int32, `history` (N, H, 3), `gap_s` (N,) -1 none,
    `candidate` (N, 4, block)."""

    user: np.ndarray
    history_rows: np.ndarray
    history: np.ndarray
    gap_s: np.ndarray
    candidate: np.ndarray

    @classmethod
    def none(cls, layout: Layout, requests: int) -> "Reads":
        """Return reads for unknown viewers and videos (all zeros)."""
        reads = cls.empty(layout, requests, requests)
        for values in vars(reads).values():
            values[:] = 0
        reads.history_rows[:], reads.gap_s[:] = -1, -1.0
        return reads

    @classmethod
    def empty(cls, layout: Layout, requests: int, candidates: int) -> "Reads":
        h, block = layout.history, layout.block
        return cls(
            user=np.empty((requests, block)),
            history_rows=np.empty((requests, h), np.int32),
            history=np.empty((requests, h, 3)),
            gap_s=np.empty(requests),
            candidate=np.empty((candidates, 4, block)),
        )

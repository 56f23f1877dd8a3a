"""The state of viewers, videos and creators, and the one fold that keeps it, over a log or event by event.

The law: an impression makes two events, `shown` (known at the request's time) and `outcome` (known when it was received, else
impression + watch time); events fold in the order (known_at, event_id); a read takes only what was known strictly before the
request and never writes. So videos shown together never see each other's outcomes, offline and online alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit

from watchnext.features import counters, history
from watchnext.schema import StateSpec

HOUR_MS = 3_600_000.0
SHOWN, OUTCOME = 0, 1


class Layout(NamedTuple):
    """Where things stand in the records, as the compiled fold takes it. Records are float64: exact for rows and times."""

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


@njit(cache=True)
def fold_event(layout, viewer, video, creator, kind, known_at, video_row, creator_row, tags, amounts, watch_ms, bits):
    """Fold one event into its viewer's, video's and creator's records, in place. `creator_row` -1 is no creator, `tags` end
    at -1."""
    if kind == OUTCOME and watch_ms <= 0 and bits == 0:
        return  # nothing happened: a log that writes this down and a client that sends nothing leave the same state
    counted = layout.shown if kind == SHOWN else ~layout.shown
    counters.add(viewer, 0, known_at, amounts, counted, layout.half_lives_ms)
    counters.add(video, 0, known_at, amounts, counted, layout.half_lives_ms)
    width = 2 + layout.block
    if creator_row >= 0:
        counters.add(creator, 0, known_at, amounts, counted, layout.half_lives_ms)
        at = counters.claim(viewer, layout.at_creators, layout.creators, width, creator_row)
        counters.add(viewer, at + 1, known_at, amounts, counted, layout.half_lives_ms)
    for tag in tags:
        if tag < 0:
            break
        at = counters.claim(viewer, layout.at_tags, layout.tags, width, tag)
        counters.add(viewer, at + 1, known_at, amounts, counted, layout.half_lives_ms)
    if kind == OUTCOME and watch_ms > 0:
        history.push(viewer, layout.at_history, layout.history, video_row, known_at, watch_ms, bits)
        history.push_seen(viewer, layout.at_seen, layout.seen, video_row)


@njit(cache=True)
def read_viewer(layout, viewer, as_of, user_out, rows_out, history_out):
    """A viewer as of `as_of`: counters (block,), history rows (H,) and values (H, 3); returns seconds since the last event,
    -1 if none."""
    user_out[:] = 0.0
    counters.read(viewer, 0, as_of, layout.half_lives_ms, user_out)
    history.read(viewer, layout.at_history, layout.history, as_of, rows_out, history_out)
    return max(as_of - viewer[0], 0.0) / 1000.0 if viewer[0] > 0 else -1.0


@njit(cache=True)
def read_candidate(layout, viewer, video, creator, as_of, creator_row, tags, out):
    """One candidate for a viewer, `out` (4, block): video, creator, user x tag (summed over its tags), user x creator."""
    out[:, :] = 0.0
    counters.read(video, 0, as_of, layout.half_lives_ms, out[0])
    width = 2 + layout.block
    for tag in tags:
        if tag < 0:
            break
        at = counters.find(viewer, layout.at_tags, layout.tags, width, tag)
        if at >= 0:
            counters.read(viewer, at + 1, as_of, layout.half_lives_ms, out[2])
    if creator_row >= 0:
        counters.read(creator, 0, as_of, layout.half_lives_ms, out[1])
        at = counters.find(viewer, layout.at_creators, layout.creators, width, creator_row)
        if at >= 0:
            counters.read(viewer, at + 1, as_of, layout.half_lives_ms, out[3])


@njit(cache=True)
def read_candidates(layout, viewer, videos, creators, as_of, rows, creator_rows, tag_rows, out):
    """Candidates `rows` (C,) of one viewer into `out` (C, 4, block). `creator_rows` (V,), `tag_rows` (V, tags)."""
    for i in range(rows.size):
        row = rows[i]
        creator_row = creator_rows[row]
        read_candidate(layout, viewer, videos[row], creators[max(creator_row, 0)], as_of, creator_row, tag_rows[row], out[i])


class Log(NamedTuple):
    """A log as arrays, one entry an impression (N,), plus what the fold reads of the catalogue."""

    user_rows: np.ndarray  # int64
    video_rows: np.ndarray  # int64
    time_ms: np.ndarray  # float64, the request's time
    known_at: np.ndarray  # float64, when the outcome was known
    amounts: np.ndarray  # (N, counts)
    watch_ms: np.ndarray  # float64
    bits: np.ndarray  # float64
    creator_rows: np.ndarray  # (V,) int32
    tag_rows: np.ndarray  # (V, tags) int32

    def events(self) -> tuple[np.ndarray, np.ndarray]:
        """Event ids in fold order and their known_at; event 2i is impression i shown, 2i + 1 its outcome."""
        known_at = np.empty(2 * len(self.time_ms))
        known_at[0::2] = self.time_ms
        known_at[1::2] = self.known_at
        order = np.argsort(known_at, kind="stable")  # stable: ties fold by event id
        return order, known_at[order]


@njit(cache=True)
def fold_until(layout, viewers, videos, creators, log, order, known_at, cursor, until):
    """Fold the events from `cursor` on that were known strictly before `until`; returns the new cursor."""
    while cursor < order.size and known_at[cursor] < until:
        i = order[cursor] // 2
        row = log.video_rows[i]
        creator_row = log.creator_rows[row]
        fold_event(
            layout,
            viewers[log.user_rows[i]],
            videos[row],
            creators[max(creator_row, 0)],
            order[cursor] % 2,
            known_at[cursor],
            row,
            creator_row,
            log.tag_rows[row],
            log.amounts[i],
            log.watch_ms[i],
            log.bits[i],
        )
        cursor += 1
    return cursor


@njit(cache=True)
def _replay(
    layout, viewers, videos, creators, log, order, known_at, cursor, reads, visible, user, rows, values, gap_s, candidate
):
    for j in range(reads.size):
        i = reads[j]
        cursor = fold_until(layout, viewers, videos, creators, log, order, known_at, cursor, visible[i])
        viewer, row, as_of = viewers[log.user_rows[i]], log.video_rows[i], log.time_ms[i]
        creator_row = log.creator_rows[row]
        gap_s[j] = read_viewer(layout, viewer, as_of, user[j], rows[j], values[j])
        read_candidate(
            layout, viewer, videos[row], creators[max(creator_row, 0)], as_of, creator_row, log.tag_rows[row], candidate[j]
        )
    return cursor


@dataclass(frozen=True)
class Reads:
    """Raw state as of N requests. `user` (N, block), `history_rows` (N, H) int32, `history` (N, H, 3), `gap_s` (N,) -1 none,
    `candidate` (N, 4, block)."""

    user: np.ndarray
    history_rows: np.ndarray
    history: np.ndarray
    gap_s: np.ndarray
    candidate: np.ndarray

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


def replay(
    layout: Layout, state: State, log: Log, visible: np.ndarray, chunk: int = 65_536
) -> Iterator[tuple[np.ndarray, Reads]]:
    """Fold `log` into `state`, yielding (impression numbers, their reads) in chunks; the state ends where the last read stood.

    `visible` (N,) float64: impression i sees events known strictly before `visible[i]` (its own time when streaming, a
    split's or a
    day's start otherwise), decayed to its own time.
    """
    order, known_at = log.events()
    reads = np.argsort(visible, kind="stable")
    cursor = 0
    for start in range(0, len(reads), chunk):
        part = reads[start : start + chunk]
        out = Reads.empty(layout, len(part), len(part))
        cursor = _replay(
            layout,
            state.viewers,
            state.videos,
            state.creators,
            log,
            order,
            known_at,
            cursor,
            part,
            visible,
            out.user,
            out.history_rows,
            out.history,
            out.gap_s,
            out.candidate,
        )
        yield part, out


def fold(layout: Layout, state: State, log: Log, until: float) -> int:
    """Fold every event of `log` known strictly before `until` into `state`; returns how many."""
    order, known_at = log.events()
    return fold_until(layout, state.viewers, state.videos, state.creators, log, order, known_at, 0, until)

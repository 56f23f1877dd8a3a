"""Fold one partition of a log, and read the state of every impression as of its request.

Viewers are folded one by one, each through all of its events, because no other viewer touches its record: a record enters the
cache once, and chunks of viewers run in parallel. Videos and creators are folded in the order of the log.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from watchnext.features.state import counters, history
from watchnext.features.state.event_order import ByViewer, Log, chunks, in_order
from watchnext.features.state.fold import (
    OUTCOME,
    Layout,
    Reads,
    State,
    fold_item,
    fold_viewer,
    is_nothing,
    read_counters,
    read_crosses,
)
from watchnext.features.state.history import Watches
from watchnext.kernels import kernel

THREADS = 2
CHUNK_ROWS, CHUNK_VIEWERS = 16_384, 1_024  # per task: enough for a thread, few enough for the cache


@dataclass(frozen=True)
class ReadBuffers:
    """Output buffers for the reads of N impressions, one row each, of any float type.

    user (N, block), gap_s (N,), candidate (N, 4, block) as in `Reads`; the history is the `history_len` (N,) watches before
    position `history_at` (N,) of the partition's `Watches`, latest last.
    """

    user: np.ndarray
    gap_s: np.ndarray
    candidate: np.ndarray
    history_at: np.ndarray
    history_len: np.ndarray

    @classmethod
    def empty(cls, layout: Layout, n: int) -> "ReadBuffers":
        user, candidate = np.empty((n, layout.block)), np.empty((n, 4, layout.block))
        return cls(user, np.empty(n), candidate, np.empty(n, np.int64), np.empty(n, np.int16))


@kernel
def _items(layout, videos, creators, log, events, known_at, reads, visible, candidate):
    """Fold all `events` into videos and creators; impression i of `reads` fills row i - log.pending of `candidate`."""
    scratch = np.zeros((2, layout.block))
    cursor = 0
    for k in range(reads.size + 1):
        until = visible[reads[k]] if k < reads.size else np.inf
        while cursor < events.size and known_at[cursor] < until:
            i, kind = events[cursor] >> 1, events[cursor] & 1
            row = log.video_rows[i]
            creator_row = log.creator_rows[row]
            fold_item(layout, videos[row], kind, known_at[cursor], log.amounts[i], log.watch_ms[i], log.bits[i])
            if creator_row >= 0:
                fold_item(layout, creators[creator_row], kind, known_at[cursor], log.amounts[i], log.watch_ms[i], log.bits[i])
            cursor += 1
        if k < reads.size:
            i = reads[k]
            row, as_of = log.video_rows[i], log.time_ms[i]
            creator_row = log.creator_rows[row]
            scratch[:, :] = 0.0
            counters.read(videos[row], 0, as_of, layout.half_lives_ms, scratch[0])
            if creator_row >= 0:
                counters.read(creators[creator_row], 0, as_of, layout.half_lives_ms, scratch[1])
            candidate[i - log.pending, :2] = scratch


@kernel
def _watched(layout, records, log, events, starts, first):
    """Count the watches in the records plus those of the events."""
    n = 0
    for a in range(records.shape[0]):
        n += min(int(records[a, layout.at_history]), layout.history)
        for k in range(starts[first + a], starts[first + a + 1]):
            i, kind = events[k] >> 1, events[k] & 1
            n += kind == OUTCOME and not is_nothing(kind, log.watch_ms[i], log.bits[i])
    return n


@kernel
def _viewers(
    layout,
    records,
    log,
    positions,
    pending,
    events,
    starts,
    known_at,
    reads,
    read_starts,
    first,
    visible,
    user,
    gap_s,
    candidate,
):
    """Fold the events of the viewers from `first` on into `records`, in place.

    The reads of an impression go to the row of its position in the log, its history to the row of its position in `reads`.
    """
    n = _watched(layout, records, log, events, starts, first)
    video_rows, at, watch_ms, bits = np.empty(n, np.int32), np.empty(n), np.empty(n), np.empty(n, np.uint8)
    begin, end = read_starts[first], read_starts[first + records.shape[0]]
    history_at, history_len = np.empty(end - begin, np.int64), np.empty(end - begin, np.int16)
    scratch = np.zeros((3, layout.block))
    w = 0
    for a in range(records.shape[0]):
        viewer = records[a]
        written = int(viewer[layout.at_history])
        for k in range(max(written - layout.history, 0), written):
            entry = layout.at_history + 1 + (k % layout.history) * history.WATCH
            video_rows[w], at[w], watch_ms[w] = viewer[entry] - 1, viewer[entry + 1], viewer[entry + 2]
            bits[w] = int(viewer[entry + 3])
            w += 1
        cursor, last = starts[first + a], starts[first + a + 1]
        for k in range(read_starts[first + a], read_starts[first + a + 1] + 1):
            reading = k < read_starts[first + a + 1]
            until = visible[positions[reads[k]]] if reading else np.inf
            while cursor < last and known_at[cursor] < until:
                i, kind = events[cursor] >> 1, events[cursor] & 1
                row = log.video_rows[i]
                watched, bit = log.watch_ms[i], log.bits[i]
                tags = log.tag_rows[row]
                creator_row = log.creator_rows[row]
                fold_viewer(layout, viewer, kind, known_at[cursor], row, creator_row, tags, log.amounts[i], watched, bit)
                if kind == OUTCOME and not is_nothing(kind, watched, bit):
                    video_rows[w], at[w], watch_ms[w], bits[w] = row, known_at[cursor], watched, int(bit)
                    w += 1
                cursor += 1
            if reading:
                i = reads[k]
                out, row, as_of = positions[i] - pending, log.video_rows[i], log.time_ms[i]
                scratch[:, :] = 0.0
                gap_s[out] = read_counters(layout, viewer, as_of, scratch[0])
                read_crosses(layout, viewer, as_of, log.creator_rows[row], log.tag_rows[row], scratch[1], scratch[2])
                user[out] = scratch[0]
                candidate[out, 2:] = scratch[1:]
                history_at[k - begin] = w
                history_len[k - begin] = min(int(viewer[layout.at_history]), layout.history)
    return video_rows, at, watch_ms, bits, history_at, history_len


class Ordered(NamedTuple):
    """A partition of a log with its events in the order of the fold.

    log       its `time_ms` are those to which the reads decay
    events    (E,) ids of the events, and `known_at` (E,) their times
    reads     indices of the impressions that read the state, in the order in which they see the log
    visible   (N,) time before which each of them sees the state
    """

    log: Log
    events: np.ndarray
    known_at: np.ndarray
    reads: np.ndarray
    visible: np.ndarray

    @classmethod
    def of(cls, log: Log, *, until: float, visible: np.ndarray | None, as_of: np.ndarray | None) -> "Ordered":
        """Order `log`; the arguments are those of `replay`."""
        events, known_at = in_order(log.time_ms, log.known_at, until=until, pending=log.pending)
        reads = log.pending + np.argsort(np.zeros(0) if visible is None else visible, kind="stable")
        visible_ms = np.zeros(0) if visible is None else np.concatenate([np.zeros(log.pending), visible])
        if as_of is not None:  # events are in order by now, and time_ms is left to the reads
            log = log._replace(time_ms=np.concatenate([np.zeros(log.pending), as_of]))
        return cls(log, events, known_at, reads, visible_ms)


def replay(
    layout: Layout,
    log: Log,
    *,
    until: float,
    visible: np.ndarray | None = None,
    as_of: np.ndarray | None = None,
    videos: np.ndarray,
    creators: np.ndarray,
    load: Callable[[np.ndarray], np.ndarray],
    out: ReadBuffers | None = None,
    watched: int = 0,
    pool: ThreadPoolExecutor | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, Watches]]:
    """Fold the events of `log` known strictly before `until`; yields (viewers, records, watches) in the order of viewer rows.

    visible   (N - log.pending,) float64: an impression sees events known strictly before it; pending impressions read nothing;
              None if no impression reads
    as_of     (N - log.pending,) time to which an impression decays what it reads; None: its own
    videos, creators   records, folded in place
    load      viewers' rows (n,) > a writable copy of their records (n, layout.viewer)
    out       buffers of N - log.pending rows
    watched   number of watches before those of this call
    pool      threads shared by many calls, because every new pool would keep memory of its own
    """
    ordered, out = Ordered.of(log, until=until, visible=visible, as_of=as_of), out or ReadBuffers.empty(layout, 0)
    with nullcontext(pool) if pool else ThreadPoolExecutor(THREADS) as pool:
        items = pool.submit(fold_items, layout, ordered, videos, creators, out.candidate)
        yield from fold_viewers(layout, ordered, load, out, watched, pool)
        items.result()


def fold_items(layout: Layout, ordered: Ordered, videos: np.ndarray, creators: np.ndarray, candidate: np.ndarray) -> None:
    """Fold the events into the records of videos and creators, in place, and read both into `candidate`[:, :2]."""
    log, *order = ordered
    _items(layout, videos, creators, log, *order, candidate)


def fold_viewers(
    layout: Layout, ordered: Ordered, load: Callable, out: ReadBuffers, watched: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[np.ndarray, np.ndarray, Watches]]:
    """Fold the events into the records of their viewers; yields what `replay` does."""
    log, events, known_at, reads, visible = ordered
    by_viewer = ByViewer.of(log, events, known_at, reads)

    def folded(first: int, last: int):
        records = load(by_viewer.users[first:last])
        return records, _viewers(
            layout, records, by_viewer.log, by_viewer.positions, log.pending, *by_viewer.events, by_viewer.known_at,
            *by_viewer.reads, first, visible,
            out.user, out.gap_s, out.candidate,
        )  # fmt: skip

    bounds = chunks(by_viewer.rows, CHUNK_ROWS, CHUNK_VIEWERS)
    for (first, last), (records, output) in zip(bounds, ahead(pool, folded, bounds, most=6), strict=True):
        *columns, history_at, history_len = output
        members = by_viewer.reads.members[by_viewer.reads.starts[first] : by_viewer.reads.starts[last]]
        rows = by_viewer.positions[members] - log.pending
        out.history_at[rows], out.history_len[rows] = watched + history_at, history_len
        watched += len(columns[0])
        yield by_viewer.users[first:last], records, Watches(*columns)


def ahead(pool: ThreadPoolExecutor, work: Callable, items: Sequence[tuple], *, most: int) -> Iterator:
    """Yield `work` of the arguments in `items` in order, with at most `most` of them in flight."""
    running = [pool.submit(work, *item) for item in items[:most]]
    for item in [*items[most:], *[None] * len(running)]:
        yield running.pop(0).result()
        if item is not None:
            running.append(pool.submit(work, *item))


def fold(layout: Layout, state: State, log: Log, until: float) -> None:
    """Fold the events of `log` known strictly before `until` into `state`, in memory."""
    _in_memory(layout, state, log, until)


def read_all(
    layout: Layout,
    state: State,
    log: Log,
    visible: np.ndarray,
    until: float = np.inf,
    *,
    as_of: np.ndarray | None = None,
) -> Reads:
    """Read the state of every impression of `log`, in memory; folds its events known before `until` into `state`."""
    out = ReadBuffers.empty(layout, log.rows - log.pending)
    as_of = (log.time_ms if as_of is None else as_of)[log.pending :]
    watches = _in_memory(layout, state, log, until, visible[log.pending :], out, as_of)
    rows, values = history.gathered(out.history_at, out.history_len, as_of, layout.history, watches)
    return Reads(out.user, rows, values, out.gap_s, out.candidate)


def _in_memory(layout, state, log, until, visible=None, out=None, as_of=None) -> Watches:
    parts = []
    tables = {"videos": state.videos, "creators": state.creators, "load": lambda users: state.viewers[users]}
    for users, records, watches in replay(layout, log, until=until, visible=visible, as_of=as_of, out=out, **tables):
        state.viewers[users] = records
        parts.append(watches)
    return Watches.joined(parts)

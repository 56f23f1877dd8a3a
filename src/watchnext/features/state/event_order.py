"""Order the events of a log for the fold, and group them by viewer so that each record is loaded once."""

from typing import NamedTuple

import numpy as np

from watchnext.features.state.fold import OUTCOME, SHOWN
from watchnext.kernels import kernel


class Log(NamedTuple):
    """A partition of a log as arrays, one entry per impression (N,), plus the catalogue arrays that the fold reads.

    The first `pending` impressions were shown before this partition: only their outcomes are still to be folded.
    """

    user_rows: np.ndarray  # int64
    video_rows: np.ndarray  # int64
    time_ms: np.ndarray  # float64, the request's time
    known_at: np.ndarray  # float64, when the outcome was known
    amounts: np.ndarray  # (N, counts)
    watch_ms: np.ndarray  # float64
    bits: np.ndarray  # float64
    creator_rows: np.ndarray  # (V,) int32
    tag_rows: np.ndarray  # (V, tags) int32
    pending: int = 0

    @property
    def rows(self) -> int:
        return len(self.time_ms)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The arrays with an entry per impression."""
        return {name: getattr(self, name) for name in PER_ROW}

    def take(self, rows: np.ndarray, *, pending: int = 0) -> "Log":
        """Select the impressions `rows`, in that order."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return self._replace(**columns, pending=pending)

    def after(self, earlier: "Log") -> "Log":
        """Prepend the impressions of `earlier`, whose outcomes are pending."""
        columns = {name: np.concatenate([getattr(earlier, name), values]) for name, values in self.columns.items()}
        return self._replace(**columns, pending=earlier.rows)


PER_ROW = ("user_rows", "video_rows", "time_ms", "known_at", "amounts", "watch_ms", "bits")


def no_rows(counts: int) -> dict[str, np.ndarray]:
    """Return the columns of a log without impressions."""
    shapes = {"user_rows": np.zeros(0, np.int64), "video_rows": np.zeros(0, np.int64), "amounts": np.zeros((0, counts))}
    return {name: shapes.get(name, np.zeros(0)) for name in PER_ROW}


def in_order(
    time_ms: np.ndarray, known_at: np.ndarray, *, until: float = np.inf, pending: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (E,) int64 of the events known strictly before `until`, in the order of the fold, and their times (E,).

    time_ms   (N,) when the impressions were shown; the first `pending` of them in an earlier partition
    known_at  (N,) when their outcomes were known
    Event 2i is impression i shown, 2i + 1 its outcome; ties fold by id.
    """
    shown = pending + np.argsort(time_ms[pending:], kind="stable")
    shown = shown[: np.searchsorted(time_ms[shown], until, side="left")]
    outcomes = np.argsort(known_at, kind="stable")
    outcomes = outcomes[: np.searchsorted(known_at[outcomes], until, side="left")]
    return _merged(shown, time_ms[shown], outcomes, known_at[outcomes])


@kernel
def _merged(shown, shown_at, outcomes, outcomes_at):
    ids = np.empty(shown.size + outcomes.size, np.int64)
    known_at = np.empty(ids.size)
    i, j = 0, 0
    for k in range(ids.size):
        shows = j >= outcomes.size
        if not shows and i < shown.size:
            a, b = 2 * shown[i] + SHOWN, 2 * outcomes[j] + OUTCOME
            shows = shown_at[i] < outcomes_at[j] or (shown_at[i] == outcomes_at[j] and a < b)
        if shows:
            ids[k], known_at[k] = 2 * shown[i] + SHOWN, shown_at[i]
            i += 1
        else:
            ids[k], known_at[k] = 2 * outcomes[j] + OUTCOME, outcomes_at[j]
            j += 1
    return ids, known_at


class Groups(NamedTuple):
    """Indices grouped by viewer, in order within each group: `members[starts[a] : starts[a + 1]]` belong to viewer a."""

    members: np.ndarray
    starts: np.ndarray


def grouped(keys: np.ndarray, groups: int) -> Groups:
    """Group the indices of `keys` (n,), values in [0, groups), by key with a stable counting sort."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=groups))])
    return Groups(_counting_sort(keys, starts[:-1].copy()), starts)


@kernel
def _counting_sort(keys, free):
    members = np.empty(keys.size, np.int64)
    for i in range(keys.size):
        key = keys[i]
        members[free[key]] = i
        free[key] += 1
    return members


class ByViewer(NamedTuple):
    """A partition of a log, rearranged so that the rows of a viewer are adjacent.

    users     (A,) rows of the viewers that occur, ascending
    log       the impressions, viewer by viewer; `positions` (N,) are their indices in the original log
    events    ids of their events in fold order within a viewer, with their times `known_at`
    reads     indices of the impressions that read the state, in the order in which they see the log
    """

    users: np.ndarray
    log: Log
    positions: np.ndarray
    rows: np.ndarray
    events: Groups
    known_at: np.ndarray
    reads: Groups

    @classmethod
    def of(cls, log: Log, events: np.ndarray, known_at: np.ndarray, reads: np.ndarray) -> "ByViewer":
        users = np.flatnonzero(np.bincount(log.user_rows)) if log.rows else np.zeros(0, np.int64)
        compact = np.zeros(int(users[-1]) + 1 if len(users) else 0, np.int64)
        compact[users] = np.arange(len(users))
        viewers = compact[log.user_rows]
        rows = grouped(viewers, len(users))
        rank = np.empty(log.rows, np.int64)
        rank[rows.members] = np.arange(log.rows)
        by_viewer = grouped(viewers[events >> 1], len(users))
        reads_by_viewer = grouped(viewers[reads], len(users))
        chosen = events[by_viewer.members]
        return cls(
            users,
            log.take(rows.members),
            rows.members,
            rows.starts,
            Groups(2 * rank[chosen >> 1] + (chosen & 1), by_viewer.starts),
            known_at[by_viewer.members],
            Groups(rank[reads[reads_by_viewer.members]], reads_by_viewer.starts),
        )


def chunks(starts: np.ndarray, rows: int, keys: int) -> list[tuple[int, int]]:
    """Return ranges of keys, each with about `rows` rows and at most `keys` keys.

    Key a has the rows from starts[a] to starts[a + 1]; one with more than `rows` of them is a range of its own.
    """
    bounds, first, last_key = [], 0, len(starts) - 1
    while first < last_key:
        last = int(np.searchsorted(starts, starts[first] + rows, side="right")) - 1
        last = min(max(last, first + 1), first + keys, last_key)
        bounds.append((first, last))
        first = last
    return bounds

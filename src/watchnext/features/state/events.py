"""A log as the events that the fold takes, in its order, and grouped by viewer so that a record is touched once."""

from typing import NamedTuple

import numpy as np

from watchnext.features.state.fold import OUTCOME, SHOWN
from watchnext.kernels import kernel


class Log(NamedTuple):
    """A stretch of a log as arrays, one entry an impression (N,), plus what the fold reads of the catalogue.

    The first `pending` impressions were shown before this stretch begins: only their outcomes are still to come.
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

    def take(self, rows: np.ndarray, *, pending: int = 0) -> "Log":
        """The impressions `rows`, in that order."""
        columns = {name: getattr(self, name)[rows] for name in PER_ROW}
        return self._replace(**columns, pending=pending)

    def after(self, earlier: "Log") -> "Log":
        """This stretch with the impressions of `earlier`, whose outcomes are still to come, before it."""
        columns = {name: np.concatenate([getattr(earlier, name), getattr(self, name)]) for name in PER_ROW}
        return self._replace(**columns, pending=earlier.rows)


PER_ROW = ("user_rows", "video_rows", "time_ms", "known_at", "amounts", "watch_ms", "bits")


def in_order(
    time_ms: np.ndarray, known_at: np.ndarray, *, until: float = np.inf, pending: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (E,) int64 of the events known strictly before `until`, as they fold, and when they were known (E,) float64.

    Impressions were shown at `time_ms` (N,), the first `pending` of them in an earlier stretch; their outcomes were `known_at`
    (N,). Event 2i is impression i shown, 2i + 1 its outcome; ties fold by id.
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
    for place in range(ids.size):
        shows = j >= outcomes.size
        if not shows and i < shown.size:
            a, b = 2 * shown[i] + SHOWN, 2 * outcomes[j] + OUTCOME
            shows = shown_at[i] < outcomes_at[j] or (shown_at[i] == outcomes_at[j] and a < b)
        if shows:
            ids[place], known_at[place] = 2 * shown[i] + SHOWN, shown_at[i]
            i += 1
        else:
            ids[place], known_at[place] = 2 * outcomes[j] + OUTCOME, outcomes_at[j]
            j += 1
    return ids, known_at


class Groups(NamedTuple):
    """Things grouped by viewer, in their order within each: those of viewer a are `members[starts[a] : starts[a + 1]]`."""

    members: np.ndarray
    starts: np.ndarray


def grouped(keys: np.ndarray, groups: int) -> Groups:
    """Numbers of the things with `keys` (n,) in [0, groups), by key; a stable counting sort."""
    starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=groups))])
    return Groups(_placed(keys, starts[:-1].copy()), starts)


@kernel
def _placed(keys, free):
    members = np.empty(keys.size, np.int64)
    for i in range(keys.size):
        key = keys[i]
        members[free[key]] = i
        free[key] += 1
    return members


class ByViewer(NamedTuple):
    """A stretch of a log, rearranged so that everything of a viewer stands together.

    users     (A,) rows of the viewers that occur, ascending
    log       the impressions, viewer after viewer; `places` (N,) are their numbers in the log as it was
    events    ids of the rearranged impressions' events, in the fold's order within a viewer, and when they were `known_at`
    reads     numbers of the rearranged impressions that are read, in the order in which they see the log
    """

    users: np.ndarray
    log: Log
    places: np.ndarray
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
        mine = grouped(viewers[events >> 1], len(users))
        theirs = grouped(viewers[reads], len(users))
        chosen = events[mine.members]
        return cls(
            users,
            log.take(rows.members),
            rows.members,
            rows.starts,
            Groups(2 * rank[chosen >> 1] + (chosen & 1), mine.starts),
            known_at[mine.members],
            Groups(rank[reads[theirs.members]], theirs.starts),
        )

    def chunks(self, rows: int, viewers: int) -> list[tuple[int, int]]:
        """Ranges of viewers with about so many impressions, and at most so many viewers, each."""
        bounds, first = [], 0
        while first < len(self.users):
            last = int(np.searchsorted(self.rows, self.rows[first] + rows, side="right")) - 1
            last = min(max(last, first + 1), first + viewers, len(self.users))
            bounds.append((first, last))
            first = last
        return bounds

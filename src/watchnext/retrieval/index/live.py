"""Live index: a built index plus additions and removals.

A search reads one immutable state; a change replaces the state in one step. Searches are lock-free and see a change completely
or not at all.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from watchnext.retrieval.index.prefilter import PreFilter, clear_bits, count_bits, pack_bits
from watchnext.retrieval.index.queries import require_finite
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError

log = logging.getLogger(__name__)

OVERDUE = 10  # limit of uncompacted videos, as a multiple of `compact_at`


@dataclass(frozen=True)
class IndexState:
    """`valid` (words,) uint64 marks the valid positions of `built`; `rows` (n,) int64 and `vectors` (n, D) float32 were added
    since. A row is valid in at most one of both."""

    built: VideoIndex
    valid: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray


class LiveIndex:
    """Thread-safe index with updates.

    compact_at  changes before a compaction in a background thread; 0 is never
    build       builds an index from vectors and rows; by default like `built`
    """

    def __init__(
        self,
        built: VideoIndex,
        *,
        compact_at: int = 10_000,
        build: Callable[[np.ndarray, np.ndarray], VideoIndex] | None = None,
    ) -> None:
        self._compact_at, self._build = compact_at, build or built.rebuilt
        self._state = _fresh(built)
        self._room = self._state.rows, self._state.vectors  # arrays behind the additions, with room for more
        self._changing, self._compacting = threading.Lock(), threading.Lock()
        self._changed: set[int] = set()  # rows that changed since the last compaction began
        self._thread: threading.Thread | None = None
        self.failure: str | None = None

    @property
    def built(self) -> VideoIndex:
        return self._state.built

    @property
    def towers(self) -> str:
        return self.built.towers

    @property
    def dimension(self) -> int:
        return self.built.dimension

    def __len__(self) -> int:
        state = self._state
        return count_bits(state.valid) + len(state.rows)

    # ---- search ------------------------------------------------------------------------------------------------------

    def search(self, queries: np.ndarray, k: int, allowed: PreFilter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search like `VideoIndex.search` over the state at the start; additions since the build are compared exactly."""
        state = self._state
        rows, scores = state.built.search(queries, k, allowed, state.valid)
        if not len(state.rows):
            return rows, scores
        added, of_added = _best_added(state, queries, k, allowed)
        rows, scores = np.hstack([rows, added]), np.hstack([scores, of_added])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1)

    def vector(self, row: int) -> np.ndarray:
        """Return the vector of a video (1, D) float32, or (0, D) for one without."""
        state = self._state
        added = state.vectors[state.rows == row]
        at = state.built.positions_of(np.array([row]))
        return added if len(added) else state.built.vectors[at[at >= 0]].astype(np.float32)

    # ---- change ------------------------------------------------------------------------------------------------------

    def add(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        """Add or replace `rows` (n,) with `vectors` (n, D) for all searches that start later; removed rows return.

        Raises VideoIndexError for repeated or negative rows, vectors of another width or not finite, and too many uncompacted
        videos.
        """
        rows, vectors = np.asarray(rows, np.int64), np.asarray(vectors, np.float32)
        if len(np.unique(rows)) != len(rows) or rows.min(initial=0) < 0 or vectors.shape != (len(rows), self.dimension):
            raise VideoIndexError(
                f"{len(rows)} rows and vectors {vectors.shape} were added, "
                f"expected different rows from 0 up and as many vectors of {self.dimension} numbers"
            )
        require_finite(vectors, "the vector of video", rows)
        with self._changing:
            state = _without(self._state, rows)
            if self._compact_at and len(state.rows) + len(rows) > OVERDUE * self._compact_at:
                raise VideoIndexError(
                    f"{len(state.rows)} videos stand beside the built index, expected at most {OVERDUE * self._compact_at}; "
                    f"compaction does not keep up or failed ({self.failure}): build a new index, `dvc repro index`"
                )
            self._state = IndexState(state.built, state.valid, *self._appended(state, rows, vectors))
            self._changed.update(rows.tolist())
        self._compact_when_due()

    def _appended(self, state: IndexState, rows: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the additions of a state and more behind them, in room that no earlier state reads."""
        n, end = len(state.rows), len(state.rows) + len(rows)
        if state.rows.base is not self._room[0] or end > len(self._room[0]):
            self._room = np.empty(2 * end, np.int64), np.empty((2 * end, self.dimension), np.float32)
            self._room[0][:n], self._room[1][:n] = state.rows, state.vectors
        self._room[0][n:end], self._room[1][n:end] = rows, vectors
        return self._room[0][:end], self._room[1][:end]

    def remove(self, rows: np.ndarray) -> None:
        """Remove `rows` (n,) from all searches that start later; unknown rows are ignored."""
        with self._changing:
            self._state = _without(self._state, np.asarray(rows, np.int64))
            self._changed.update(np.asarray(rows).tolist())
        self._compact_when_due()

    # ---- compact -----------------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Rebuild all valid videos as one index; changes made meanwhile are kept. If building fails, the old state stays and
        `failure` holds the error."""
        with self._compacting:
            with self._changing:
                before, self._changed = self._state, set()
            try:
                built = self._build(*_valid_videos(before))
            except Exception as error:
                self.failure = repr(error)
                log.exception("compaction failed; the index before it goes on serving")
                return
            with self._changing:
                self._state = _rebased(built, self._state, np.fromiter(self._changed, np.int64))
                self.failure = None

    def wait(self) -> None:
        """Wait for a running compaction."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _compact_when_due(self) -> None:
        with self._changing:
            idle = self._thread is None or not self._thread.is_alive()
            if self._compact_at and idle and len(self._changed) >= self._compact_at:
                self._thread = threading.Thread(target=self.compact, name="compact", daemon=True)
                self._thread.start()


def _valid_videos(state: IndexState) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, D) float32 and rows (n,) int64 of all valid videos, by row."""
    counts = np.unpackbits(state.valid.view(np.uint8), bitorder="little", count=len(state.built)).astype(bool)
    rows = np.concatenate([state.built.rows[counts], state.rows])
    vectors = np.concatenate([state.built.vectors[counts].astype(np.float32, copy=False), state.vectors])
    order = np.argsort(rows, kind="stable")
    return vectors[order], rows[order]


def _fresh(built: VideoIndex) -> IndexState:
    return IndexState(
        built, pack_bits(np.ones(len(built), bool)), np.zeros(0, np.int64), np.zeros((0, built.dimension), np.float32)
    )


def _best_added(state: IndexState, queries: np.ndarray, k: int, allowed: PreFilter | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the best `k` rows (B, k) among the additions, by position, and their scores (B, k); row -1 is none."""
    scores = np.asarray(queries, np.float32) @ state.vectors.T
    rows = np.broadcast_to(state.rows, scores.shape)
    if allowed is not None:
        out = ~allowed.of(state.rows)
        scores[:, out] = -np.inf
        rows = np.where(out, -1, rows)
    if k < scores.shape[1]:
        best = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
        rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
    return rows, scores


def _without(state: IndexState, rows: np.ndarray) -> IndexState:
    valid, others = state.valid.copy(), ~np.isin(state.rows, rows)
    clear_bits(valid, state.built.positions_of(rows))
    if others.all():
        return replace(state, valid=valid)
    return replace(state, valid=valid, rows=state.rows[others], vectors=state.vectors[others])


def _rebased(built: VideoIndex, now: IndexState, changed: np.ndarray) -> IndexState:
    """Apply the changes since compaction started, the rows `changed`, to the new index `built`."""
    since = np.isin(now.rows, changed)
    return replace(_without(_fresh(built), changed), rows=now.rows[since], vectors=now.vectors[since])

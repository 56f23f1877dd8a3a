"""Live index: a built index plus additions and removals.

A search reads one immutable state; a change replaces the state in one step. Searches are lock-free and see a change completely
or not at all.
"""

import threading
from dataclasses import dataclass, replace

import numpy as np

from watchnext.retrieval.index.prefilter import PreFilter, clear_bits, count_bits, pack_bits
from watchnext.retrieval.index.queries import require_finite
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError


@dataclass(frozen=True)
class IndexState:
    """`valid` (words,) uint64 marks the valid positions of `built`; `rows` (n,) int64 and `vectors` (n, D) float32 were added
    since. A row is valid in at most one of both."""

    built: VideoIndex
    valid: np.ndarray
    rows: np.ndarray
    vectors: np.ndarray


class LiveIndex:
    """Thread-safe index with updates."""

    def __init__(self, built: VideoIndex) -> None:
        self._state = IndexState(
            built, pack_bits(np.ones(len(built), bool)), np.zeros(0, np.int64), np.zeros((0, built.dimension), np.float32)
        )
        self._room = self._state.rows, self._state.vectors  # arrays behind the additions, with room for more
        self._changing = threading.Lock()

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

        Raises VideoIndexError for repeated or negative rows, and vectors of another width or not finite.
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
            self._state = IndexState(state.built, state.valid, *self._appended(state, rows, vectors))

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

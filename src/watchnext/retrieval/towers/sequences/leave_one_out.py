"""Viewers' histories, and the protocol of the sequential papers: the last video tests, the one before validates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Histories:
    """What U viewers watched, oldest first, viewer after viewer.

    rows    (N,) int64 video rows, each below `videos`
    starts  (U + 1,) int64; viewer u watched rows[starts[u]:starts[u + 1]]
    videos  rows of the catalogue
    """

    rows: np.ndarray
    starts: np.ndarray
    videos: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, viewers: Sequence[Sequence[int]], videos: int) -> "Histories":
        """From one sequence of rows a viewer. Raises ValueError for a row that the catalogue does not have."""
        rows = np.array([row for viewer in viewers for row in viewer], np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < videos:
            raise ValueError(f"a history names rows {rows.min()} to {rows.max()}, but the catalogue has rows 0 to {videos - 1}")
        return cls(rows, np.cumsum([0, *map(len, viewers)]), videos)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def counts(self) -> np.ndarray:
        """How often each video was watched (V,)."""
        return np.bincount(self.rows, minlength=self.videos)

    def without_last(self, dropped: np.ndarray) -> "Histories":
        """Less the last `dropped` (U,) videos of each viewer."""
        place = np.arange(len(self.rows)) - np.repeat(self.starts[1:] - dropped, self.lengths)
        return Histories(self.rows[place < 0], np.concatenate([[0], np.cumsum(self.lengths - dropped)]), self.videos)

    def padded(self, viewers: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        """Last `places` videos of some viewers, oldest first: (B, H) with `videos` behind the last, and lengths (B,)."""
        ends = self.starts[viewers + 1]
        lengths = np.minimum(ends - self.starts[viewers], places)
        place = np.arange(max(int(lengths.max(initial=0)), 1))
        at = np.minimum((ends - lengths)[:, None] + place, max(len(self.rows) - 1, 0))
        rows = self.rows[at] if len(self.rows) else np.zeros(at.shape, np.int64)
        return np.where(place < lengths[:, None], rows, self.videos), lengths


@dataclass(frozen=True)
class LeaveOneOut:
    """train       all that may be learned or counted from, and the histories that ask for validation videos
    before_test  the same with the validation videos: the histories that ask for test videos, and nothing else
    viewers      (T,) those with something held out
    valid, test  (T,) their held-out rows
    """

    train: Histories
    before_test: Histories
    viewers: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def leave_one_out(histories: Histories) -> LeaveOneOut:
    """A viewer of fewer than three videos has nothing to hold out and only trains. Raises ValueError where that is everyone."""
    viewers = np.flatnonzero(histories.lengths >= 3)
    if not len(viewers):
        raise ValueError(
            f"none of {len(histories)} viewers has three videos (one to learn from, one to validate, one to test); "
            "give a file with longer lines"
        )
    held = (histories.lengths >= 3).astype(np.int64)
    ends = histories.starts[viewers + 1]
    return LeaveOneOut(
        train=histories.without_last(2 * held),
        before_test=histories.without_last(held),
        viewers=viewers,
        valid=histories.rows[ends - 2],
        test=histories.rows[ends - 1],
    )


def histories_of(impressions: pl.DataFrame) -> tuple[Histories, pl.Series]:
    """Histories of a log (user_id, video_id, time_ms) and the ids of its video rows.

    Viewers follow each other by their last impression, which for a sequence file is the order of its lines. Two impressions of
    one time keep the log's order.
    """
    ids = impressions["video_id"].unique().sort()
    rows = impressions.select(
        "user_id", "time_ms", row=pl.col("video_id").replace_strict(ids, pl.int_range(len(ids), eager=True))
    )
    viewers = (
        rows.sort("time_ms", maintain_order=True)
        .group_by("user_id", maintain_order=True)
        .agg("row", last=pl.col("time_ms").max())
        .sort("last", maintain_order=True)
    )
    starts = np.concatenate([[0], np.cumsum(viewers["row"].list.len().to_numpy())]).astype(np.int64)
    return Histories(viewers["row"].explode().to_numpy().astype(np.int64), starts, len(ids)), ids

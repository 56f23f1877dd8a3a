"""Histories of viewers and the leave-one-out protocol: the last video is for test, the one before for validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.retrieval.sources.graph import Histories

CONF = Path(__file__).with_name("conf")  # the recipe


class Sequences(Histories):
    """Histories that can be split, counted and padded."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, viewers: Sequence[Sequence[int]], videos: int) -> "Sequences":
        """Build from one sequence of rows per viewer. Raises ValueError for a row outside the catalogue."""
        rows = np.array([row for viewer in viewers for row in viewer], np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < videos:
            raise ValueError(
                f"histories contain rows {rows.min()} to {rows.max()}, expected rows 0 to {videos - 1} of the catalogue"
            )
        return cls(rows, np.cumsum([0, *map(len, viewers)]), videos)

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def counts(self) -> np.ndarray:
        """Count the watches of each video (V,)."""
        return np.bincount(self.rows, minlength=self.videos)

    def without_last(self, dropped: np.ndarray) -> "Sequences":
        """Drop the last `dropped` (U,) videos of each viewer."""
        offset = np.arange(len(self.rows)) - np.repeat(self.starts[1:] - dropped, self.lengths)
        return Sequences(self.rows[offset < 0], np.concatenate([[0], np.cumsum(self.lengths - dropped)]), self.videos)

    def padded(self, viewers: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the last `places` videos of some viewers, oldest first: (B, H), padded with `videos`, and lengths (B,)."""
        ends = self.starts[viewers + 1]
        lengths = np.minimum(ends - self.starts[viewers], places)
        position = np.arange(max(int(lengths.max(initial=0)), 1))
        at = np.minimum((ends - lengths)[:, None] + position, max(len(self.rows) - 1, 0))
        rows = self.rows[at] if len(self.rows) else np.zeros(at.shape, np.int64)
        return np.where(position < lengths[:, None], rows, self.videos), lengths


@dataclass(frozen=True)
class LeaveOneOut:
    """Leave-one-out split.

    train        histories for training and counting, and the queries of validation videos
    before_test  `train` plus the validation videos: the queries of test videos only
    viewers      (T,) viewers with held-out videos
    valid, test  (T,) held-out rows
    """

    train: Sequences
    before_test: Sequences
    viewers: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def leave_one_out(histories: Sequences) -> LeaveOneOut:
    """Hold out the last two videos of each viewer with at least three. Raises ValueError if no viewer has three."""
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


def histories_of(impressions: pl.DataFrame) -> tuple[Sequences, pl.Series]:
    """Build histories from a log (user_id, video_id, time_ms); also return the ids of the video rows.

    Viewers are ordered by their last impression, which is the line order of a sequence file. Impressions at one time keep the
    order of the log.
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
    return Sequences(viewers["row"].explode().to_numpy().astype(np.int64), starts, len(ids)), ids

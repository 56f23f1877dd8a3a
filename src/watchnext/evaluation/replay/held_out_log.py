"""Read the held-out days of a stored log one by one, with the split and the label of every row."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS
from watchnext.data.storage import Day, StoredTables
from watchnext.features.dataset.batches import FeatureSet
from watchnext.serving.release.release import Release, ReleaseError
from watchnext.types import TARGETS


@dataclass(frozen=True)
class LogPart:
    """The impressions of a day, or of days that overlap in time, in the order of the log.

    held_out   (n,) bool, the rows of the replayed split; the others came before
    long_view  (n,) bool, by the configured label
    first      number of held-out rows in earlier parts
    """

    impressions: pl.DataFrame
    held_out: np.ndarray
    long_view: np.ndarray
    first: int


@dataclass(frozen=True)
class HeldOutLog:
    """A stored log, of which the feature stage knows `split` (N,), an index in SPLITS, and `long_view` (N,) of every row.

    held_out  the replayed split: rows of later splits are not read
    """

    stored: StoredTables
    split: np.ndarray
    long_view: np.ndarray
    held_out: int = SPLITS.index("test")

    @classmethod
    def of_outputs(cls, outputs: Path, features: FeatureSet) -> "HeldOutLog":
        """Open the log of the pipeline with these outputs, with the split and labels that the feature stage wrote."""
        long_view = features.columns["targets"][:, TARGETS.index("long_view")]
        return cls(StoredTables.open(outputs / "tables"), np.asarray(features.columns["split"]), long_view)

    def __len__(self) -> int:
        """Count the held-out rows."""
        return int(np.count_nonzero(self.split == self.held_out))

    def parts(self) -> Iterator[LogPart]:
        """Yield the days up to the last held-out one, each read when it is asked for."""
        start = held_out = 0
        for days in together(self.stored.days):
            split = np.asarray(self.split[start : (start := start + sum(day.rows for day in days))])
            known = split <= self.held_out
            if not known.any():
                continue
            impressions = self.stored.impressions(days).filter(pl.Series(known))
            long_view = np.asarray(self.long_view[start - len(split) : start])[known] > 0
            chosen = split[known] == self.held_out
            yield LogPart(impressions, chosen, long_view, held_out)
            held_out += int(chosen.sum())

    def require_unseen(self, release: Release) -> None:
        """Raise ReleaseError if the state of `release` holds events of the held-out days."""
        times = (part.impressions.filter(pl.Series(part.held_out))["time_ms"].min() for part in self.parts())
        first = next((time for time in times if time is not None), None)
        if first is not None and release.as_of_ms > first:
            raise ReleaseError(
                f"{release.id} has the state as of {release.as_of_ms} ms, and the held-out days begin at {first} ms: it knows "
                "them; expected a release of earlier data, or `dvc repro` for later held-out days"
            )

    def viewer_days(self) -> int:
        """Count the days of all viewers that hold a watch of more than 0 ms."""
        return sum(_viewer_days(part) for part in self.parts())


def _viewer_days(part: LogPart) -> int:
    watched = part.impressions.filter(pl.Series(part.held_out) & (pl.col("watch_ms") > 0))
    return watched.select("user_id", "day").n_unique()


def together(days: tuple[Day, ...]) -> list[tuple[Day, ...]]:
    """Group successive days that overlap in time, so that the groups in order are the log in order."""
    groups: list[list[Day]] = []
    for day in days:
        if groups and day.first_ms <= max(each.last_ms for each in groups[-1]):
            groups[-1].append(day)
        else:
            groups.append([day])
    return [tuple(group) for group in groups]

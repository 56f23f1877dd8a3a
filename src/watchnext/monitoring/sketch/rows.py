"""Impressions to compare: raw, and as codes of the bins of a reference, which take a byte a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.monitoring.sketch.bins import Bins
from watchnext.types import TARGETS

SLICES = ("surface", "region", "viewers")


@dataclass(frozen=True)
class Impressions:
    """Raw impressions (N): features by name, and who saw them where.

    columns              one a feature; a column may be missing
    viewers (N,)         ids as strings
    slices               columns SLICES of strings, null unknown; `viewers` is "new" or "known"
    predictions (N, T)   nan where the ranker has no such head
    outcomes (N, T)      nan where none is known
    videos (N,)          rows of the vectors, -1 unknown
    """

    columns: pl.DataFrame
    viewers: pl.Series
    slices: pl.DataFrame
    predictions: np.ndarray
    outcomes: np.ndarray
    videos: np.ndarray

    def __len__(self) -> int:
        return len(self.viewers)

    @property
    def values(self) -> Mapping[str, pl.Series]:
        """Features, and what was predicted and seen as columns of their own."""
        named = {column.name: column for column in self.columns.iter_columns()}
        for prefix, each in (("score", self.predictions), ("outcome", self.outcomes)):
            named |= {f"{prefix} {target}": pl.Series(each[:, index]) for index, target in enumerate(TARGETS)}
        return named

    def take(self, rows: np.ndarray) -> "Impressions":
        """Return the impressions at `rows` (n,), in that order."""
        arrays = (getattr(self, name)[rows] for name in ("predictions", "outcomes", "videos"))
        return Impressions(self.columns[rows], self.viewers.gather(rows), self.slices[rows], *arrays)

    @classmethod
    def joined(cls, parts: Sequence["Impressions"]) -> "Impressions":
        """Put parts together; a column that one of them lacks is missing there."""
        return cls(
            pl.concat([part.columns for part in parts], how="diagonal_relaxed"),
            pl.concat([part.viewers for part in parts]),
            pl.concat([part.slices for part in parts]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("predictions", "outcomes", "videos")),
        )

    def coded(self, bins: Mapping[str, Bins]) -> "Coded":
        """Give every value its bin; a column that the bins have and the rows lack is left out."""
        values = self.values
        return Coded(
            {name: each.codes(values[name]) for name, each in bins.items() if name in values},
            self.viewers,
            self.slices,
            self.predictions,
            self.outcomes,
            self.videos,
        )


@dataclass(frozen=True)
class Coded:
    """Impressions (N) as in `Impressions`, with the bin (N,) uint8 of each value by column."""

    codes: Mapping[str, np.ndarray]
    viewers: pl.Series
    slices: pl.DataFrame
    predictions: np.ndarray
    outcomes: np.ndarray
    videos: np.ndarray

    def __len__(self) -> int:
        return len(self.viewers)

    @classmethod
    def joined(cls, parts: Sequence["Coded"]) -> "Coded":
        """Put parts of one window together; a column that one of them lacks is left out."""
        names = [name for name in parts[0].codes if all(name in part.codes for part in parts)]
        return cls(
            {name: np.concatenate([part.codes[name] for part in parts]) for name in names},
            pl.concat([part.viewers for part in parts]),
            pl.concat([part.slices for part in parts]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("predictions", "outcomes", "videos")),
        )

    def take(self, rows: np.ndarray) -> "Coded":
        """Return the impressions at `rows` (n,), in that order."""
        return Coded(
            {name: codes[rows] for name, codes in self.codes.items()},
            self.viewers.gather(rows),
            self.slices[rows],
            self.predictions[rows],
            self.outcomes[rows],
            self.videos[rows],
        )

    @property
    def numbered(self) -> np.ndarray:
        """The viewer (N,) of each impression as a number from 0 without gaps."""
        return self.viewers.rank("dense").cast(pl.Int64).to_numpy() - 1 if len(self) else np.zeros(0, np.int64)

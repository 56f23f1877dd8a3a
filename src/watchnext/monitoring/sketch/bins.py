"""Bins of one column, made once from reference rows. Code 0 is a missing value."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

LEVELS = 16  # quantile bins of numbers: a power of 2 near the ten that are usual for the population stability index
NAMES = 40  # the most common categories have bins of their own
MARGIN = 0.01  # of the range of the reference, beyond which a number is out of range


class Bins(ABC):
    """One column's bins: `size` of them, named by `labels`; of the `odd` ones, a sound column has as few as its reference."""

    labels: tuple[str, ...]
    ordered: bool

    @property
    @abstractmethod
    def odd(self) -> tuple[int, ...]: ...

    @abstractmethod
    def codes(self, values: pl.Series) -> np.ndarray:
        """Return the bin (N,) uint8 of each value."""

    @abstractmethod
    def to_json(self) -> dict: ...

    @property
    def size(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class NumberBins(Bins):
    """Bins of numbers between `edges` (n,): below all, n - 1 between, above all. Missing are null, nan and infinities."""

    edges: np.ndarray
    ordered = True

    @classmethod
    def of(cls, values: pl.Series) -> "NumberBins":
        """Cut at LEVELS quantiles of the finite values, in the middle between two values, so that rounding moves none."""
        numbers = values.cast(pl.Float64).to_numpy()
        numbers = np.sort(numbers[np.isfinite(numbers)])
        if not len(numbers):
            return cls(np.zeros(0))
        room = MARGIN * max(numbers[-1] - numbers[0], abs(numbers[-1]), 1e-9)
        cuts = np.unique(numbers[(np.arange(1, LEVELS) * len(numbers)) // LEVELS])
        following = numbers[np.minimum(np.searchsorted(numbers, cuts, side="right"), len(numbers) - 1)]
        inner = ((cuts + following) / 2)[following > cuts]
        return cls(np.concatenate([[numbers[0] - room], inner, [numbers[-1] + room]]))

    @property
    def odd(self) -> tuple[int, ...]:
        return (0, 1, self.size - 1) if len(self.edges) else (0,)

    @property
    def labels(self) -> tuple[str, ...]:
        shown = [f"{edge:.4g}" for edge in self.edges]
        between = [f"{low} to {high}" for low, high in pairwise(shown)]
        return ("missing", *([f"below {shown[0]}", *between, f"above {shown[-1]}"] if shown else ["any"]))

    def codes(self, values: pl.Series) -> np.ndarray:
        numbers = values.cast(pl.Float64, strict=False).to_numpy()
        codes = 1 + np.searchsorted(self.edges, numbers)
        return np.where(np.isfinite(numbers), codes, 0).astype(np.uint8)

    def to_json(self) -> dict:
        return {"edges": self.edges.tolist()}


@dataclass(frozen=True)
class NameBins(Bins):
    """Bins of categories: `names`, the rare ones of the reference together, and those that it did not have."""

    names: tuple[str, ...]
    rare: tuple[str, ...]
    ordered = False
    odd = (0, 1)

    @classmethod
    def of(cls, values: pl.Series) -> "NameBins":
        counts = (
            values.cast(pl.String).drop_nulls().alias("name").value_counts().sort(["count", "name"], descending=[True, False])
        )
        names = counts["name"].to_list()
        return cls(tuple(names[:NAMES]), tuple(names[NAMES:]))

    @property
    def labels(self) -> tuple[str, ...]:
        return ("missing", "new", "rare", *self.names)

    def codes(self, values: pl.Series) -> np.ndarray:
        known = dict.fromkeys(self.rare, 2) | {name: 3 + index for index, name in enumerate(self.names)}
        names = values.cast(pl.String)
        if not known:
            return names.is_not_null().cast(pl.UInt8).to_numpy()
        codes = names.replace_strict(known, default=1, return_dtype=pl.UInt8)
        return codes.zip_with(names.is_not_null(), pl.repeat(0, len(names), dtype=pl.UInt8, eager=True)).to_numpy()

    def to_json(self) -> dict:
        return {"names": self.names, "rare": self.rare}


def bins_of(values: pl.Series) -> Bins:
    """Make the bins of a column from its reference values."""
    return NumberBins.of(values) if values.dtype.is_numeric() else NameBins.of(values)


def bins_from(declared: Mapping) -> Bins:
    """Read what `to_json` wrote."""
    if "edges" in declared:
        return NumberBins(np.array(declared["edges"], np.float64))
    return NameBins(tuple(declared["names"]), tuple(declared["rare"]))

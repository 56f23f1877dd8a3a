"""Logged context columns on disk: numbers unchanged, categories as indices into a growing dictionary."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.features.encode.encodings import MISSING, raw
from watchnext.schema import FeatureSchema


def context_of(impressions: pl.DataFrame, schema: FeatureSchema) -> dict[str, np.ndarray]:
    """Convert the logged context columns to arrays."""
    return {f.name: raw(impressions[f.name], f.kind) for f in schema.columns("context")}


class Dictionaries:
    """Distinct values of every categorical context column, in order of first occurrence; null has index -1."""

    def __init__(self, schema: FeatureSchema, values: Mapping[str, pl.Series]) -> None:
        self._features = schema.columns("context")
        self.values = dict(values)

    @classmethod
    def load(cls, folder: Path, schema: FeatureSchema) -> "Dictionaries":
        """Load the output of `save`; dictionaries that were never saved are empty."""
        frames = {f.name: Path(folder) / f"{f.name}.parquet" for f in schema.columns("context") if f.kind == "categorical"}
        return cls(schema, {name: pl.read_parquet(path)[name] for name, path in frames.items() if path.exists()})

    def save(self, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, values in dict(self.values).items():  # a copy: another thread may be reading the next partition
            path = Path(folder) / f"{name}.parquet"
            values.alias(name).to_frame().write_parquet(path.with_suffix(".new"))
            os.replace(path.with_suffix(".new"), path)

    def truncate(self, lengths: Mapping[str, int]) -> None:
        """Shorten the dictionaries to `lengths`."""
        self.values = {name: values.head(lengths[name]) for name, values in self.values.items() if lengths.get(name)}

    @property
    def lengths(self) -> dict[str, int]:
        return {name: len(values) for name, values in self.values.items()}

    @property
    def kinds(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Columns and their dtypes on disk."""
        return {_column(f.name): (np.int32 if f.kind == "categorical" else np.float64, ()) for f in self._features}

    def columns(self, impressions: pl.DataFrame) -> dict[str, np.ndarray]:
        """Encode the columns of some rows; new values are added to the dictionaries."""
        columns = {}
        for feature in self._features:
            values = impressions[feature.name]
            columns[_column(feature.name)] = (
                self._indices(feature.name, values) if feature.kind == "categorical" else raw(values, "numerical")
            )
        return columns

    def _indices(self, name: str, values: pl.Series) -> np.ndarray:
        is_number = values.dtype.is_integer() or values.dtype == pl.Boolean
        values = values.cast(pl.Int64 if is_number else pl.String)
        known = self.values.get(name, values.clear())
        distinct = values.drop_nulls().unique(maintain_order=True)
        known = known.append(distinct.filter(~distinct.is_in(known.implode())))
        self.values[name] = known
        indices = values.replace_strict(known, pl.int_range(len(known), eager=True), default=None, return_dtype=pl.Int32)
        return indices.fill_null(-1).to_numpy()

    def raw(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Decode rows of the columns on disk to columns as in `context_of`."""
        decoded = {}
        for feature in self._features:
            values = columns[_column(feature.name)]
            if feature.kind == "categorical":
                # The type of a column that never occurred is unknown.
                known = raw(self.values[feature.name], "categorical") if feature.name in self.values else np.zeros(0, np.str_)
                values = np.append(known, MISSING if known.dtype.kind == "i" else "")[values]  # -1 selects the last
            decoded[feature.name] = values
        return decoded


def _column(name: str) -> str:
    return f"context.{name}"

"""Columns > codes and values, and the joining of blocks into network inputs: what the pipeline is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.schema import Feature

MISSING = np.iinfo(np.int64).min  # stands for null in an integer column
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class InputSizes:
    """How large the network's inputs are: vocabulary sizes (code 0 included) and widths."""

    user_codes: tuple[int, ...]
    context_codes: tuple[int, ...]
    video_codes: tuple[int, ...]
    tags: int
    user_values: int
    query_values: int
    video_values: int
    candidate_values: int
    vector: int
    history: int = 5

    @classmethod
    def from_mapping(cls, sizes: Mapping) -> "InputSizes":
        return cls(**{name: tuple(value) if isinstance(value, list | tuple) else value for name, value in sizes.items()})


def raw(series: pl.Series, kind: str) -> np.ndarray:
    """A table's column as an array: int64 with MISSING, or str with "", for codes; float64 with nan for values."""
    if kind == "numerical":
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if series.dtype.is_integer() or series.dtype == pl.Boolean:
        return series.cast(pl.Int64).fill_null(MISSING).to_numpy()
    return np.array(series.cast(pl.String).fill_null("").to_list(), dtype=np.str_)


def encode(values: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Codes (n,) int32: place in the sorted `vocabulary` + 1, or 0."""
    if not len(vocabulary):
        return np.zeros(len(values), np.int32)
    if values.dtype.kind != vocabulary.dtype.kind:
        values = values.astype(vocabulary.dtype) if vocabulary.dtype.kind == "i" else values.astype(np.str_)
    at = np.minimum(np.searchsorted(vocabulary, values), len(vocabulary) - 1)
    return np.where(vocabulary[at] == values, at + 1, 0).astype(np.int32)


def frequent(values: np.ndarray, min_count: int) -> np.ndarray:
    """The sorted distinct values that occur at least `min_count` times, missing ones aside."""
    distinct, counts = np.unique(values, return_counts=True)
    missing = MISSING if distinct.dtype.kind == "i" else ""
    kept = distinct[(counts >= min_count) & (distinct != missing)]
    # As wide as what is kept, not as what is left out.
    return kept if kept.dtype.kind == "i" else np.array(kept.tolist(), dtype=np.str_)


def names_of(features: tuple[Feature, ...]) -> list[str]:
    """Columns that numerical features become; a nullable one brings a flag."""
    return [name for f in features for name in ([f.name, f"{f.name} missing"] if f.nullable else [f.name])]


def joined(
    blocks: Arrays, users: Arrays, videos: Arrays, user_rows: np.ndarray, video_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """All network inputs of N rows: as-of `blocks` plus the static ones gathered by row.

    history_rows become history_codes (N, H, Fv), history_tags (N, H, tags), history_vector (N, H, D + 1) and history_mask (N,
    H).
    """
    inputs = {name: values for name, values in blocks.items() if name != "history_rows"}
    if "history_rows" in blocks:
        rows = blocks["history_rows"]
        inputs |= {f"history_{what}": videos[f"video_{what}"][rows] for what in ("codes", "tags", "vector")}
        inputs["history_mask"] = (rows >= 0).astype(np.float32)
    inputs |= {name: values[user_rows] for name, values in users.items()}
    return inputs | {name: values[video_rows] for name, values in videos.items()}

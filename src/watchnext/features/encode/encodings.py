"""Columns > codes and values, and the joining of blocks into network inputs: what the pipeline is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.kernels import kernel
from watchnext.schema import Feature

PRIOR = 4.0  # impressions at the mean rate that every smoothed rate starts with
CLIP = 6.0  # standard deviations
MISSING = np.iinfo(np.int64).min  # stands for null in an integer column
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class InputSizes:
    """How large the network's inputs are: vocabulary sizes (code 0 included) and widths.

    user_id, video_id  which of the user's and the video's codes says who or which it is; null is none
    """

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
    user_id: int | None = 0
    video_id: int | None = 0

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


def encode_column(series: pl.Series, vocabulary: np.ndarray) -> np.ndarray:
    """The same for a column of a table."""
    values = series.cast(pl.Int64 if vocabulary.dtype.kind == "i" else pl.String)
    known = pl.DataFrame({"value": pl.Series(vocabulary.tolist(), dtype=values.dtype)}).with_row_index("code", offset=1)
    found = pl.DataFrame({"value": values}).join(known, on="value", how="left", maintain_order="left")
    return found["code"].fill_null(0).cast(pl.Int32).to_numpy()


def frequent(values: pl.Series, counts: np.ndarray, min_count: int) -> np.ndarray:
    """The sorted distinct values that occur at least `min_count` times, missing ones aside; `counts` (n,) is how often each of
    `values` does."""
    is_number = values.dtype.is_integer() or values.dtype == pl.Boolean
    frame = pl.DataFrame({"value": values.cast(pl.Int64 if is_number else pl.String), "count": counts}).drop_nulls("value")
    kept = frame.group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= min_count)["value"].sort()
    if is_number:
        return kept.to_numpy()
    return np.sort(np.array([value for value in kept.to_list() if value], dtype=np.str_))


@kernel
def scaled_rates(values, rate, mean, deviation, most, impression, limit, out):
    """Counters (N, block) > standardised log impressions and smoothed rates, `out` (N, block), clipped to +- `limit`.

    A rate is (count + PRIOR * mean rate) / (impressions + PRIOR), `rate` (counts, half_lives) being the mean one. An outcome is
    counted later than its impression, which may have faded further by then, or been evicted from a bounded table: the
    impressions are at least those that the outcomes took, count / `most` (counts,), what one can add. So no rate exceeds it.
    `impression` is which count the impressions are; where none is (-1), every count stands as its log. nan becomes 0.
    """
    counts, half_lives = rate.shape
    for i in range(values.shape[0]):
        for h in range(half_lives):
            shown = float(values[i, impression * half_lives + h]) if impression >= 0 else 0.0
            for c in range(counts):
                place = c * half_lives + h
                value = float(values[i, place])
                is_log = impression < 0 or c == impression
                value = np.log1p(value) if is_log else (value + PRIOR * rate[c, h]) / (max(shown, value / most[c]) + PRIOR)
                value = (value - mean[place]) / deviation[place]
                out[i, place] = min(max(value, -limit), limit) if value == value else 0.0


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

"""Building blocks of the pipeline: columns > codes and values, and joining blocks into network inputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.kernels import kernel
from watchnext.schema import Feature

PRIOR = 4.0  # pseudo-impressions at the mean rate in every smoothed rate
CLIP = 6.0  # standard deviations, of a training sample with a value far from all others
TAIL = 0.001  # share of the training sample below the lowest value that is read as it is, and above the highest
MISSING = np.iinfo(np.int64).min  # stands for null in an integer column
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class InputSizes:
    """Sizes of the network inputs: vocabulary sizes (code 0 included) and widths.

    user_id, video_id  position of the id among the user's and the video's codes; null: no id
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
    """Convert a column to an array: codes as int64 with MISSING or str with "", values as float64 with nan."""
    if kind == "numerical":
        return series.cast(pl.Float64).fill_null(np.nan).to_numpy()
    if series.dtype.is_integer() or series.dtype == pl.Boolean:
        return series.cast(pl.Int64).fill_null(MISSING).to_numpy()
    return np.array(series.cast(pl.String).fill_null("").to_list(), dtype=np.str_)


def encode(values: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """Return codes (n,) int32: index in the sorted `vocabulary` + 1, or 0 if unknown."""
    if not len(vocabulary):
        return np.zeros(len(values), np.int32)
    if values.dtype.kind != vocabulary.dtype.kind:
        values = values.astype(vocabulary.dtype) if vocabulary.dtype.kind == "i" else values.astype(np.str_)
    at = np.minimum(np.searchsorted(vocabulary, values), len(vocabulary) - 1)
    return np.where(vocabulary[at] == values, at + 1, 0).astype(np.int32)


def encode_column(series: pl.Series, vocabulary: np.ndarray) -> np.ndarray:
    """Return the codes (n,) int32 of a table's column."""
    values = series.cast(pl.Int64 if vocabulary.dtype.kind == "i" else pl.String)
    known = pl.DataFrame({"value": pl.Series(vocabulary.tolist(), dtype=values.dtype)}).with_row_index("code", offset=1)
    joined = pl.DataFrame({"value": values}).join(known, on="value", how="left", maintain_order="left")
    return joined["code"].fill_null(0).cast(pl.Int32).to_numpy()


def frequent(values: pl.Series, counts: np.ndarray, min_count: int) -> np.ndarray:
    """Return the sorted distinct values that occur at least `min_count` times, without missing ones.

    counts  (n,) occurrences of each of `values`
    """
    is_number = values.dtype.is_integer() or values.dtype == pl.Boolean
    frame = pl.DataFrame({"value": values.cast(pl.Int64 if is_number else pl.String), "count": counts}).drop_nulls("value")
    distinct = frame.group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= min_count)["value"].sort()
    if is_number:
        return distinct.to_numpy()
    return np.sort(np.array([value for value in distinct.to_list() if value], dtype=np.str_))


@kernel
def scaled_rates(values, rate, scale, most, impression, out):
    """Turn counters (N, block) into standardised log impressions and smoothed rates, `out` (N, block).

    `scale` (4, block) has the mean, the deviation, and the bounds to which standardised values are clipped, of every column.

    A rate is (count + PRIOR * mean rate) / (impressions + PRIOR), with mean rates `rate` (counts, half_lives). An outcome is
    counted after its impression, which may have decayed further by then, or been evicted from a bounded table. The impressions
    are therefore taken as at least count / `most`, with `most` (counts,) the largest increment of one impression.
    `impression` is the index of the impressions among the counts; without one (-1), every count becomes its log. nan becomes 0.
    """
    counts, half_lives = rate.shape
    for i in range(values.shape[0]):
        for h in range(half_lives):
            shown = float(values[i, impression * half_lives + h]) if impression >= 0 else 0.0
            for c in range(counts):
                k = c * half_lives + h
                value = float(values[i, k])
                is_log = impression < 0 or c == impression
                value = np.log1p(value) if is_log else (value + PRIOR * rate[c, h]) / (max(shown, value / most[c]) + PRIOR)
                value = (value - scale[0, k]) / scale[1, k]
                out[i, k] = min(max(value, scale[2, k]), scale[3, k]) if value == value else 0.0


def fitted_scale(values: np.ndarray) -> np.ndarray:
    """Return mean, deviation and bounds (4, columns) of a training sample (N, columns), nan where missing.

    A network knows nothing of values that it was not trained on, and a slate is made of those that it overrates. So a value
    beyond the bounds, which TAIL of the sample exceeds on either side, is read as the bound. Missing values become 0.
    """
    known = np.isfinite(values)
    counts = np.maximum(known.sum(axis=0), 1)  # a column that is always missing has mean 0
    mean = np.where(known, values, 0.0).sum(axis=0) / counts
    deviation = np.sqrt((np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / counts)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)  # a constant column becomes 0
    standard = np.where(known, (values - mean) / deviation, 0.0) if len(values) else np.zeros((1, values.shape[1]))
    bounds = np.quantile(standard, [TAIL, 1.0 - TAIL], axis=0, method="nearest")
    return np.stack([mean, deviation, *np.clip(bounds, -CLIP, CLIP)])


def standardised(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return values (N, columns) in units of `fitted_scale`, within its bounds; missing ones are 0."""
    mean, deviation, low, high = scale
    return np.nan_to_num(np.clip((values - mean) / deviation, low, high), nan=0.0)


def names_of(features: tuple[Feature, ...]) -> list[str]:
    """Return the column names of numerical features; a nullable feature adds a flag column."""
    return [name for f in features for name in ([f.name, f"{f.name} missing"] if f.nullable else [f.name])]


def joined(
    blocks: Arrays, users: Arrays, videos: Arrays, user_rows: np.ndarray, video_rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Join all network inputs of N rows: as-of `blocks`, plus static blocks gathered by row.

    history_rows become history_codes (N, H, Fv), history_tags (N, H, tags), history_vector (N, H, D + 1) and history_mask
    (N, H).
    """
    inputs = {name: values for name, values in blocks.items() if name != "history_rows"}
    if "history_rows" in blocks:
        rows = blocks["history_rows"]
        inputs |= {f"history_{block}": videos[f"video_{block}"][rows] for block in ("codes", "tags", "vector")}
        inputs["history_mask"] = (rows >= 0).astype(np.float32)
    inputs |= {name: values[user_rows] for name, values in users.items()}
    return inputs | {name: values[video_rows] for name, values in videos.items()}

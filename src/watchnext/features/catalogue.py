"""The catalogue of videos as dense arrays, and the index from external ids to row numbers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.features.arrays import load_arrays, save_arrays

SAFETY = ("safe", "mature", "unsafe")


class Ids:
    """External ids, (n,) int64 or bytes, by row number."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    @classmethod
    def of(cls, series: pl.Series) -> "Ids":
        if series.dtype == pl.Int64:
            return cls(series.to_numpy())
        return cls(np.array([value.encode() for value in series.to_list()], dtype=np.bytes_))

    @property
    def are_strings(self) -> bool:
        return self.ids.dtype.kind == "S"

    def takes(self, value: object) -> bool:
        """Return True if a value has the type of these ids, string or int64; without ids, either type."""
        is_string = isinstance(value, str)
        is_number = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
        return (is_string if self.are_strings else is_number) if len(self.ids) else is_string or is_number

    def rows(self, values: np.ndarray | Sequence) -> np.ndarray:
        """Return the row numbers (n,) int64 of `values`, -1 for unknown ones. An id of the other type is unknown."""
        if not len(self.ids):
            return np.full(len(values), -1, np.int64)
        if isinstance(values, np.ndarray):
            alike, wanted = True, values
        elif self.are_strings and {*map(type, values)} <= {str}:  # as nearly always
            alike, wanted = True, np.array([value.encode() for value in values], np.bytes_)
        elif not self.are_strings and {*map(type, values)} == {int} and min(values) >= -(2**63) and max(values) < 2**63:
            alike, wanted = True, np.array(values, np.int64)
        else:
            alike = np.array([self.takes(value) for value in values], bool)
            known = [value if like else ("" if self.are_strings else 0) for value, like in zip(values, alike, strict=True)]
            wanted = np.array([value.encode() for value in known], np.bytes_) if self.are_strings else np.array(known, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self.ids) - 1)
        return np.where(alike & (self._sorted[at] == wanted), self._order[at], -1)

    def rows_of(self, series: pl.Series) -> np.ndarray:
        """Return the row numbers of a table's column; an id of the other type is unknown."""
        if self.are_strings != (series.dtype == pl.String):
            return np.full(len(series), -1, np.int64)
        joined = pl.DataFrame({"id": series}).join(self._table, on="id", how="left", maintain_order="left")
        return joined["row"].fill_null(-1).to_numpy(writable=True)  # a read-only array is another type to numba

    @cached_property
    def _table(self) -> pl.DataFrame:
        ids = pl.Series([one.decode() for one in self.ids.tolist()]) if self.are_strings else pl.Series(self.ids)
        return pl.DataFrame({"id": ids, "row": np.arange(len(self.ids))})

    def values(self, rows: np.ndarray) -> list[int | str]:
        """Return the ids of `rows` (n,), as given."""
        values = self.ids[rows].tolist()
        return [value.decode() for value in values] if self.are_strings else values

    def value(self, row: int) -> int | str:
        """Return the id of a row, as given."""
        value = self.ids[row]
        return value.decode() if self.are_strings else int(value)


def codes_of(values: pl.Series) -> tuple[np.ndarray, list[str]]:
    """Code `values` (n,) int32 by order of first occurrence, -1 for null. Returns codes and the distinct values as strings.

    Appending rows to a table does not change the codes before them.
    """
    distinct = values.drop_nulls().unique(maintain_order=True)
    rows = values.replace_strict(distinct, pl.int_range(len(distinct), eager=True), default=None, return_dtype=pl.Int32)
    return rows.fill_null(-1).to_numpy(), distinct.cast(pl.String).to_list()


def padded(lists: pl.Series, width: int) -> tuple[np.ndarray, list[str]]:
    """Code the first `width` values of each list (n, width) int32, -1 after the end. Returns codes and names."""
    rows = np.full((len(lists), width), -1, np.int32)
    frame = pl.DataFrame(
        {"row": pl.int_range(len(lists), eager=True), "value": lists.cast(pl.List(pl.String)).list.head(width)}
    )
    flat = frame.filter(pl.col("value").list.len() > 0).explode("value").drop_nulls("value")
    codes, names = codes_of(flat["value"])
    position = flat.select(pl.int_range(pl.len()).over("row")).to_series().to_numpy()
    rows[flat["row"].to_numpy(), position] = codes
    return rows, names


@dataclass(frozen=True)
class Catalogue:
    """One row per video, with the columns that fold and rules read. Names are arrays too, so that a release holds no pickle."""

    video_ids: np.ndarray  # (V,) int64 or bytes
    creator_rows: np.ndarray  # (V,) int32, -1 none
    tag_rows: np.ndarray  # (V, tags) int32, -1 after the last
    upload_ms: np.ndarray  # (V,) float64, nan unknown
    duration_ms: np.ndarray  # (V,) float64, nan unknown
    regions: np.ndarray  # (V,) uint64 bits, 0 is everywhere
    safety: np.ndarray  # (V,) uint8, index in SAFETY
    fingerprints: np.ndarray  # (V,) int64, 0 none
    vectors: np.ndarray  # (V, D) float32, zeros where missing
    creator_names: np.ndarray  # (R,) str
    tag_names: np.ndarray  # (tags,) str
    region_names: np.ndarray  # (regions,) str, bit i of `regions`

    @classmethod
    def of(cls, videos: pl.DataFrame, *, tags_per_video: int, dimension: int) -> "Catalogue":
        """Build from the canonical videos table. Raises ValueError for more than 64 regions."""
        creator_rows, creators = codes_of(videos["creator_id"])
        tag_rows, tags = padded(videos["tags"], tags_per_video)
        region_rows, regions = padded(videos["regions"], 65)  # one more than allowed, to detect too many
        if len(regions) > 64:
            raise ValueError(f"the videos table names {len(regions)} regions, expected at most 64")
        bits = np.where(region_rows >= 0, np.uint64(1) << region_rows.clip(0).astype(np.uint64), np.uint64(0))
        safety = videos["safety"].fill_null("safe").replace_strict(SAFETY, range(len(SAFETY)), return_dtype=pl.UInt8)
        vectors = np.zeros((len(videos), dimension), np.float32)
        if dimension and (present := videos["vector"].is_not_null().to_numpy()).any():
            vectors[present] = videos["vector"].drop_nulls().explode().to_numpy().reshape(-1, dimension)
        return cls(
            video_ids=Ids.of(videos["video_id"]).ids,
            creator_rows=creator_rows,
            tag_rows=tag_rows,
            upload_ms=videos["upload_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            duration_ms=videos["duration_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
            regions=np.bitwise_or.reduce(bits, axis=1),
            safety=safety.to_numpy(),
            fingerprints=videos["fingerprint"].fill_null(0).to_numpy(),
            vectors=vectors,
            creator_names=np.array(creators, dtype=np.str_),
            tag_names=np.array(tags, dtype=np.str_),
            region_names=np.array(regions, dtype=np.str_),
        )

    def __len__(self) -> int:
        return len(self.video_ids)

    @cached_property
    def ids(self) -> Ids:
        return Ids(self.video_ids)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the order of the videos, 16 hex digits."""
        kind = f"{self.video_ids.dtype}{self.video_ids.shape}".encode()
        return hashlib.sha256(kind + np.ascontiguousarray(self.video_ids).tobytes()).hexdigest()[:16]

    @property
    def region_bits(self) -> dict[str, int]:
        """Region name > its bit in `regions`."""
        return {str(name): i for i, name in enumerate(self.region_names)}

    def save(self, folder: Path) -> None:
        save_arrays(folder, {field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, folder: Path) -> "Catalogue":
        return cls(**load_arrays(folder))

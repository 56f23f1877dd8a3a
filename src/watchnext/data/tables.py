"""The three canonical tables: names, types and units of what every log is brought into.

Only structure stands here: ids, times, request, policy, outcomes, and the video columns that rules read. Every other column
is a raw feature and is declared in the feature schema. Times are UTC milliseconds; `day` is the log's own calendar date.
An id is a string of at most 64 bytes or an int64, one kind a data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

ID_BYTES = 64
Id = (pl.Int64, pl.String)  # either, one kind a data set

OUTCOMES = ("click", "long_view", "like", "share", "follow", "comment", "hide")


@dataclass(frozen=True)
class Column:
    """One structural column: polars type(s), unit, whether null is legal, and the value that stands in where a log lacks it."""

    types: tuple
    unit: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    required: bool = True
    choices: tuple[str, ...] = field(default=())


IMPRESSIONS: Mapping[str, Column] = {
    "request_id": Column(Id),  # videos of one request were chosen together and never see each other's outcome
    "user_id": Column(Id),
    "video_id": Column(Id),
    "time_ms": Column((pl.Int64,), "ms UTC, of the request", minimum=0),
    "day": Column((pl.Date,)),
    "surface": Column((pl.String,), nullable=True),
    "position": Column((pl.Int16,), "from 0", nullable=True, minimum=0),
    "propensity": Column((pl.Float32,), "probability given those above", nullable=True, minimum=0.0, maximum=1.0),
    "policy": Column((pl.String,), nullable=True),
    "watch_ms": Column((pl.Int64,), "ms", minimum=0),
    "received_ms": Column((pl.Int64,), "ms UTC, when the outcome arrived", nullable=True, minimum=0),
    **{name: Column((pl.Boolean,)) for name in OUTCOMES},
}

USERS: Mapping[str, Column] = {"user_id": Column(Id)}

VIDEOS: Mapping[str, Column] = {
    "video_id": Column(Id),
    "creator_id": Column(Id, nullable=True),
    "upload_ms": Column((pl.Int64,), "ms UTC", nullable=True, minimum=0),
    "duration_ms": Column((pl.Int64,), "ms; null is unknown", nullable=True, minimum=1),
    "tags": Column((pl.List(pl.String),), nullable=True),
    "language": Column((pl.String,), nullable=True),
    "regions": Column((pl.List(pl.String),), "where it may be shown; null or empty is everywhere", nullable=True),
    "safety": Column((pl.String,), nullable=True, choices=("safe", "mature", "unsafe")),  # null counts as safe
    "fingerprint": Column((pl.Int64,), "equal for copies of the same content", nullable=True),
    "vector": Column((pl.List(pl.Float32),), "content vector", nullable=True),
}

TABLES = {"impressions": IMPRESSIONS, "users": USERS, "videos": VIDEOS}


class DataError(ValueError):
    """Data that cannot be read or trusted; the message names the file, the value and what was expected."""


@dataclass(frozen=True)
class Tables:
    """The canonical tables of a data set. Impressions are sorted by (time_ms, request_id, position, file order)."""

    impressions: pl.DataFrame
    users: pl.DataFrame
    videos: pl.DataFrame

    def write(self, folder: Path) -> None:
        """Write `<table>.parquet`, zstd; the same tables give the same bytes."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            getattr(self, name).write_parquet(Path(folder) / f"{name}.parquet", compression="zstd", statistics=False)


def read_parquet(path: Path, *, repair: str) -> pl.DataFrame:
    """Read one Parquet file; a missing or truncated one is named together with the command that mends it."""
    if not Path(path).exists():
        raise DataError(f"{path} is missing; run `{repair}`")
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); it may be truncated: run `{repair}`") from error


def read_tables(root: str | Path, *, repair: str = "git checkout -- data") -> Tables:
    """Read `impressions.parquet`, `users.parquet`, `videos.parquet` from `root`. Raises DataError naming the bad file."""
    frames = {name: read_parquet(Path(root) / f"{name}.parquet", repair=repair) for name in TABLES}
    return Tables(**frames)

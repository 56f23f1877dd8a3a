"""The three canonical tables that every loader produces: column names, types and units.

This module declares only structure: ids, times, request, policy, outcomes, and the video columns that rules read. Every other
column is a raw feature, declared in the feature schema. Times are UTC milliseconds; `day` is the log's own calendar date.
An id is a string of at most 64 bytes or an int64, one type per data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

ID_BYTES = 64
Id = (pl.Int64, pl.String)  # one of them per data set
# One set of bounds for a log, the API and the journal. Sums of such values stay far within 64 bits.
WATCH_MS = 86_400_000  # a day; longer is a broken clock
DURATION_MS = 7 * 86_400_000  # a week; the longest recordings of live streams last days
LATEST_MS = 4_102_444_800_000  # the year 2100
UNITS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6}  # ms in one

OUTCOMES = ("click", "long_view", "like", "share", "follow", "comment", "hide")


@dataclass(frozen=True)
class Column:
    """One structural column: polars types, unit, bounds, null allowed or not; one not `required` is not added where absent."""

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
    "time_ms": Column((pl.Int64,), "ms UTC, of the request", minimum=0, maximum=LATEST_MS),
    "day": Column((pl.Date,)),
    "surface": Column((pl.String,), nullable=True),
    "position": Column((pl.Int16,), "from 0", nullable=True, minimum=0),
    "propensity": Column((pl.Float32,), "probability given those above", nullable=True, minimum=0.0, maximum=1.0),
    "policy": Column((pl.String,), nullable=True),
    "watch_ms": Column((pl.Int64,), "ms", minimum=0, maximum=WATCH_MS),
    "received_ms": Column((pl.Int64,), "ms UTC, when the outcome arrived", nullable=True, minimum=0, maximum=LATEST_MS),
    **{name: Column((pl.Boolean,)) for name in OUTCOMES},
}

USERS: Mapping[str, Column] = {"user_id": Column(Id)}

VIDEOS: Mapping[str, Column] = {
    "video_id": Column(Id),
    "creator_id": Column(Id, nullable=True),
    "upload_ms": Column((pl.Int64,), "ms UTC", nullable=True, minimum=0, maximum=LATEST_MS),
    "duration_ms": Column((pl.Int64,), "ms; null is unknown", nullable=True, minimum=1, maximum=DURATION_MS),
    "tags": Column((pl.List(pl.String),), nullable=True),
    "language": Column((pl.String,), nullable=True),
    "regions": Column((pl.List(pl.String),), "where it may be shown; null or empty is everywhere", nullable=True),
    "safety": Column((pl.String,), nullable=True, choices=("safe", "mature", "unsafe")),  # null counts as safe
    "fingerprint": Column((pl.Int64,), "equal for copies of the same content", nullable=True),
    "vector": Column((pl.List(pl.Float32),), "content vector", nullable=True),
    # For people alone: no model or rule reads these, and no value of theirs rejects a row (features/video_texts.py).
    "title": Column((pl.String,), "cut to 200 characters where it is longer", nullable=True, required=False),
    "thumbnail_url": Column(
        (pl.String,), "http or https, at most 2,000 bytes; others are left out", nullable=True, required=False
    ),
    "url": Column((pl.String,), "http or https, at most 2,000 bytes; others are left out", nullable=True, required=False),
}

TABLES = {"impressions": IMPRESSIONS, "users": USERS, "videos": VIDEOS}


class DataError(ValueError):
    """Data that cannot be read or trusted; the message names the file, the value and the expectation."""


@dataclass(frozen=True)
class Tables:
    """The canonical tables of a data set. Impressions are sorted by (time_ms, request_id, position, file order)."""

    impressions: pl.DataFrame
    users: pl.DataFrame
    videos: pl.DataFrame


def known_at() -> pl.Expr:
    """Return the time when an impression's outcome was known, ms UTC: the received time, else the end of the watch.

    A received time before the request is replaced by the request's time: it would leak the row's own label.
    """
    return pl.max_horizontal("time_ms", pl.coalesce("received_ms", pl.col("time_ms") + pl.col("watch_ms"))).alias("known_at")


def in_order(impressions: pl.DataFrame) -> pl.DataFrame:
    """Sort by (time_ms, request_id, position, file order), using the columns that the log has."""
    keys = [name for name in ("time_ms", "request_id", "position") if name in impressions.columns]
    return impressions.sort(keys, maintain_order=True)

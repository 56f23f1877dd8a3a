"""Figures of a log for the data card: aggregates of the canonical tables.

Every figure is one lazy query with a small result: memory grows with users and videos, not with impressions.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.card.distribution import Distribution
from watchnext.data.splits import SPLITS, TimeSplit
from watchnext.data.tables import OUTCOMES, TABLES, DataError

REPEAT_ROWS = 5_000_000  # impressions, about, in the repeat rate: their pairs are held in memory
MOST_PERCENT = 500  # a watch ratio above 5 counts as 5
HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """The lazy canonical tables of a data set, with the report of the tables stage."""

    name: str
    hash: str
    frames: Mapping[str, pl.LazyFrame]
    rejected: Mapping[str, int]
    filled: Mapping[str, int]

    @classmethod
    def read(cls, folder: Path, *, name: str, repair: str) -> "DataSet":
        """Read `<table>.parquet`, or folders `<table>/`, in `folder`. Raises DataError naming a missing file."""
        if not (folder / "report.json").exists():
            raise DataError(f"{folder / 'report.json'} is missing; run `{repair}`")
        report = json.loads((folder / "report.json").read_text())
        frames = {table: scan(folder, table, repair=repair) for table in TABLES}
        return cls(name=name, hash=report["hash"], frames=frames, rejected=report["rejected"], filled=report["filled"])


def scan(folder: Path, table: str, *, repair: str) -> pl.LazyFrame:
    """Scan a table; Hive's `date=...` gives the column `day` if the files lack it."""
    if (folder / f"{table}.parquet").exists():
        return pl.scan_parquet(folder / f"{table}.parquet")
    if not any((folder / table).glob("**/*.parquet")):
        raise DataError(f"{folder} has neither {table}.parquet nor a folder {table}/ of such files; run `{repair}`")
    frame = pl.scan_parquet(folder / table / "**" / "*.parquet", hive_partitioning=True)
    columns = frame.collect_schema()
    if "date" in columns and "date" not in TABLES[table]:
        return frame.drop("date") if "day" in columns else frame.rename({"date": "day"})
    return frame


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of a log.

    days         day, split (-1 none), impressions, counts of outcomes, watch_ms, unwatched, ascending
    hours        (24,) impressions by local hour
    percent      percent, impressions: watched share of the video in whole percents, ascending; known durations only
    users, videos  key, impressions, train, valid, test; only rows with an impression
    requests     number of requests, counted from the sort order
    repeats      impressions counted, and how many of them repeat a video to a user
    delay        seconds, impressions: whole seconds from request to outcome, ascending
    rows         rows of each table
    """

    days: pl.DataFrame
    hours: np.ndarray
    percent: pl.DataFrame
    users: pl.DataFrame
    videos: pl.DataFrame
    requests: int
    repeats: tuple[int, int]
    delay: pl.DataFrame
    rows: Mapping[str, int]

    @classmethod
    def of(cls, data: DataSet, split: TimeSplit, utc_offset_h: float) -> "Figures":
        impressions = data.frames["impressions"]
        days = by_day(impressions, split)
        users, videos = (by_key(impressions, key, days) for key in ("user_id", "video_id"))
        changes = pl.col("request_id").ne_missing(pl.col("request_id").shift())
        return cls(
            days=days,
            hours=by_hour(impressions, utc_offset_h),
            percent=by_percent(impressions, data.frames["videos"]),
            users=users,
            videos=videos,
            requests=collected(impressions.select(changes.sum())).item(),
            repeats=repeats(impressions, users),
            delay=by_delay(impressions),
            rows={table: collected(frame.select(pl.len())).item() for table, frame in data.frames.items()},
        )

    @property
    def impressions(self) -> int:
        return self.rows["impressions"]

    def distribution(self, table: str) -> Distribution:
        """Return the distribution of impressions over `users` or `videos`."""
        return Distribution(getattr(self, table)["impressions"].to_numpy())

    def rate(self, outcome: str) -> float:
        """Return the rate of an outcome over all impressions; `unwatched` counts as an outcome."""
        return self.days[outcome].sum() / max(self.impressions, 1)

    def cold(self, table: str, split: str) -> float:
        """Return the share of a split's impressions whose user (or video) has no training impression; nan without rows."""
        counts = getattr(self, table)
        unseen, total = counts.filter(pl.col("train") == 0)[split].sum(), counts[split].sum()
        return unseen / total if total else float("nan")


def collected(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def counted(frame: pl.LazyFrame, value: pl.Expr, name: str) -> pl.DataFrame:
    """Return the distinct values, ascending, with the number of `impressions` of each; null is left out."""
    counts = collected(frame.select(value.alias(name)).drop_nulls().group_by(name).agg(pl.len().alias("impressions")))
    return counts.sort(name)


def by_day(impressions: pl.LazyFrame, split: TimeSplit) -> pl.DataFrame:
    unwatched = (pl.col("watch_ms") == 0).sum().alias("unwatched")
    sums = pl.col(*OUTCOMES, "watch_ms").sum()
    sums_by_day = impressions.group_by("day").agg(pl.len().alias("impressions"), sums, unwatched)
    days = collected(sums_by_day).sort("day")
    return days.with_columns(split=pl.Series(split.assign(days["day"])))


def by_key(impressions: pl.LazyFrame, key: str, days: pl.DataFrame) -> pl.DataFrame:
    split = pl.col("day").replace_strict(days["day"], days["split"], return_dtype=pl.Int8)
    counts = [(pl.col("split") == index).sum().alias(name) for index, name in enumerate(SPLITS)]
    grouped = impressions.select(key, split=split).group_by(key).agg(pl.len().alias("impressions"), *counts)
    return collected(grouped).sort(key)


def by_hour(impressions: pl.LazyFrame, utc_offset_h: float) -> np.ndarray:
    local = (pl.col("time_ms") + round(utc_offset_h * HOUR_MS)) // HOUR_MS % 24
    counts = counted(impressions, local, "hour")
    hours = np.zeros(24, np.int64)
    hours[counts["hour"].to_numpy()] = counts["impressions"].to_numpy()
    return hours


def by_percent(impressions: pl.LazyFrame, videos: pl.LazyFrame) -> pl.DataFrame:
    known = impressions.select("video_id", "watch_ms").join(videos.select("video_id", "duration_ms"), on="video_id")
    percent = (100 * pl.col("watch_ms") // pl.col("duration_ms")).clip(upper_bound=MOST_PERCENT)
    return counted(known.drop_nulls("duration_ms"), percent, "percent")


def by_delay(impressions: pl.LazyFrame) -> pl.DataFrame:
    return counted(impressions, (pl.col("received_ms") - pl.col("time_ms")) // 1000, "seconds")


def repeats(impressions: pl.LazyFrame, users: pl.DataFrame) -> tuple[int, int]:
    """Count repeats over every k-th user in order of ids."""
    every = max(1, -(-users["impressions"].sum() // REPEAT_ROWS))
    chosen = users["user_id"].gather_every(every)
    pairs = impressions.filter(pl.col("user_id").is_in(chosen.implode())).group_by("user_id", "video_id").agg(pl.len())
    return collected(pairs.select(pl.col("len").sum(), again=(pl.col("len") - 1).sum())).row(0)

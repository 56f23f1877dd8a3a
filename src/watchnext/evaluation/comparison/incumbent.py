"""Read the slates of an incumbent, another recommender, from its log of canonical impressions. Their outcomes are not read."""

from collections.abc import Set
from datetime import date
from pathlib import Path

import polars as pl

from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.tables import DataError, in_order
from watchnext.evaluation.replay.replay import Given

NEEDED = ("request_id", "user_id", "video_id", "time_ms", "day")


def incumbent_slates(folder: Path, days: Set[date], *, features: Path, most: int) -> Given:
    """Return (viewer, day) > the first `most` distinct videos that the log shows the viewer on that day, in order.

    folder    a log as `data=sample` reads it: `impressions` with `users` and `videos`, of which impressions count alone
    days      calendar days that are read
    features  YAML file of the feature schema

    Raises DataError where the log has no such day, or slates without positions.
    """
    loader = CanonicalTables(root=str(folder), features=str(features), repair="python -m watchnext.data describe")
    by_day, wanted = loader.by_day(), sorted(str(day) for day in days)
    if by_day is None:
        parts = [loader.read().tables.impressions]
    else:
        parts = [loader.read_days([by_day[day]]).rows() for day in wanted if day in by_day]
    given: dict = {}
    for part in parts:
        given |= _slates(part.filter(pl.col("day").is_in(list(days))), folder, most)
    if not given:
        raise DataError(f"{folder} has no impression on {', '.join(wanted)}; expected the incumbent's log of these days")
    return given


def _slates(impressions: pl.DataFrame, folder: Path, most: int) -> dict:
    if lacking := [name for name in NEEDED if name not in impressions.columns]:
        raise DataError(f"{folder}: impressions lack {', '.join(lacking)}; expected the columns of a canonical log")
    several = impressions.filter(pl.len().over("request_id") > 1)
    unplaced = several if "position" not in several.columns else several.filter(pl.col("position").is_null())
    if len(unplaced):
        raise DataError(
            f"{folder}: {len(unplaced):,} impressions of slates have no position, such as those of request "
            f"{unplaced['request_id'][0]!r}; expected the position of each video in its slate, from 0"
        )
    ordered = in_order(impressions).unique(["user_id", "day", "video_id"], keep="first", maintain_order=True)
    slates = ordered.group_by("user_id", "day", maintain_order=True).agg(pl.col("video_id").head(most))
    return {(user, day): videos for user, day, videos in slates.iter_rows()}

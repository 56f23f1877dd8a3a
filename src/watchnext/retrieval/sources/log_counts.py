"""Aggregate a stored log for the sources: training watches per viewer, and outcomes by surface and region."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS
from watchnext.data.storage import StoredTables
from watchnext.data.tables import known_at
from watchnext.features.catalogue import Ids
from watchnext.features.dataset.batches import FeatureSet
from watchnext.kernels import kernel
from watchnext.retrieval.sources.graph import Histories
from watchnext.retrieval.sources.trending import Trending, TrendingCounts
from watchnext.types import TARGETS

CHUNK = 1_000_000  # impressions read at a time


def training_watches(features: FeatureSet, *, least: str) -> Histories:
    """Collect each viewer's training watches in log order: all watches if `least` is "watch", long views if it is "long_view".
    Reads in chunks and keeps four bytes per watch in memory."""
    column = TARGETS.index({"watch": "watch_s", "long_view": "long_view"}[least])
    counts = np.zeros(len(features.users["user_codes"]) - 1, np.int64)
    for users, _ in _watched(features, column):
        counts += np.bincount(users, minlength=len(counts))
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows, ends = np.empty(starts[-1], np.int32), starts[:-1].copy()
    for users, videos in _watched(features, column):
        _placed(users, videos, ends, rows)
    return Histories(rows, starts, len(features.catalogue))


def _watched(features: FeatureSet, column: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield user and video rows of training rows with a positive target column, chunk by chunk."""
    columns = features.columns
    for first in range(0, len(columns["split"]), CHUNK):
        part = slice(first, first + CHUNK)
        chosen = (columns["split"][part] == SPLITS.index("train")) & (columns["targets"][part, column] > 0)
        yield columns["user_rows"][part][chosen], columns["video_rows"][part][chosen]


@kernel
def _placed(users, videos, ends, rows):
    """Append each video to its viewer's segment (counting sort), advancing `ends`."""
    for i in range(len(users)):
        rows[ends[users[i]]] = videos[i]
        ends[users[i]] += 1


def counted(
    stored: StoredTables, videos: Ids, *, until_ms: int, count: str, half_life_h: float, segments: int
) -> TrendingCounts:
    """Count impressions with the outcome `count` known before `until_ms`, by surface and viewer region. Keeps the `segments`
    most active regions and pairs. Holds one day in memory."""
    regions, pairs = _most_active(stored, count, until_ms, segments)
    trending = Trending(
        TrendingCounts.nothing(
            regions=regions, segments=pairs, videos=len(videos.ids), landmark_ms=float(until_ms), half_life_h=half_life_h
        )
    )
    for part in _events(stored, count, until_ms):
        part = part.with_columns(row=pl.Series(videos.rows_of(part["video_id"]))).filter(pl.col("row") >= 0)
        places = part.select("surface", "region").unique(maintain_order=True)
        lines = trending.lines(list(places.iter_rows()))
        which = part.join(places.with_row_index("place"), on=["surface", "region"], how="left", maintain_order="left")["place"]
        trending.count(part["row"].to_numpy(), part["known_at"].to_numpy().astype(np.float64), lines[which.to_numpy()])
    return trending.counted()


def _events(stored: StoredTables, count: str, until_ms: int) -> Iterator[pl.DataFrame]:
    """Yield video_id, known_at, surface and region of counted impressions, day by day."""
    region = pl.col("region").cast(pl.String) if "region" in stored.users.columns else pl.lit("").alias("region")
    regions = stored.users.select("user_id", region.fill_null(""))
    for day in stored.days:
        part = stored.impressions([day]).select("user_id", "video_id", count, pl.col("surface").fill_null(""), known_at())
        part = part.filter(pl.col(count) & (pl.col("known_at") < until_ms))
        yield part.join(regions, on="user_id", how="left", maintain_order="left").with_columns(pl.col("region").fill_null(""))


def _most_active(stored: StoredTables, count: str, until_ms: int, most: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the most active regions, and pairs of surface and region, by number of events."""
    counts = [part.group_by("surface", "region").len() for part in _events(stored, count, until_ms)]
    if not counts:
        return [], []
    pairs = pl.concat(counts).group_by("surface", "region").agg(pl.col("len").sum())
    regions = pairs.filter(pl.col("region") != "").group_by("region").agg(pl.col("len").sum())
    regions = regions.sort("len", "region", descending=[True, False])
    pairs = pairs.filter(pl.col("surface") != "").sort("len", "surface", "region", descending=[True, False, False])
    return regions["region"].head(most).to_list(), list(pairs.select("surface", "region").head(most).iter_rows())

"""Loader of VK-LSVD, the largest open short-video log (huggingface.co/datasets/deepvk/VK-LSVD; arXiv 2602.04567).

    interactions/{train,validation,test}/week_XX.parquet         40 billion rows
    subsamples/<name>/{train,validation,test}/week_XX.parquet    the same columns, fewer viewers and videos
    metadata/users_metadata.parquet, items_metadata.parquet, item_embeddings.npz (arrays item_id, embedding)

Rows are in time order without times, so the loader makes times up: week w begins w weeks after WEEK_0, and the rows of a week
are spread evenly. Order and week are real, the hour of the day is not. `train_interactions_rank` is not read: it counts the
whole training period, which is the future of the first rows.

The feed plays automatically, so click and long_view are defined as in KuaiRand for such a feed: watched 7 s, or 18 s, or a
shorter video to its end. dislike is hide, open_comments is comment and click_on_author is follow, both weaker than their
names; bookmark has no matching outcome and is left out.
"""

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.tables import DataError, Tables

WEEK_0 = date(2025, 1, 6)  # nominal: the log is of January to June 2025
WEEK_MS = 7 * 86_400_000
CLICK_S, LONG_VIEW_S = 7, 18
OUTCOME_OF = {"like": "like", "share": "share", "click_on_author": "follow", "open_comments": "comment", "dislike": "hide"}
INTERACTIONS = ("user_id", "item_id", "place", "platform", "agent", "timespent", *OUTCOME_OF)
USERS = ("user_id", "age", "gender", "geo")
ITEMS = ("item_id", "author_id", "duration")
SOURCE = "download it from huggingface.co/datasets/deepvk/VK-LSVD"


class VkLsvd:
    """Reads some weeks; the tables hold only viewers and videos of these weeks.

    subsample   folder below subsamples/, such as ur0.01_ir0.01; null reads all of interactions/
    first_week  inclusive, like last_week, whose null is the last week in the folder
    dimension   number of first components of the content vectors, the most informative ones; 0 leaves vectors out
    """

    def __init__(
        self,
        *,
        root: str | None,
        subsample: str | None,
        first_week: int = 0,
        last_week: int | None = None,
        dimension: int = 64,
    ):
        self.root = root
        self.subsample = subsample
        self.first_week = first_week
        self.last_week = last_week
        self.dimension = dimension

    def read(self) -> Loaded:
        """Read the log. Raises DataError naming a missing folder, file, column or week."""
        weeks = self._weeks()
        metadata = Path(self.root) / "metadata"
        items = _metadata(metadata / "items_metadata.parquet", ITEMS)
        users = _metadata(metadata / "users_metadata.parquet", USERS)
        log = pl.concat([_week(path, week) for week, path in weeks.items()])
        impressions = _impressions(log, items).collect()
        videos = _videos(items, impressions)
        if self.dimension:
            videos = videos.join(
                _vectors(metadata / "item_embeddings.npz", videos["video_id"], self.dimension),
                on="video_id",
                how="left",
                maintain_order="left",
            )
        return Loaded(Tables(impressions, _users(users, impressions), videos), pl.DataFrame(schema=REJECTED))

    def _weeks(self) -> dict[int, Path]:
        """Return the files by week number, ascending."""
        folder = self._folder()
        weeks_in_folder = {int(path.stem.removeprefix("week_")): path for path in folder.glob("*/week_[0-9]*.parquet")}
        last = self.last_week if self.last_week is not None else max(weeks_in_folder, default=0)
        if weeks := {week: weeks_in_folder[week] for week in sorted(weeks_in_folder) if self.first_week <= week <= last}:
            return weeks
        available = (
            f"weeks {min(weeks_in_folder)} to {max(weeks_in_folder)}" if weeks_in_folder else "no file <split>/week_XX.parquet"
        )
        raise DataError(f"VK-LSVD: weeks {self.first_week} to {last} are wanted, {folder} holds {available}; {SOURCE}")

    def _folder(self) -> Path:
        if not self.root:
            raise DataError(f"VK-LSVD: no root is set; {SOURCE} and `export VK_LSVD_ROOT=<its folder>`")
        folder = Path(self.root) / (f"subsamples/{self.subsample}" if self.subsample else "interactions")
        if folder.is_dir():
            return folder
        others = sorted(path.name for path in folder.parent.glob("*")) if self.subsample else []
        raise DataError(
            f"VK-LSVD: {folder} is missing; beside it there is {', '.join(others) or 'nothing'}. Set "
            f"data.loader.subsample to one that is there, or {SOURCE} and `export VK_LSVD_ROOT=<its folder>`"
        )


def _scan(path: Path, columns: tuple[str, ...]) -> pl.LazyFrame:
    if not path.exists():
        raise DataError(f"{path} is missing; {SOURCE}")
    try:
        lazy = pl.scan_parquet(path)
        if lacking := [name for name in columns if name not in lazy.collect_schema()]:
            raise DataError(f"{path} lacks the column {lacking[0]!r}, which the published layout has; {SOURCE}")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); it may be truncated: {SOURCE}") from error
    return lazy.select(columns)


def _metadata(path: Path, columns: tuple[str, ...]) -> pl.LazyFrame:
    """Scan a metadata file with one row per id, the first of `columns`."""
    return _scan(path, columns).select(pl.col(columns).cast(pl.Int64)).unique(columns[0], keep="first")


def _week(path: Path, week: int) -> pl.LazyFrame:
    """Scan one week, with `request_id` in order and made-up times."""
    start_ms = (WEEK_0 - date(1970, 1, 1)).days * 86_400_000 + week * WEEK_MS
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    return _scan(path, INTERACTIONS).with_columns(request_id=week * 2**32 + row, time_ms=start_ms + row * WEEK_MS // pl.len())


def _impressions(log: pl.LazyFrame, items: pl.LazyFrame) -> pl.LazyFrame:
    log = log.with_columns(pl.col("user_id", "item_id", "platform", "agent", "timespent").cast(pl.Int64))
    log = log.join(items, on="item_id", how="left", maintain_order="left")
    duration = pl.when(pl.col("duration") > 0).then("duration")
    return log.select(
        "request_id",
        "user_id",
        "time_ms",
        "platform",
        "agent",
        video_id="item_id",
        day=pl.from_epoch("time_ms", time_unit="ms").dt.date(),
        surface=pl.col("place").cast(pl.String),
        watch_ms=pl.col("timespent") * 1000,
        click=pl.col("timespent") >= pl.min_horizontal(duration, CLICK_S),
        long_view=pl.col("timespent") >= pl.min_horizontal(duration, LONG_VIEW_S),
        **{column: pl.col(source_name).cast(pl.Boolean) for source_name, column in OUTCOME_OF.items()},
    )


def _users(users: pl.LazyFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return the viewers of the log, sorted by id; a viewer outside the metadata gets a row of nulls."""
    present = impressions.lazy().select("user_id").unique()
    return present.join(users, on="user_id", how="left").sort("user_id").collect()


def _videos(items: pl.LazyFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return the videos of the log, sorted by id; a video outside the metadata gets a row of nulls."""
    known = items.select(
        video_id="item_id",
        creator_id="author_id",
        duration_ms=pl.when(pl.col("duration") > 0).then(pl.col("duration") * 1000),
    )
    present = impressions.lazy().select("video_id").unique()
    return present.join(known, on="video_id", how="left").sort("video_id").collect()


def _vectors(path: Path, video_ids: pl.Series, dimension: int) -> pl.DataFrame:
    """Return `video_id` and the first `dimension` components of its content vector; file rows are in any order."""
    if not path.exists():
        raise DataError(f"{path} is missing; {SOURCE}, or leave vectors out: data.loader.dimension=0")
    with np.load(path) as arrays:
        ids, vectors = arrays["item_id"].astype(np.int64), arrays["embedding"]
    wanted = np.isin(ids, video_ids.to_numpy())
    vectors = vectors[wanted, :dimension].astype(np.float32)
    return pl.DataFrame({"video_id": ids[wanted], "vector": pl.Series(vectors).cast(pl.List(pl.Float32))}).unique("video_id")

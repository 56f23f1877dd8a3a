"""Loader of the published KuaiRand-Pure and KuaiRand-27K layouts (Gao et al., CIKM 2022; zenodo.org/records/10439422).

Both have the same columns, but different file names and ids. 27K has 322 million rows, each log in two parts; all rows are
held in memory. `video_features_statistic_*.csv` is not read: it aggregates over the whole period, test days included.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.tables import DataError, Tables, in_order


@dataclass(frozen=True)
class Edition:
    """The file names of one published version. The first of repeated rows is kept, so the standard logs come first."""

    name: str
    logs: tuple[str, ...]
    users: str
    videos: str


PURE = Edition(
    "KuaiRand-Pure",
    ("log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv", "log_random_4_22_to_5_08_pure.csv"),
    "user_features_pure.csv",
    "video_features_basic_pure.csv",
)
FULL = Edition(
    "KuaiRand-27K",
    (
        "log_standard_4_08_to_4_21_27k_part1.csv",
        "log_standard_4_08_to_4_21_27k_part2.csv",
        "log_standard_4_22_to_5_08_27k_part1.csv",
        "log_standard_4_22_to_5_08_27k_part2.csv",
        "log_random_4_22_to_5_08_27k.csv",
    ),
    "user_features_27k.csv",
    "video_features_basic_27k.csv",
)
EDITIONS = (PURE, FULL)
OUTCOME_OF = {
    "is_click": "click",
    "long_view": "long_view",
    "is_like": "like",
    "is_forward": "share",
    "is_follow": "follow",
    "is_comment": "comment",
    "is_hate": "hide",
}
LOG_COLUMNS = ("user_id", "video_id", "date", "time_ms", *OUTCOME_OF, "play_time_ms", "duration_ms", "is_rand", "tab")
USER_NUMBERS = ("register_days", "follow_user_num", "fans_user_num", "friend_user_num")
USER_CODES = ("is_live_streamer", "is_video_author", *(f"onehot_feat{i}" for i in range(18)))
VIDEO_CATEGORIES = ("video_type", "upload_type")
VIDEO_COLUMNS = (
    *("video_id", "author_id", "upload_dt", "video_duration", "server_width", "server_height", "music_id", "music_type", "tag"),
    *VIDEO_CATEGORIES,
)
EVENT = ("user_id", "video_id", "time_ms")
USER_ID_LIMIT = 2**22  # (user, time) packs into one int64: times stay below 2**41 until the year 2039


class KuaiRand:
    """Reads one edition from `root`, or from its folder `data`; logs that are absent are skipped."""

    def __init__(self, *, root: str | None):
        self.root = root

    def read(self) -> Loaded:
        """Read the log. Raises DataError naming a missing folder, file or column, or two editions in one folder."""
        folder, edition = self._find_edition()
        log, rejected = _first_of_each(_read_logs(folder, edition))
        users = _users(_read(folder / edition.users, ("user_id", "user_active_degree", *USER_NUMBERS, *USER_CODES)), log)
        videos = _videos(_read(folder / edition.videos, VIDEO_COLUMNS), log)
        return Loaded(Tables(in_order(_impressions(log)), users, videos), rejected)

    def _find_edition(self) -> tuple[Path, Edition]:
        if not self.root:
            raise DataError("KuaiRand: no root is set; run `export KUAIRAND_ROOT=<the unpacked KuaiRand-Pure or -27K folder>`")
        editions = list(_editions(Path(self.root))) or list(_editions(Path(self.root) / "data"))
        if len(editions) > 1:
            names = " and of ".join(edition.name for _, edition in editions)
            raise DataError(
                f"KuaiRand: {editions[0][0]} holds logs of {names}, whose ids mean different things; move one to its own folder"
            )
        if not editions:
            logs = ", ".join(name for edition in EDITIONS for name in edition.logs)
            raise DataError(
                f"KuaiRand: {self.root} holds none of {logs}, nor does its folder data/; download an edition from "
                "zenodo.org/records/10439422 and `export KUAIRAND_ROOT=<the unpacked folder>`"
            )
        return editions[0]


def _editions(folder: Path) -> Iterator[tuple[Path, Edition]]:
    for edition in EDITIONS:
        if any((folder / name).exists() for name in edition.logs):
            yield folder, edition


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """Read only `columns` of one CSV."""
    if not path.exists():
        raise DataError(f"{path} is missing; download it again from zenodo.org/records/10439422")
    try:
        lazy = pl.scan_csv(path, infer_schema_length=None)
        if lacking := [name for name in columns if name not in lazy.collect_schema()]:
            raise DataError(f"{path} lacks the column {lacking[0]!r}, which the published layout has; download it again")
        return lazy.select(columns).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); it may be truncated: download it again") from error


def _read_logs(folder: Path, edition: Edition) -> pl.DataFrame:
    """Read all existing logs in file order; each row has its `file` and `row` number."""
    present = [name for name in edition.logs if (folder / name).exists()]
    logs = [_read(folder / name, LOG_COLUMNS).with_row_index("row").with_columns(file=pl.lit(name)) for name in present]
    log = pl.concat(logs)
    if log.height and (highest := log["user_id"].max()) >= USER_ID_LIMIT:
        raise DataError(f"KuaiRand: user_id {highest} is too large, expected below {USER_ID_LIMIT}; is this {edition.name}?")
    return log


def _first_of_each(log: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split off rows that repeat (user, video, time): a duplicate would read the outcome of the first as a feature."""
    first = log.select(pl.struct(EVENT).is_first_distinct()).to_series()
    repeats = log.filter(~first)
    rows = [
        ("impressions", row, "duplicate", f"{file}: user_id={user} video_id={video} time_ms={time}")
        for row, file, user, video, time in repeats.select("row", "file", *EVENT).iter_rows()
    ]
    return log.filter(first), pl.DataFrame(rows, schema=REJECTED, orient="row")


def _impressions(log: pl.DataFrame) -> pl.DataFrame:
    random = (pl.col("is_rand") == 1) | pl.col("file").str.starts_with("log_random")
    return log.select(
        # Videos that share viewer, time and tab were shown together; the ids stay below 2^62.
        request_id=pl.col("tab").cast(pl.Int64).fill_null(31) * 2**57 + pl.col("user_id") * 2**41 + pl.col("time_ms"),
        user_id="user_id",
        video_id="video_id",
        time_ms="time_ms",
        day=pl.col("date").cast(pl.String).str.to_date("%Y%m%d"),
        surface=pl.col("tab").cast(pl.String),
        policy=pl.when(random).then(pl.lit("random")).otherwise(pl.lit("standard")),
        watch_ms="play_time_ms",
        **{column: pl.col(source_name) == 1 for source_name, column in OUTCOME_OF.items()},
    )


def _users(features: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return the raw user features; a viewer outside the file gets a row of nulls."""
    codes = pl.col(USER_CODES).cast(pl.Int64)
    known = features.select(
        "user_id",
        "user_active_degree",
        pl.col(USER_NUMBERS).cast(pl.Int64),
        pl.when(codes >= 0).then(codes).name.keep(),  # -124 is the file's mark for unknown
    )
    return _with_every("user_id", known, log)


def _videos(features: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return the raw video features; a video outside the file gets nulls, and its duration if logged."""
    duration = pl.col("video_duration").cast(pl.Int64)
    aspect = (pl.col("server_width") / pl.col("server_height")).cast(pl.Float32)
    known = features.select(
        video_id="video_id",
        creator_id="author_id",
        upload_ms=pl.col("upload_dt")
        .str.to_datetime("%Y-%m-%d", time_unit="ms")
        .dt.replace_time_zone("Asia/Shanghai")
        .dt.epoch("ms"),
        known_ms=pl.when(duration > 0).then(duration),
        tags=_tags(pl.col("tag").cast(pl.String)),
        aspect=pl.when(aspect.is_finite()).then(aspect),
        music_id=pl.col("music_id").cast(pl.Int64),
        music_type=pl.col("music_type").cast(pl.Int64),
        **{name: name for name in VIDEO_CATEGORIES},
    )
    logged = log.filter(pl.col("duration_ms") > 0).group_by("video_id").agg(logged_ms=pl.col("duration_ms").max())
    every = _with_every("video_id", known, log).join(logged, on="video_id", how="left", maintain_order="left")
    return every.with_columns(duration_ms=pl.coalesce("known_ms", "logged_ms")).drop("known_ms", "logged_ms")


def _tags(raw: pl.Expr) -> pl.Expr:
    """Split comma-separated ids; empty parts are dropped, and a list without tags is null."""
    tags = raw.str.split(",").list.eval(pl.element().str.strip_chars().replace("", None).drop_nulls())
    return pl.when(tags.list.len() > 0).then(tags)


def _with_every(key: str, known: pl.DataFrame, log: pl.DataFrame) -> pl.DataFrame:
    """Return the first row of `known` per id plus a row of nulls per further id of the log, sorted by id."""
    missing = log.select(key).unique().join(known, on=key, how="anti")
    return pl.concat([known.unique(key, keep="first"), missing], how="diagonal").sort(key)

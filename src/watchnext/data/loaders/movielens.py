"""Loader of the MovieLens layouts 1M and 32M (Harper & Konstan, TiiS 2015; grouplens.org/datasets/movielens).

A rating is read as a watch: watch ratio = rating / 5 of a nominal duration, click always, long_view from 4 stars, like at 5.
It is known at its time (`received_ms`), whatever the nominal watch time. Each rating is a separate request: films rated in the
same second do not see each other. Unrated films are not impressions, so there are no skips.
"""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.tables import DataError, Tables, in_order

RATINGS = {"user_id": pl.Int64, "video_id": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
USERS = {"user_id": pl.Int64, "gender": pl.String, "age_group": pl.Int64, "occupation": pl.Int64, "zip": pl.String}
MOVIES = {"video_id": pl.Int64, "title": pl.String, "genres": pl.String}
CSV_COLUMNS = {"ratings": ("userId", "movieId", "rating", "timestamp"), "movies": ("movieId", "title", "genres")}
STARS = 5
NO_GENRES = "(no genres listed)"


@dataclass(frozen=True)
class Parsed:
    """One file: its rows with their number `row`, and the unreadable rows (as in REJECTED)."""

    rows: pl.DataFrame
    rejected: pl.DataFrame


class MovieLens:
    """`root` holds ratings.dat, movies.dat, users.dat (1M) or ratings.csv, movies.csv (32M, which has no users).

    nominal_duration_ms  assumed duration of every film, which turns a rating into a watch time
    """

    def __init__(self, *, root: str | None, nominal_duration_ms: int = 100_000):
        if nominal_duration_ms < STARS:
            raise DataError(f"MovieLens: nominal_duration_ms is {nominal_duration_ms}, expected at least {STARS}")
        self.root = root
        self.nominal_duration_ms = nominal_duration_ms

    def read(self) -> Loaded:
        """Read the log. Raises DataError naming a missing folder or file, or a wrong layout."""
        ratings, movies, users = self._files()
        impressions = in_order(self._impressions(ratings.rows))
        rejected = pl.concat([ratings.rejected, movies.rejected, users.rejected])
        return Loaded(Tables(impressions, _users(users.rows, impressions), self._videos(movies.rows, impressions)), rejected)

    def _files(self) -> tuple[Parsed, Parsed, Parsed]:
        if not self.root:
            raise DataError("MovieLens: no root is set; run `export MOVIELENS_ROOT=<the unpacked ml-1m or ml-32m folder>`")
        root = Path(self.root)
        if (root / "ratings.dat").exists():
            return _dat(root / "ratings.dat", RATINGS), _dat(root / "movies.dat", MOVIES), _dat(root / "users.dat", USERS)
        if (root / "ratings.csv").exists():
            no_users = Parsed(pl.DataFrame(schema=USERS), pl.DataFrame(schema=REJECTED))
            return _csv(root / "ratings.csv", RATINGS), _csv(root / "movies.csv", MOVIES), no_users
        raise DataError(
            f"MovieLens: {root} holds neither ratings.dat (1M) nor ratings.csv (32M); download one from "
            "grouplens.org/datasets/movielens and `export MOVIELENS_ROOT=<the unpacked folder>`"
        )

    def _impressions(self, ratings: pl.DataFrame) -> pl.DataFrame:
        rating, time_ms = pl.col("rating"), pl.col("timestamp") * 1000
        return ratings.select(
            request_id=pl.col("row").cast(pl.Int64),
            user_id="user_id",
            video_id="video_id",
            time_ms=time_ms,
            day=pl.from_epoch("timestamp", time_unit="s").dt.date(),
            watch_ms=(rating / STARS * self.nominal_duration_ms).round().cast(pl.Int64),
            received_ms=time_ms,
            click=pl.lit(True),
            long_view=rating >= 4,
            like=rating == STARS,
        )

    def _videos(self, movies: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
        """Return every listed or rated film, sorted by id; genres are its tags."""
        known = movies.unique("video_id", keep="first").select(
            "video_id",
            tags=pl.when(pl.col("genres") != NO_GENRES).then(pl.col("genres").str.split("|")),
            release_year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int64),
        )
        rated = impressions.select("video_id").unique()
        every = known.join(rated, on="video_id", how="full", coalesce=True).sort("video_id")
        return every.with_columns(duration_ms=pl.lit(self.nominal_duration_ms, pl.Int64))


def _users(users: pl.DataFrame, impressions: pl.DataFrame) -> pl.DataFrame:
    """Return every listed or rating user, sorted by id."""
    known = users.unique("user_id", keep="first").select("user_id", "gender", "age_group", "occupation")
    return known.join(impressions.select("user_id").unique(), on="user_id", how="full", coalesce=True).sort("user_id")


def _dat(path: Path, columns: dict) -> Parsed:
    """Read lines `a::b::c` in Latin-1, split at line feeds only: Latin-1 has other bytes that count as line ends."""
    _require(path)
    lines = pl.Series("line", path.read_bytes().decode("latin-1").split("\n")).str.strip_chars_end("\r")
    frame = lines.to_frame().with_row_index("row").filter(pl.col("line") != "")
    words = frame.with_columns(words=pl.col("line").str.split("::"))
    fields = [
        pl.col("words").list.get(i, null_on_oob=True).cast(kind, strict=False).alias(name)
        for i, (name, kind) in enumerate(columns.items())
    ]
    right = (pl.col("words").list.len() == len(columns)) & pl.all_horizontal(pl.col(columns).is_not_null())
    parsed = words.with_columns(fields).with_columns(right=right)
    return Parsed(parsed.filter("right").select("row", *columns), _refused(path, parsed.filter(~pl.col("right"))))


def _refused(path: Path, lines: pl.DataFrame) -> pl.DataFrame:
    table = {"ratings": "impressions", "movies": "videos", "users": "users"}[path.stem]
    rows = [
        (table, row, "malformed line", f"{path.name} line {row + 1}: {line}")
        for row, line in lines.select("row", "line").iter_rows()
    ]
    return pl.DataFrame(rows, schema=REJECTED, orient="row")


def _csv(path: Path, columns: dict) -> Parsed:
    _require(path)
    source_names = CSV_COLUMNS[path.stem]
    try:
        lazy = pl.scan_csv(path, schema_overrides=dict(zip(source_names, columns.values(), strict=True)))
        if lacking := [name for name in source_names if name not in lazy.collect_schema()]:
            raise DataError(
                f"{path} lacks the column {lacking[0]!r}, expected {','.join(source_names)}; is this MovieLens 32M?"
            )
        rows = lazy.select(pl.col(name).alias(column) for name, column in zip(source_names, columns, strict=True)).collect()
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read as CSV ({error}); it may be truncated: download it again") from error
    return Parsed(rows.with_row_index("row"), pl.DataFrame(schema=REJECTED))


def _require(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path} is missing; unpack the archive from grouplens.org/datasets/movielens again")

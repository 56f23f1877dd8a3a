"""Loader of sequence files in the format of sequential-recommendation papers: lines `user item item ...`, in time order.

The layout has no times, so the loader makes them up: a viewer's items lie one day apart, counted back from LAST_DAY, so a
split of one validation day and one test day is the papers' leave-one-out protocol (last item tests, the one before
validates). Within a day viewers are in file order. Clock features, gaps and half-lives are meaningless here. Every item
counts as watched to its nominal end: without skips, the file can train retrieval but no ranker.
"""

from datetime import date
from pathlib import Path

import polars as pl

from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.tables import DataError, Tables, in_order

LAST_DAY = date(2020, 1, 1)
DAY_MS = 86_400_000
REPAIR = "run `export SEQUENCES_FILE=<a file whose lines are user item item ...>`"


class Sequences:
    """Reads a sequence file. Ids are int64 if all ids of the file are plain whole numbers, else strings.

    nominal_duration_ms  assumed duration and watch time of every item
    """

    def __init__(self, *, path: str | None, nominal_duration_ms: int = 30_000):
        if nominal_duration_ms < 1:
            raise DataError(f"sequences: nominal_duration_ms is {nominal_duration_ms}, expected at least 1")
        self.path = path
        self.nominal_duration_ms = nominal_duration_ms

    def read(self) -> Loaded:
        """Read the file, rejecting lines without an item and second lines of a viewer. Raises DataError if no line is left."""
        lines = _lines(self._text())
        good, bad = lines.filter(pl.col("reason").is_null()), lines.filter(pl.col("reason").is_not_null())
        rejected = pl.DataFrame(
            [
                ("impressions", row, reason, f"{Path(self.path).name} line {row + 1}: {line[:80]}")
                for row, reason, line in bad.select("row", "reason", "line").iter_rows()
            ],
            schema=REJECTED,
            orient="row",
        )
        if good.is_empty():
            first = f"; the first of its lines is refused: {rejected['value'][0]}" if rejected.height else ""
            raise DataError(f"sequences: {self.path} holds no line `user item item ...`{first}")
        return Loaded(self._tables(_events(good, lines.height)), rejected)

    def _text(self) -> str:
        if not self.path:
            raise DataError(f"sequences: no path is set; {REPAIR}")
        if not Path(self.path).is_file():
            raise DataError(f"sequences: {self.path} is not a file; {REPAIR}")
        try:
            return Path(self.path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"sequences: {self.path} is not UTF-8 ({error}); convert it with `iconv -t utf-8`") from error

    def _tables(self, events: pl.DataFrame) -> Tables:
        impressions = events.select(
            pl.int_range(pl.len()).alias("request_id"),
            "user_id",
            "video_id",
            "time_ms",
            day=pl.from_epoch("time_ms", time_unit="ms").dt.date(),
            watch_ms=pl.lit(self.nominal_duration_ms, pl.Int64),
            click=pl.lit(True),
            long_view=pl.lit(True),
        )
        users = events.select("user_id").unique().sort("user_id")
        videos = events.select("video_id").unique().sort("video_id")
        return Tables(in_order(impressions), users, videos.with_columns(duration_ms=pl.lit(self.nominal_duration_ms, pl.Int64)))


def _lines(text: str) -> pl.DataFrame:
    """Return every line with its `row`, `words`, and the `reason` of its rejection or null. A final line feed is no line."""
    lines = pl.Series("line", text.removesuffix("\n").split("\n") if text else [], dtype=pl.String)
    frame = lines.to_frame().with_row_index("row").with_columns(words=pl.col("line").str.extract_all(r"\S+"))
    count, user = pl.col("words").list.len(), pl.col("words").list.first()
    return frame.with_columns(
        reason=pl.when(count == 0)
        .then(pl.lit("empty line"))
        .when(count == 1)
        .then(pl.lit("line without an item"))
        .when(~user.is_first_distinct())
        .then(pl.lit("second line of a viewer"))
    )


def _events(lines: pl.DataFrame, height: int) -> pl.DataFrame:
    """Return one row per item: `user_id`, `video_id`, `time_ms`."""
    last_ms = (LAST_DAY - date(1970, 1, 1)).days * DAY_MS
    events = lines.select(
        user_id=pl.col("words").list.first(),
        video_id=pl.col("words").list.slice(1),
        # Spread over the day's first half: a watch beyond midnight would reach into the test day.
        time_ms=last_ms + pl.col("row").cast(pl.Int64) * (DAY_MS // 2) // height,
        days_before=pl.int_ranges(pl.col("words").list.len().cast(pl.Int64) - 2, -1, -1),
    ).explode("video_id", "days_before")
    events = events.with_columns(pl.col("time_ms") - pl.col("days_before") * DAY_MS).drop("days_before")
    return events.with_columns(_ids(events["user_id"]), _ids(events["video_id"]))


def _ids(words: pl.Series) -> pl.Series:
    """Convert to int64 if that loses nothing ("007" would become 7), else return the words unchanged."""
    numbers = words.cast(pl.Int64, strict=False)
    return numbers if numbers.cast(pl.String).eq_missing(words).all() else words

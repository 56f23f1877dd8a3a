"""Add served days to a log in daily Parquet files: each day whole, once, and only where its rows pass the checks.

Its videos take all metadata that was posted or changed since: what the API learns of a video, the next release knows. Viewers
of an added day join its users, where the schema lets all that is not known of them be null.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from watchnext.data.check.log_checks import check_log
from watchnext.data.loaders.canonical import CanonicalTables, read_sources
from watchnext.data.loaders.folder_names import DAYS
from watchnext.data.structure import expected_columns
from watchnext.data.tables import IMPRESSIONS, DataError
from watchnext.files import replaced, synced
from watchnext.lifecycle.loop.log_entities import with_metadata
from watchnext.lifecycle.loop.served_days import Heard, impressions_of_day, served_days, typed_id
from watchnext.schema import FeatureSchema

NAME = "served.parquet"  # the file of a day that the loop wrote
LEAST_ANSWERED = 0.05  # share of a day's requests with an outcome; below it, outcomes are taken for lost
MOST_REJECTED = 0.1  # share of a day's rows that may fail a check


@dataclass(frozen=True)
class AddedDays:
    """The fate of the served days.

    added     day > impressions
    withheld  day > why it is not in the log; it is tried again by the next pass
    left_out  reason > impressions that are in no day of the log
    videos    number of videos that were added to the catalogue of the log
    changed   number of its videos that have other metadata now
    users     number of viewers that were added to it
    """

    added: Mapping[str, int]
    withheld: Mapping[str, str]
    left_out: Mapping[str, int]
    videos: int
    changed: int
    users: int


class DailyLog:
    """A log of `CanonicalTables` with impressions in daily Parquet folders, to which days are added."""

    def __init__(self, loader: object, schema: FeatureSchema, *, work: Path) -> None:
        """`work` is a folder for files of the moment. Raises DataError for another layout."""
        if not isinstance(loader, CanonicalTables):
            raise DataError(
                f"the log is read by {type(loader).__name__}, expected CanonicalTables, to which served days can be added; "
                "write the log in the three tables of `python -m watchnext.data describe`"
            )
        self._root, self._schema, self._work = loader.root, schema, work
        self._has_log = any(self._root.glob("impressions*"))
        days = loader.by_day() if self._has_log else {}
        last = list(days.values())[-1].files[-1] if days else None
        self._key = last.parent.name.partition("=")[0] if last else "date"
        if days is None or self._key not in DAYS:
            raise DataError(
                f"{self._root / 'impressions'} is not in daily Parquet folders, expected date=2025-03-10/part-0.parquet and so "
                "on; write it so, so that served days can be added to it"
            )
        self.days = {day: files.files for day, files in days.items()}
        self._types = pl.read_parquet_schema(last) if last else {}

    def add(self, served: Path, heard: Heard, *, until_ms: int, utc_offset_h: float) -> AddedDays:
        """Add every whole served day before `until_ms` that the log lacks."""
        added, withheld, left_out, viewers = {}, {}, {}, 0
        videos, changed = self._take_metadata(heard.posted)
        context = [name for name in expected_columns("impressions", self._schema) if name not in IMPRESSIONS]
        for day in served_days(served, heard, until_ms=until_ms, utc_offset_h=utc_offset_h):
            if day.isoformat() in self.days:
                continue
            shown = impressions_of_day(served, heard, day, utc_offset_h=utc_offset_h, context=context)
            rows = self._typed(shown)
            new = self._new_viewers(rows)
            rows, lacking = self._known(rows, new)
            for reason, count in lacking.items():
                left_out[reason] = left_out.get(reason, 0) + count
            if not len(rows):
                continue
            if reason := unanswered(rows) or self._faults(rows, new, day):
                withheld[day.isoformat()] = reason
                continue
            self._take_viewers(new)  # first: a day whose viewers are not listed would lose its rows
            viewers += len(new)
            self._write(rows, day)
            added[day.isoformat()] = len(rows)
        left_out = {reason: count for reason, count in left_out.items() if count}
        return AddedDays(added, withheld, left_out, videos, changed, viewers)

    def rows_after(self, time_ms: int, day: str = "") -> tuple[int, int, int]:
        """Return impressions, their watch time in seconds and their days, of the log from `time_ms` on and after `day`."""
        impressions, watch_ms, days = 0, 0, 0
        for later_day, files in reversed(self.days.items()):
            if later_day <= day:
                break
            frame = pl.concat([pl.read_parquet(file, columns=["time_ms", "watch_ms"]) for file in files])
            later = frame.filter(pl.col("time_ms") >= time_ms)
            if not len(later):
                break
            impressions, watch_ms, days = impressions + len(later), watch_ms + int(later["watch_ms"].sum()), days + 1
        return impressions, watch_ms // 1000, days

    def _path(self, table: str) -> Path:
        """Return the file of users or videos that may be replaced. Raises DataError where it is no single Parquet file."""
        path = self._root / f"{table}.parquet"
        if not path.is_file():
            raise DataError(f"{path} is missing, expected one Parquet file, so that what was posted can be added to it")
        return path

    def _typed(self, shown: pl.DataFrame) -> pl.DataFrame:
        users = pl.read_parquet_schema(self._path("users"))
        types = {
            "user_id": users["user_id"],
            "video_id": pl.read_parquet_schema(self._path("videos"))["video_id"],
            "request_id": self._types.get("request_id", pl.String),
        }
        ids = [typed_id(pl.col(name), types[name], hashed=name == "request_id").alias(name) for name in types]
        return shown.with_columns(ids)

    def _new_viewers(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return viewers that the log does not list, a row each; none where the schema needs more of a viewer than an id."""
        listed = pl.read_parquet(self._path("users"), columns=["user_id"])
        if self._needed:
            return listed.clear()
        viewers = rows.select("user_id").drop_nulls().unique(maintain_order=True)
        return viewers.join(listed, on="user_id", how="anti", maintain_order="left")

    @property
    def _needed(self) -> list[str]:
        """Columns of users that may not be null."""
        users = expected_columns("users", self._schema)
        return [name for name, column in users.items() if name != "user_id" and not column.nullable]

    def _known(self, rows: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
        """Drop impressions of videos that the log does not list, and of viewers who are neither listed nor `new`; return
        reason > number of them."""
        lacking, needs = {}, f", and may not be added without {', '.join(self._needed)}" if self._needed else ""
        for table, key, added, why in (("users", "user_id", new, needs), ("videos", "video_id", None, "")):
            ids = pl.read_parquet(self._path(table), columns=[key])
            ids = (ids if added is None else pl.concat([ids, added]))[key]
            known = rows[key].is_in(ids.implode()).fill_null(False)
            lacking[f"{key} is not in {table}.parquet{why}"] = int((~known).sum())
            rows = rows.filter(known)
        return rows, lacking

    def _with(self, new: pl.DataFrame) -> pl.DataFrame:
        """Return the users of the log, and new viewers with nulls for everything else."""
        return pl.concat([pl.read_parquet(self._path("users")), new], how="diagonal")

    def _take_viewers(self, new: pl.DataFrame) -> None:
        if len(new):
            replaced(self._path("users"), partial(self._with(new).write_parquet, compression="zstd"))

    def _faults(self, rows: pl.DataFrame, new: pl.DataFrame, day: date) -> str:
        """Check a day beside the videos and users of the log, and new viewers; return what is wrong with it, "" for nothing."""
        with TemporaryDirectory(prefix="checked-", dir=self._work) as folder:
            aside = Path(folder)
            self._with(new).write_parquet(aside / "users.parquet")
            (aside / "videos.parquet").symlink_to(self._path("videos").resolve())
            (aside / "impressions").mkdir()
            rows.write_parquet(aside / "impressions" / f"{day}.parquet")
            findings = check_log(read_sources(aside, self._schema, repair="python -m watchnext.data check"), self._schema)
        of_day = [each for each in findings if each.table == "impressions" and each.kind != "suspicious"]
        whole = [each for each in of_day if each.count is None]
        failed = sum(each.count or 0 for each in of_day)
        if whole or failed > MOST_REJECTED * len(rows):
            return "; ".join(each.message for each in whole or of_day)
        return ""

    def _write(self, rows: pl.DataFrame, day: date) -> None:
        folder = self._root / "impressions" / f"{self._key}={day}"
        folder.mkdir(parents=True, exist_ok=True)
        if self._types:  # the columns that other days have, in their order
            rows = rows.select(pl.col(name).cast(kind) for name, kind in self._types.items() if name in rows.columns)
        replaced(folder / NAME, partial(rows.write_parquet, compression="zstd"))
        for each in (folder.parent, self._root):
            synced(each)
        self.days[day.isoformat()] = (folder / NAME,)

    def _take_metadata(self, posted: Mapping[int | str, Mapping]) -> tuple[int, int]:
        """Add posted videos to the catalogue of the log, and change what was changed; return the numbers of both."""
        if not posted:
            return 0, 0
        path = self._path("videos")
        videos, added, changed = with_metadata(pl.read_parquet(path), posted, expected_columns("videos", self._schema))
        if added or changed:
            replaced(path, partial(videos.write_parquet, compression="zstd"))
        return added, changed


def unanswered(rows: pl.DataFrame) -> str:
    """Return why a day cannot be learned from: next to none of its requests has an outcome; "" where enough have."""
    answered = rows.group_by("request_id").agg(pl.col("received_ms").is_not_null().any())["received_ms"]
    if len(answered) and answered.mean() >= LEAST_ANSWERED:
        return ""
    return (
        f"{int(answered.sum()):,} of {len(answered):,} requests have an outcome, expected at least {LEAST_ANSWERED:.0%}: every "
        "video would count as not watched; let clients send outcomes to POST /v1/events"
    )

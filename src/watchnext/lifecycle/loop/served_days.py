"""Served log and outcomes > impressions of whole days, as rows of the canonical log."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path

import orjson
import polars as pl

from watchnext.data.tables import IMPRESSIONS, OUTCOMES
from watchnext.serving.funnel.served.served_log import Pending, parts_between
from watchnext.serving.store.tables.journal import Event, is_session
from watchnext.types import AGAIN

DAY_MS, HOUR_MS = 86_400_000, 3_600_000
READ = ("request_id", "release", "mode", "user_id", "as_of_ms", "asked", "candidate_sources", "video_ids", "propensities")
SHOWN = {
    "request_id": pl.String, "user_id": pl.String, "video_id": pl.String, "time_ms": pl.Int64, "surface": pl.String,
    "position": pl.Int16, "propensity": pl.Float32, "policy": pl.String, "context": pl.Object,
}  # fmt: skip
OUTCOME = {"watch_ms": pl.Int64, "received_ms": pl.Int64, **dict.fromkeys(OUTCOMES, pl.Boolean)}


@dataclass
class Heard:
    """Events of a journal: impressions and outcomes as rows, the videos that were posted, and where to read on.

    shown     request_id, user_id, video_id, time_ms, surface
    outcomes  (request_id, video_id) > outcome; the first one counts
    posted    video_id > metadata, of what was posted and then changed, or of what was changed alone
    position  of the first event that was known from `until_ms` on
    """

    shown: list[tuple] = field(default_factory=list)
    outcomes: dict[tuple[str, str], tuple] = field(default_factory=dict)
    posted: dict[int | str, Mapping] = field(default_factory=dict)
    position: int = 0

    @classmethod
    def of(cls, entries: Iterable[tuple[int, Event]], start: int, until_ms: int) -> "Heard":
        """Read positions and events of a journal from the position `start` on."""
        heard, reached = cls(position=start), False
        for position, event in entries:
            reached |= event.known_at >= until_ms
            if not reached:
                heard.position = position + 1
            heard._take(event)
        return heard

    def _take(self, event: Event) -> None:
        if event.kind in ("posted", "changed"):
            before = self.posted.get(event.video_id, {}) if event.kind == "changed" else {}
            features = {**before.get("features", {}), **event.metadata.get("features", {})}
            self.posted[event.video_id] = {**before, **event.metadata, "features": features}
        if not event.request_id or event.kind not in ("shown", "outcome") or is_session(event.user_id):
            return
        key = (event.request_id, str(event.video_id))
        if event.kind == "shown":
            self.shown.append(
                (event.request_id, str(event.user_id), str(event.video_id), event.known_at, event.surface or None)
            )
        else:
            flags = (getattr(event, name) for name in OUTCOMES)
            self.outcomes.setdefault(key, (event.watch_ms, event.known_at, *flags))


def day_start_ms(day: date, utc_offset_h: float) -> int:
    """Return the moment at which a calendar day begins at an offset from UTC, in ms."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000 - utc_offset_h * HOUR_MS)


def day_of(time_ms: int, utc_offset_h: float) -> date:
    return date(1970, 1, 1) + timedelta(days=int((time_ms + utc_offset_h * HOUR_MS) // DAY_MS))


def served_days(folder: Path, heard: Heard, *, until_ms: int, utc_offset_h: float) -> list[date]:
    """Return the whole days before `until_ms` of which anything was served, in order."""
    hours = {path.parent.name.removeprefix("hour=") for path in parts_between(folder, 0, until_ms)}
    times = [datetime.strptime(hour, "%Y%m%d%H").replace(tzinfo=UTC).timestamp() * 1000 for hour in hours]
    times += Pending(folder / "pending.ipc").read()["as_of_ms"].to_list() + [row[3] for row in heard.shown]
    # An hour of an offset of half an hour may touch two days; a day without a row is dropped later.
    days = {day_of(int(time_ms) + part, utc_offset_h) for time_ms in times for part in (0, HOUR_MS - 1)}
    return sorted(day for day in days if day_start_ms(day, utc_offset_h) + DAY_MS <= until_ms)


def impressions_of_day(folder: Path, heard: Heard, day: date, *, utc_offset_h: float, context: Iterable[str]) -> pl.DataFrame:
    """Return what was shown on a day with its outcomes: columns of IMPRESSIONS and `context`, ids as strings.

    An impression without an outcome has a watch of 0 ms and no received time, as in the fold. Sessions without a user and
    slates that nobody saw are left out. The propensity is null in a slate that was not drawn as it was shown: one that was
    stored, or refilled with seen videos.
    """
    start = day_start_ms(day, utc_offset_h)
    end = start + DAY_MS
    logged = [row for row in heard.shown if start <= row[3] < end]
    columns = list(SHOWN)[:5]
    frames = [_answers(folder, start, end, tuple(context)), pl.DataFrame(logged, {n: SHOWN[n] for n in columns}, orient="row")]
    shown = pl.concat(frames, how="diagonal").unique(["request_id", "video_id"], keep="first", maintain_order=True)
    keys = ("request_id", "video_id")
    rows = [(*key, *outcome) for key, outcome in heard.outcomes.items()]
    outcomes = pl.DataFrame(rows, {**dict.fromkeys(keys, pl.String), **OUTCOME}, orient="row")
    joined = shown.join(outcomes, on=keys, how="left", maintain_order="left")
    flags = [pl.col(name).fill_null(False) for name in OUTCOMES]
    joined = joined.with_columns(pl.lit(day).alias("day"), pl.col("watch_ms").fill_null(0), *flags)
    return joined.select(*IMPRESSIONS, *context).sort("time_ms", "request_id", "position", maintain_order=True)


def _answers(folder: Path, start_ms: int, end_ms: int, context: tuple[str, ...]) -> pl.DataFrame:
    """Return the shown videos of all answers of a time, one row each."""
    pending = Pending(folder / "pending.ipc").read().select(READ)
    parts = [pl.read_parquet(p, columns=list(READ), hive_partitioning=False) for p in parts_between(folder, start_ms, end_ms)]
    answers = pl.concat([*parts, pending]).filter(pl.col("as_of_ms").is_between(start_ms, end_ms, closed="left"))
    answers = answers.unique("request_id", keep="first", maintain_order=True)
    asked = [orjson.loads(text) for text in answers["asked"]]
    given = {name: [each.get("context", {}).get(name) for each in asked] for name in context}
    by_viewers = [not is_session(user) for user in answers["user_id"].to_list()]
    seen = [not each.get("mirrored") and each.get("personalised", True) for each in asked]
    answers = answers.with_columns(
        pl.Series("surface", [each.get("surface") for each in asked], dtype=pl.String),
        *(pl.Series(name, values) for name, values in given.items()),
        position=pl.int_ranges(pl.col("video_ids").list.len()).cast(pl.List(pl.Int16)),
        is_drawn=(pl.col("mode") != "precomputed") & (pl.col("candidate_sources").list.max().fill_null(0) < 1 << AGAIN),
        is_shown=pl.Series(by_viewers, dtype=pl.Boolean) & pl.Series(seen, dtype=pl.Boolean),
    ).filter(pl.col("is_shown") & (pl.col("video_ids").list.len() > 0))
    shown = answers.drop("candidate_sources").explode("video_ids", "propensities", "position")
    return shown.select(
        "request_id", "user_id", pl.col("video_ids").alias("video_id"), pl.col("as_of_ms").alias("time_ms"), "surface",
        "position", pl.when("is_drawn").then("propensities").cast(pl.Float32).alias("propensity"),
        pl.col("release").alias("policy"), *context,
    )  # fmt: skip


def typed_id(column: pl.Expr, dtype: pl.DataType, *, hashed: bool = False) -> pl.Expr:
    """Return ids of strings in the type that the log has; `hashed` ones get a number of their own."""
    if dtype == pl.String:
        return column
    return column.map_elements(_number_of, pl.Int64) if hashed else column.cast(dtype, strict=False)


def _number_of(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

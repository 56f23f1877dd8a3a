"""Profile a log in plain text, to compare with known facts about it."""

from collections.abc import Iterator, Mapping
from datetime import timedelta

import polars as pl

from watchnext.data.card.column_summary import FIRST, LAST, number, percent, summarise_columns
from watchnext.data.card.statistics import watch_figures
from watchnext.data.consistency import calendar, evidence_of
from watchnext.data.tables import TABLES
from watchnext.schema import FeatureSchema

MOST = 5  # viewers, videos or days shown
LETTERS = 24
LEGEND = "Values: low / 5% / median / 95% / high of numbers, the most frequent categories, the number of distinct ids."


def profile(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> Iterator[str]:
    """Yield the profile of the valid columns `frames` (`structure.sound_columns`), bounded in length; rows may be invalid."""
    impressions = frames["impressions"]
    if len(impressions):
        yield from _aligned(list(_log(frames, schema)))
    yield f"\n{LEGEND}"
    for table in TABLES:
        frame = frames[table]
        rows = [("column", "type as read", "unit", "missing", "values")]
        for one in summarise_columns(table, frame.lazy(), schema):
            if one.missing < max(len(frame), 1):
                missing = percent(one.missing / max(len(frame), 1)) if one.missing else ""
                rows.append((one.column, one.type, one.unit.partition(";")[0].partition(",")[0], missing, one.values))
        absent = [name for name in frame.columns if len(frame) and frame[name].null_count() == len(frame)]
        yield f"\n{table}: {len(frame):,} rows" + (f"; absent: {', '.join(absent)}" if absent else "")
        if len(frame):
            yield from _aligned(rows)


def _log(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> Iterator[tuple[str, str]]:
    impressions, columns = frames["impressions"], set(frames["impressions"].columns)
    for key, table in (("user_id", "users"), ("video_id", "videos")):
        if key in columns:
            yield table, f"{impressions[key].n_unique():,} with an impression, of {len(frames[table]):,} listed"
    if "time_ms" in columns:
        yield "time", _times(impressions["time_ms"])
    if "day" in columns:
        yield from _days(impressions["day"].drop_nulls())
    if {"time_ms", "day"} <= columns:
        offset_h, part, _ = calendar(evidence_of(frames, schema), 0.0)
        yield "calendar", f"day is the date of time_ms at UTC{offset_h:+g} in {percent(part)} of the rows"
    if {"time_ms", "received_ms"} <= columns and impressions["received_ms"].null_count() < len(impressions):
        delay = (impressions["received_ms"].cast(pl.Float64) - impressions["time_ms"].cast(pl.Float64)) / 1000
        yield (
            "outcomes",
            f"known {_seconds(delay.quantile(0.5))} after the request in the median, {_seconds(delay.quantile(0.95))} in 95%",
        )
    videos = frames["videos"].schema
    if (
        {"video_id", "watch_ms"} <= columns
        and "duration_ms" in videos
        and impressions.schema["video_id"] == videos.get("video_id")
    ):
        watched = watch_figures(impressions, frames["videos"])
        yield "watches", ", ".join(f"{name.removesuffix(' in s')} {_figure(name, value)}" for name, value in watched.items())
    for key, label in (("user_id", "most active"), ("video_id", "most shown")):
        if key in columns:
            yield label, _largest(impressions, key)


def _times(times: pl.Series) -> str:
    """Format the first and last valid time."""
    known = times.filter(times.is_between(FIRST, LAST))
    if known.is_empty():
        return f"{times.min()} to {times.max()}, no ms UTC"
    moments = pl.from_epoch(pl.Series([known.min(), known.max()]), time_unit="ms").dt.strftime("%Y-%m-%d %H:%M")
    return f"{moments[0]} to {moments[1]} UTC"


def _days(days: pl.Series) -> Iterator[tuple[str, str]]:
    counts = days.value_counts().sort("day")
    if counts.is_empty():
        return
    first, last = counts["day"][0], counts["day"][-1]
    span = (last - first).days + 1
    text = f"{len(counts):,} with rows, {first} to {last}"
    if span > len(counts):
        gaps = counts.select(start=pl.col("day").shift(), end=pl.col("day"), gap=pl.col("day").diff().dt.total_days())
        holes = gaps.filter(pl.col("gap") > 1)
        examples = [_hole(start, end) for start, end in holes.head(MOST).select("start", "end").iter_rows()]
        text += f"; without: {', '.join(examples)}{', ...' if len(holes) > MOST else ''}"
    yield "days", text
    rows = counts.sort("count", descending=True, maintain_order=True)
    ends = f"most {rows['count'][0]:,} on {rows['day'][0]}, fewest {rows['count'][-1]:,} on {rows['day'][-1]}"
    yield "rows a day", f"median {counts['count'].median():,.0f}, {ends}"


def _hole(start, end) -> str:
    first, last = start + timedelta(days=1), end - timedelta(days=1)
    return f"{first}" if first == last else f"{first} to {last}"


def _largest(impressions: pl.DataFrame, key: str) -> str:
    counts = impressions[key].value_counts(sort=True).head(MOST)
    return ", ".join(f"{_id(value)} {count:,} ({percent(count / len(impressions))})" for value, count in counts.iter_rows())


def _id(value: object) -> str:
    word = str(value) if len(str(value)) <= LETTERS else f"{str(value)[:LETTERS]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in word)


def _figure(name: str, value: float) -> str:
    return number(value) + " s" if name.endswith(" in s") else number(value) if name.endswith("ratio") else percent(value)


def _seconds(value: float | None) -> str:
    return f"{number(round(value, 1) if abs(value) < 100 else round(value))} s"


def _aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Align columns to the left."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for cells in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

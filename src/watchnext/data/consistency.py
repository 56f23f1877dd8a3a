"""Compare columns of a log with each other: times with their day, watches with durations.

Only this comparison finds a wrong unit, because every single value is a valid number. `evidence_of` counts rows, so the counts
of days add up and an unchanged day is not read again. `contradictions` judges the counts, never a single row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.structure import CLICKS_ALONE, expected_columns
from watchnext.data.tables import LATEST_MS, OUTCOMES, TABLES, UNITS
from watchnext.schema import FeatureSchema

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
YEAR_MS = 365.25 * DAY_MS
NAMES = {"ns": "nanoseconds", "us": "microseconds", "ms": "ms", "s": "seconds", "min": "minutes", "h": "hours"}
REACH = {"time_ms": (2 * DAY_MS, 2 * DAY_MS), "received_ms": (2 * DAY_MS, YEAR_MS)}  # allowed before and after the day
REACH_OF_PAST = (40 * YEAR_MS, 2 * DAY_MS)  # for an upload or a signup; 1970, where seconds read as ms lie, is further back
FIRST_DAY = 631_152_000_000  # 1990: no log is older, and seconds read as ms lie in 1970
MIN_ROWS, MIN_ROWS_OF_QUANTILE = 20, 100  # fewest rows for a share, and for a quantile
FEW, TENTH, HALF, MOST = 0.01, 0.1, 0.5, 0.9  # shares of rows
UNREAD = "unreadable in "  # prefix of a table
NO_LOG = "without log: "  # prefix of the name of a time column without impressions
WATCH_MS_ON = "watch_ms on "  # prefix of a day
MAX_DAY_RATIO = 30  # largest plausible ratio of one day's watches to those of others; beyond it is another unit
BINS_PER_DECADE = 4  # histogram bins per power of ten
Evidence = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Contradiction:
    """A contradiction within a table; `refused` if the whole log cannot be used."""

    table: str
    message: str
    refused: bool


# ---- counting --------------------------------------------------------------------------------------------------------


def evidence_of(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> dict[str, dict[str, int]]:
    """Count evidence on the columns that `frames` have: subject > observation > number of impressions.

    Without impressions it counts videos and users.
    """
    if frames["impressions"].is_empty():
        return _evidence_without_log(frames, schema)
    rows, instants = _joined(frames, schema), _instants(schema)
    columns = set(rows.columns)
    evidence: dict[str, dict[str, int]] = {}
    if "day" in columns:
        counts = {}
        for name, (_, unit) in instants.items():
            if name in columns:
                counts |= {f"{name} {observed}": matches for observed, matches in _instant(name, unit, columns).items()}
        if counts:
            for name, count in (
                rows.select(matches.sum().alias(name) for name, matches in counts.items()).row(0, named=True).items()
            ):
                evidence.setdefault(name.split(" ")[0], {})[name.split(" ")[1]] = int(count)
        evidence["day"] = {
            "rows": rows["day"].len() - rows["day"].null_count(),
            "early": int((rows["day_ms"] < FIRST_DAY).sum()),
        }
        if "time_ms" in columns:
            evidence["clock"] = _histogram(rows, ((pl.col("time_ms") - pl.col("day_ms")) / (HOUR_MS / 2)).clip(-96, 144))
    if "time_ms" in columns:
        whole = rows.select((pl.col("time_ms").cast(pl.Int64, strict=False) % HOUR_MS == 0).sum()).item()
        evidence["whole hours"] = {"rows": len(rows) - rows["time_ms"].null_count(), "whole": int(whole)}
    for name, value in _ratios(columns).items():
        evidence[name] = _histogram(rows, BINS_PER_DECADE * value.log10())
    if {"day", "watch_ms"} <= columns:
        steps = (BINS_PER_DECADE * _ratios({"watch_ms"})["watch_ms"].log10()).floor().cast(pl.Int32, strict=False)
        bins = rows.select("day", bin=steps).drop_nulls().group_by("day", "bin").len().sort("day", "bin")
        for day, step, count in bins.iter_rows():
            evidence.setdefault(f"{WATCH_MS_ON}{day}", {})[str(step)] = count
    evidence["always"] = _always(frames["impressions"])
    return evidence


def _always(impressions: pl.DataFrame) -> dict[str, int]:
    """Count the rows in which each outcome is true, and those without watch time."""
    counts = {name: int(impressions[name].sum()) for name in OUTCOMES if name in impressions.columns}
    if "watch_ms" in impressions.columns:
        counts["watch_ms"] = int((impressions["watch_ms"] == 0).sum())
    return counts | {"rows": len(impressions)}


def unreadable(refused: pl.DataFrame, rows: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Count inconvertible values per table by reason, out of the table's `rows`."""
    counts_by_subject = {f"{UNREAD}{table}": {"rows": count} for table, count in rows.items()}
    for table, reason, count in refused.group_by("table", "reason").len().rows():
        counts_by_subject[f"{UNREAD}{table}"][reason] = count
    return counts_by_subject


def _evidence_without_log(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> dict[str, dict[str, int]]:
    """Count the same without a log, where any time from FIRST_DAY on is plausible."""
    evidence = {}
    for name, (table, unit) in _instants(schema).items():
        if name in frames[table].columns and table != "impressions":
            values = frames[table][name].drop_nulls().cast(pl.Float64)
            fits = {each: values * factor >= FIRST_DAY for each, factor in UNITS.items()}
            fits = {each: fit & (values * UNITS[each] <= LATEST_MS) for each, fit in fits.items()}
            counts = {each: int((fit & ~fits[unit]).sum()) for each, fit in fits.items()}
            evidence[f"{NO_LOG}{name}"] = counts | {unit: int(fits[unit].sum()), "rows": len(values)}
    if "duration_ms" in frames["videos"].columns:
        durations = frames["videos"].select(pl.col("duration_ms").cast(pl.Float64))
        evidence["duration_ms"] = _histogram(durations, BINS_PER_DECADE * _ratios({"duration_ms"})["duration_ms"].log10())
    return evidence


def merged(parts: Iterable[Evidence]) -> dict[str, dict[str, int]]:
    """Add up the evidence of several parts."""
    totals: dict[str, Counter] = {}
    for part in parts:
        for subject, counts in part.items():
            totals.setdefault(subject, Counter()).update(counts)
    return {subject: dict(counts) for subject, counts in totals.items()}


def stands_for_null() -> pl.Expr:
    """Return True for rows whose `time_ms` is 0 while `day` is later than 1990."""
    return (pl.col("time_ms") == 0) & (pl.col("day").cast(pl.Int32).cast(pl.Float64) * DAY_MS >= FIRST_DAY)


def is_in_another_unit() -> pl.Expr:
    """Return True for rows whose `time_ms` is far from `day` in ms, but close in another unit."""
    day_ms = pl.col("day").cast(pl.Int32).cast(pl.Float64) * DAY_MS
    others = [_near("time_ms", factor, day_ms) for factor in UNITS.values() if factor != 1]
    return ~_near("time_ms", 1.0, day_ms) & pl.any_horizontal(others)


def _instants(schema: FeatureSchema) -> dict[str, tuple[str, str]]:
    """Return the time columns, those declared as UTC: name > (table, unit)."""
    instants = {}
    for table in TABLES:
        for one in expected_columns(table, schema).values():
            unit = (one.feature and one.feature.unit) or (one.column and one.column.unit) or ""
            if "UTC" in unit:
                instants[one.name] = (table, unit.split()[0] if unit.split()[0] in UNITS else "ms")
    return instants


def _joined(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> pl.DataFrame:
    """Join impressions with the compared columns of their videos and users; numbers are float64."""
    instants = _instants(schema)
    wanted = {*instants, "watch_ms", "duration_ms"}
    rows = frames["impressions"]
    for table, key in (("videos", "video_id"), ("users", "user_id")):
        other = frames[table]
        names = [name for name in other.columns if name in wanted and name not in rows.columns]
        if names and key in other.columns and key in rows.columns and other.schema[key] == rows.schema[key]:
            rows = rows.join(other.select(key, *names).unique(key, keep="first"), on=key, how="left")
    numbers = [pl.col(name).cast(pl.Float64) for name in rows.columns if name in wanted and rows.schema[name].is_numeric()]
    days = [pl.col("day"), (pl.col("day").cast(pl.Int32).cast(pl.Float64) * DAY_MS).alias("day_ms")]
    return rows.select(*numbers, *(days if "day" in rows.columns else []))


def _near(name: str, factor: float, day_ms: pl.Expr) -> pl.Expr:
    """Return True where the column times `factor` lies close to its day."""
    before, after = REACH.get(name, REACH_OF_PAST)
    return (pl.col(name) * factor).is_between(day_ms - before, day_ms + DAY_MS + after)


def _instant(name: str, unit: str, columns: set[str]) -> dict[str, pl.Expr]:
    day_ms, value = pl.col("day_ms"), pl.col(name) * UNITS[unit]
    right = _near(name, UNITS[unit], day_ms)
    masks = {"rows": (pl.col(name).is_not_null() & pl.col("day").is_not_null()), unit: right}
    for other, factor in UNITS.items():
        if other != unit:
            masks[other] = ~right & _near(name, factor, day_ms)
    masks["early"] = (value < FIRST_DAY) & ~pl.any_horizontal(masks[other] for other in UNITS if other != unit)
    if name != "time_ms" and "time_ms" in columns:
        time_ms, soon = pl.col("time_ms"), value < day_ms + REACH_OF_PAST[0]
        timed = _near("time_ms", 1.0, day_ms) & (value > day_ms - REACH_OF_PAST[0]) & soon
        masks["astray"] = timed & ((value < time_ms) if name == "received_ms" else (value > time_ms + DAY_MS))
    return masks


def _ratios(columns: set[str]) -> dict[str, pl.Expr]:
    """Return the positive quantities whose sizes are judged."""
    watched = pl.when(pl.col("watch_ms") > 0).then(pl.col("watch_ms"))
    lasting = pl.when(pl.col("duration_ms") > 0).then(pl.col("duration_ms"))
    ratios = {}
    if "watch_ms" in columns:
        ratios["watch_ms"] = watched
    if "duration_ms" in columns:
        ratios["duration_ms"] = lasting
    if {"watch_ms", "duration_ms"} <= columns:
        ratios["watch_ms of duration_ms"] = watched / lasting
    if {"watch_ms", "received_ms", "time_ms"} <= columns:
        waited = pl.col("received_ms") - pl.col("time_ms")
        ratios["watch_ms of received_ms - time_ms"] = watched / pl.when(waited.is_between(1, YEAR_MS)).then(waited)
    return ratios


def _histogram(rows: pl.DataFrame, value: pl.Expr) -> dict[str, int]:
    bins = rows.select(bin=value.floor().cast(pl.Int32, strict=False)).to_series().drop_nulls()
    return {str(step): count for step, count in bins.value_counts().sort("bin").iter_rows()}


# ---- judging ---------------------------------------------------------------------------------------------------------


def contradictions(evidence: Evidence, schema: FeatureSchema) -> list[Contradiction]:
    """Return all contradictions, those that refuse the log first."""
    times = list(_day(evidence)) or [*_moments(evidence, schema), *_moments_without_log(evidence, schema)]
    sound = not any(one.refused for one in times)
    sizes = list(_sizes_of_days(evidence)) or list(_sizes(evidence))
    results = [
        *_unread(evidence),
        *times,
        *sizes,
        *(_waits(evidence) if sound else []),
        *_clock(evidence),
        *_constants(evidence),
    ]
    return sorted(results, key=lambda one: not one.refused)


def _day(evidence: Evidence) -> Iterator[Contradiction]:
    counts = evidence.get("day", {"rows": 0})
    if counts["rows"] >= MIN_ROWS and counts["early"] > HALF * counts["rows"]:
        message = (
            f"day lies before 1990 in {_part(counts['early'], counts['rows'])}; were seconds read as ms (factor "
            "1000)? Expected the calendar date of the request"
        )
        yield Contradiction("impressions", message, refused=True)


def _moments(evidence: Evidence, schema: FeatureSchema) -> Iterator[Contradiction]:
    for name, (table, unit) in _instants(schema).items():
        counts = evidence.get(name, {})
        rows = counts.get("rows", 0)
        if rows < MIN_ROWS:
            continue
        other = max((each for each in UNITS if each != unit), key=lambda each: counts[each])
        if counts[other] >= FEW * rows:
            yield Contradiction(table, _unit_of(name, unit, other, counts[other], rows), refused=True)
        elif counts[unit] < (1 - FEW) * rows and name == "time_ms":
            apart = rows - counts[unit]
            message = (
                f"time_ms and day contradict each other: they lie days apart in {_part(apart, rows)}; expected the moment of "
                "the request, and the calendar date of that moment"
            )
            yield Contradiction(table, message, refused=apart > HALF * rows)
        elif FEW * rows <= counts["early"] <= HALF * rows:
            message = f"{name} is before 1990 in {_part(counts['early'], rows)}; does 0 mark unknown times? Expected null"
            yield Contradiction(table, message, refused=False)
        elif counts.get("astray", 0) >= FEW * rows:
            yield _contradicting_moments(table, name, counts["astray"], rows)
        elif counts[unit] < HALF * rows:
            message = f"{name} and day contradict each other: {name} is far from it in {_part(rows - counts[unit], rows)}"
            yield Contradiction(table, f"{message}; expected the moment itself, in {unit} UTC", refused=name == "received_ms")


def _moments_without_log(evidence: Evidence, schema: FeatureSchema) -> Iterator[Contradiction]:
    for name, (table, unit) in _instants(schema).items():
        counts = evidence.get(f"{NO_LOG}{name}", {"rows": 0})
        others = [each for each in UNITS if each != unit]
        if counts["rows"] >= MIN_ROWS and (count := max(counts[each] for each in others)) > HALF * counts["rows"]:
            other = next(each for each in others if counts[each] == count)
            factor = UNITS[other] / UNITS[unit]
            message = (
                f"{name} is not in {unit} UTC in {_part(count, counts['rows'])}; it looks like {NAMES[other]}, factor "
                f"{_factor(factor)}; {_remedy(name, factor)}"
            )
            yield Contradiction(table, message, refused=True)


def _unit_of(name: str, unit: str, other: str, count: int, rows: int) -> str:
    factor = UNITS[other] / UNITS[unit]
    return (
        f"{name} and day contradict each other, factor {_factor(factor)}: {name} holds {NAMES[other]} in {_part(count, rows)}, "
        f"expected {NAMES[unit]} UTC; {_remedy(name, factor)}"
    )


def _contradicting_moments(table: str, name: str, count: int, rows: int) -> Contradiction:
    if name == "received_ms":
        message = "received_ms is before time_ms"
        hint = "expected the moment at which the outcome arrived; leave the column out where that is not known"
    else:
        message = (
            f"{name} is more than a day after the video was shown" if table == "videos" else f"{name} is after the request"
        )
        hint = "is it when the row was last changed? Expected the moment itself; null where it is not known"
    return Contradiction(table, f"{message} in {_part(count, rows)}; {hint}", refused=count > HALF * rows)


def _sizes(evidence: Evidence) -> Iterator[Contradiction]:
    """Compare watches with durations, and both with plausible sizes of a video."""
    watch = evidence.get("watch_ms of duration_ms", {})
    # Almost no watch reaches 2% of its video, or one watch in ten exceeds 30 times its video.
    if _rows(watch) >= MIN_ROWS_OF_QUANTILE and (_quantile(watch, 0.99) < 0.02 or _quantile(watch, 0.9) > 30):
        yield Contradiction("impressions", _of_duration(watch), refused=True)
        return
    many = sum(count for step, count in watch.items() if 2 * BINS_PER_DECADE <= int(step) < 5 * BINS_PER_DECADE)
    if many >= FEW * max(_rows(watch), MIN_ROWS_OF_QUANTILE):
        message = f"watch_ms is more than 100 times the video's duration_ms in {_part(many, _rows(watch))} that watched"
        yield Contradiction("impressions", f"{message}; is duration_ms of some videos in seconds? Expected ms", refused=False)
    for table, name in (("impressions", "watch_ms"), ("videos", "duration_ms")):
        sizes = evidence.get(name, {})
        if _rows(sizes) >= MIN_ROWS_OF_QUANTILE and not 100 <= (middle := _quantile(sizes, 0.5)) <= DAY_MS / 2:
            unit = "s" if middle < 100 else "us"
            message = (
                f"{name} is about {middle:,.3g} ms in the median impression, not plausible for a video; it looks like "
                f"{NAMES[unit]}, factor {_factor(UNITS[unit])}; {_remedy(name, UNITS[unit])}"
            )
            yield Contradiction(table, message, refused=True)


def _sizes_of_days(evidence: Evidence) -> Iterator[Contradiction]:
    """Find days whose watches are in another unit than those of the other days."""
    days = {name.removeprefix(WATCH_MS_ON): counts for name, counts in evidence.items() if name.startswith(WATCH_MS_ON)}
    sizes = {day: _quantile(counts, 0.9) for day, counts in sorted(days.items()) if _rows(counts) >= MIN_ROWS_OF_QUANTILE}
    middle = sorted(sizes.values())[len(sizes) // 2] if sizes else 0.0
    apart = {day: size for day, size in sizes.items() if not 1 / MAX_DAY_RATIO < size / middle < MAX_DAY_RATIO}
    if apart:
        day, size = next(iter(apart.items()))
        more = f" and {len(apart) - 1} more days" if len(apart) > 1 else ""
        message = (
            f"watch_ms contradicts itself, factor {_factor(_nearest(middle / size))}: nine watches in ten are at most about "
            f"{size:,.2g} on {day}{more}, and of {middle:,.2g} on the median day; expected ms on every day"
        )
        yield Contradiction("impressions", message, refused=True)


def _unread(evidence: Evidence) -> Iterator[Contradiction]:
    for table in TABLES:
        counts = evidence.get(f"{UNREAD}{table}", {"rows": 0})
        for reason, count in counts.items():
            if reason != "rows" and counts["rows"] >= MIN_ROWS and count >= TENTH * counts["rows"]:
                message = (
                    f"{reason}, in {_part(count, counts['rows'])}: so many are no slips, and the rest is a part of the "
                    "log alone; write the whole column as `python -m watchnext.data describe` says (whole ms for seconds with "
                    "a fraction), and null for what is not known"
                )
                yield Contradiction(table, message, refused=True)


def _constants(evidence: Evidence) -> Iterator[Contradiction]:
    counts = evidence.get("always", {"rows": 0})
    for name in (*OUTCOMES, "watch_ms"):
        if counts["rows"] >= MIN_ROWS_OF_QUANTILE and counts.get(name) == counts["rows"]:
            message = f"{name} is true in all {counts['rows']:,} rows: does the log lack skipped impressions?"
            if name == "watch_ms":
                message = (
                    f"watch_ms is 0 in all {counts['rows']:,} rows, so nothing counts as watched; was it truncated to hours? "
                    f"If not: {CLICKS_ALONE}"
                )
            yield Contradiction("impressions", message, refused=False)


def _waits(evidence: Evidence) -> Iterator[Contradiction]:
    wait = evidence.get("watch_ms of received_ms - time_ms", {})
    if _rows(wait) >= MIN_ROWS_OF_QUANTILE and (middle := _quantile(wait, 0.5)) > 30:
        message = (
            f"watch_ms and received_ms contradict each other, factor about {middle:,.0f}: half of the watches are at least so "
            "many times longer than the time from time_ms to received_ms; expected ms in all three"
        )
        yield Contradiction("impressions", message, refused=True)


def _of_duration(counts: Mapping[str, int]) -> str:
    """Describe a unit error: the factor is the unit ratio nearest to the 90% quantile of watch to duration."""
    middle = _quantile(counts, 0.9)
    ratio = _nearest(middle)
    factor = _factor(ratio)
    low, high = ("watch_ms", "duration_ms") if ratio < 1 else ("duration_ms", "watch_ms")
    return (
        f"watch_ms and duration_ms contradict each other, factor {factor}: nine watches in ten are at most about "
        f"{middle:.2g} times their video, in {_rows(counts):,} rows; expected ms in both: multiply {low} by {factor}, or "
        f"divide {high} by it"
    )


def _nearest(ratio: float) -> float:
    """Return the factor between two units nearest to `ratio`."""
    factors = [factor for each in UNITS.values() if each != 1 for factor in (each, 1 / each)]
    return min(factors, key=lambda each: abs(np.log(ratio / each)))


def _clock(evidence: Evidence) -> Iterator[Contradiction]:
    """Warn about times that are all whole hours or days."""
    counts = evidence.get("whole hours", {"rows": 0})
    if counts["rows"] < MIN_ROWS or counts["whole"] < (1 - FEW) * counts["rows"]:
        return
    hours = len({int(step) % 48 for step in evidence.get("clock", {})})
    message = "whole days" if 0 < hours <= 2 else "whole hours"  # two if clocks changed
    yield Contradiction(
        "impressions",
        f"all times are {message}: the order within one is not known, and hourly features (half_lives_h, gap_s, hour) mean "
        "nothing; give time_ms as the moment of the request, or declare longer half-lives (state in conf/features)",
        refused=False,
    )


def calendar(evidence: Evidence, utc_offset_h: float) -> tuple[float, float, float]:
    """Find the UTC offset in hours at which `day` most often is the calendar date of `time_ms`.

    Returns this offset, the share of rows that agree with it, and the share that agrees with `utc_offset_h`, which is preferred
    among equals. Shares of no rows are nan.
    """
    bins = {int(step): count for step, count in evidence.get("clock", {}).items()}
    rows = sum(bins.values()) or float("nan")

    def agreeing(offset_h: float) -> float:
        first = -round(2 * offset_h)
        return sum(count for step, count in bins.items() if first <= step < first + 48) / rows

    best = max(np.arange(-12, 14.5, 0.5).tolist(), key=lambda each: (agreeing(each), -abs(each - utc_offset_h)))
    return best, agreeing(best), agreeing(utc_offset_h)


def offset_hint(evidence: Evidence, utc_offset_h: float) -> str | None:
    """Return a hint if `day` is the calendar date at an offset other than `utc_offset_h`, None otherwise."""
    best, agreeing, configured = calendar(evidence, utc_offset_h)
    if _rows(evidence.get("clock", {})) < MIN_ROWS or agreeing < configured + 0.03:
        return None
    if agreeing < MOST:
        return (
            f"day is the date of time_ms at no offset from UTC, at best in {agreeing:.1%} of rows (UTC{best:+g}); expected the "
            "calendar date of the request, not of its arrival or its file"
        )
    return (
        f"day is the date at UTC{best:+g} in {agreeing:.1%} of the rows, at UTC{utc_offset_h:+g} in {configured:.1%}; "
        f"set data.utc_offset_h to {best:g} if that is the log's local time"
    )


def _rows(histogram: Mapping[str, int]) -> int:
    return sum(histogram.values())


def _quantile(histogram: Mapping[str, int], level: float) -> float:
    """Return the middle of the bin that holds the quantile."""
    steps = sorted(map(int, histogram))
    below = np.cumsum([histogram[str(step)] for step in steps])
    return float(10 ** ((steps[int(np.searchsorted(below, level * below[-1]))] + 0.5) / BINS_PER_DECADE))


def _part(count: int, rows: int) -> str:
    return f"{count:,} of {rows:,} rows"


def _factor(factor: float) -> str:
    return f"{max(factor, 1 / factor):.0f}"


def _remedy(name: str, factor: float) -> str:
    return f"{'multiply' if factor >= 1 else 'divide'} {name} by {_factor(factor)}"

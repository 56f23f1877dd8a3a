"""Values in the names of folders, as Hive, Spark and pandas write them: `date=2025-03-10/`, `year=2025/month=3/day=10/`."""

from collections.abc import Container
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from watchnext.data.loaders.conversions import dates
from watchnext.data.tables import DataError

EARLIEST = 1000  # the year 25 is one of two digits
NULL = "__HIVE_DEFAULT_PARTITION__"
DAYS = ("date", "dt", "ds", "day")
CALENDAR = (("year", "yyyy", "y"), ("month", "mm", "m"), ("day", "dd", "d"))


def _pairs(file: Path) -> dict[str, str]:
    """Return key > value of the folders `key=value` above `file`, decoded (`%20` is a blank); the innermost wins."""
    pairs = [folder.name.partition("=") for folder in reversed(file.parents) if "=" in folder.name]
    return {unquote(key): unquote(value) for key, _, value in pairs}


def folder_values(root: Path, file: Path, known: Container[str]) -> dict[str, str | None]:
    """Return column > value from the folders of `file` below `root`, for `known` columns; None for Hive's null.

    `day` is an ISO date. Raises DataError for an invalid day.
    """
    given = _pairs(file.relative_to(root))
    values = {key: value for key, value in given.items() if key in known}
    if "day" in known and (days := _days(given)):
        values["day"] = days[0] if days[0] == NULL else _iso(days[0], file.parent)
        _require_one(values["day"], tuple(days[1:]), file.parent)
    return {key: None if value == NULL else value for key, value in values.items()}


def left_out(root: Path, file: Path, known: Container[str]) -> list[str]:
    """Return the keys of folders that are no column."""
    of_day = {*DAYS, *(key for keys in CALENDAR for key in keys)} if "day" in known else set()
    return [key for key in _pairs(file.relative_to(root)) if key not in known and key.lower() not in of_day]


def _days(given: dict[str, str]) -> list[str]:
    """Return the days as written in the folder names; the first one counts."""
    lower = {key.lower(): value for key, value in given.items()}
    calendar = [next((lower[key] for key in keys if key in lower), None) for keys in CALENDAR]
    if None not in calendar:
        whole = [NULL if NULL in calendar else "-".join(calendar)]
        return whole + [lower[key] for key in DAYS if key in lower and key not in CALENDAR[2]]
    return [lower[key] for key in DAYS if key in lower]


@lru_cache(1 << 14)
def _require_one(day: str, others: tuple[str, ...], folder: Path) -> None:
    """Raise DataError if the folders name a second day, such as the day of the file besides that of the event."""
    for other in others:
        parsed = dates(pl.Series([other])).item()
        if day != NULL and parsed is not None and parsed.isoformat() != day:
            raise DataError(
                f"{folder}: the folder names hold two days, {day} and {other!r}, expected only the day of the requests; rename "
                "the other, such as loaded=2025-03-10"
            )


@lru_cache(1 << 14)  # folders repeat, and parsing one date takes milliseconds
def _iso(day: str, folder: Path) -> str:
    parsed = dates(pl.Series([day])).item()
    if parsed is None or parsed.year < EARLIEST:
        raise DataError(
            f"{folder}: the folder name holds the day {day!r}, expected a date like date=2025-03-10, date=20250310 or "
            "year=2025/month=3/day=10; rename the folder"
        )
    return parsed.isoformat()

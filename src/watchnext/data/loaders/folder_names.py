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
    """Key > value of the folders named `key=value` above `file`, decoded (`%20` is a blank); the innermost wins."""
    found = [folder.name.partition("=") for folder in reversed(file.parents) if "=" in folder.name]
    return {unquote(key): unquote(value) for key, _, value in found}


def folder_values(root: Path, file: Path, known: Container[str]) -> dict[str, str | None]:
    """Column > value of those of `known` that the folders of `file` below `root` name, None for Hive's null; `day` is an ISO
    date. Raises DataError for a day that is none."""
    given = _pairs(file.relative_to(root))
    found = {key: value for key, value in given.items() if key in known}
    if "day" in known and (day := _day(given)) is not None:
        found["day"] = day if day == NULL else _iso(day, file.parent)
    return {key: None if value == NULL else value for key, value in found.items()}


def left_out(root: Path, file: Path, known: Container[str]) -> list[str]:
    """Keys of the folders that are no column."""
    of_day = {*DAYS, *(key for keys in CALENDAR for key in keys)} if "day" in known else set()
    return [key for key in _pairs(file.relative_to(root)) if key not in known and key.lower() not in of_day]


def _day(given: dict[str, str]) -> str | None:
    """What the folders say of the day, as they say it."""
    lower = {key.lower(): value for key, value in given.items()}
    calendar = [next((lower[key] for key in keys if key in lower), None) for keys in CALENDAR]
    if None not in calendar:
        return NULL if NULL in calendar else "-".join(calendar)
    return next((lower[key] for key in DAYS if key in lower), None)


@lru_cache(1 << 14)  # a folder is asked for some times, and to read one date costs milliseconds
def _iso(day: str, folder: Path) -> str:
    found = dates(pl.Series([day])).item()
    if found is None or found.year < EARLIEST:
        raise DataError(
            f"{folder}: the folder's name says the day {day!r}, expected a date like date=2025-03-10, date=20250310 or "
            "year=2025/month=3/day=10; rename the folder"
        )
    return found.isoformat()

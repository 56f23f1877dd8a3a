"""The canonical tables on disk: users, videos, and one file of impressions per day, so that no reader needs them all.

    users.parquet  videos.parquet  impressions/date=2025-03-10/part-0.parquet ...  days.json

`days.json` describes every day. It is written last: a folder without it is unfinished.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.tables import DataError, Tables, in_order
from watchnext.files import sha256_of

LATEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Day:
    """One calendar day of the log: `day` (ISO date), number of rows, first and last time, and the sha256 of its file."""

    day: str
    rows: int
    first_ms: int
    last_ms: int
    sha256: str


def day_file(folder: Path, day: str) -> Path:
    return Path(folder) / "impressions" / f"date={day}" / "part-0.parquet"


def write_day(folder: Path, day: str, impressions: pl.DataFrame) -> Day:
    """Write one day's rows in order; equal rows give equal bytes."""
    impressions, path = in_order(impressions), day_file(folder, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(impressions, path)
    times = impressions["time_ms"]
    return Day(day, len(impressions), times[0], times[-1], sha256_of(path))


def write_table(frame: pl.DataFrame, path: Path) -> None:
    frame.write_parquet(path, compression="zstd", statistics=False)


def finish(folder: Path, days: Sequence[Day]) -> None:
    """Write the list of days and remove the files of all other days."""
    wanted = {day.day for day in days}
    for path in (Path(folder) / "impressions").glob("date=*"):
        if path.name.removeprefix("date=") not in wanted:
            shutil.rmtree(path)
    (Path(folder) / "days.json").write_text(json.dumps([asdict(day) for day in days], indent=1))


def begin(folder: Path, tables: Tables) -> None:
    """Write users and videos; the folder is not finished until `finish`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "days.json").unlink(missing_ok=True)
    write_table(tables.users, folder / "users.parquet")
    write_table(tables.videos, folder / "videos.parquet")


def by_day(impressions: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield (day, its rows) in the order of the days."""
    parts = impressions.partition_by("day", as_dict=True)
    return ((str(day), parts[day,]) for day in sorted(day for (day,) in parts))


def write_tables(tables: Tables, folder: Path) -> None:
    """Write all three tables; equal tables give equal bytes."""
    begin(folder, tables)
    finish(folder, [write_day(folder, day, rows) for day, rows in by_day(tables.impressions)])


def _is_within(day: Day, start_ms: int | None, end_ms: int | None) -> bool:
    return (start_ms is None or day.first_ms >= start_ms) and (end_ms is None or day.last_ms < end_ms)


def read_parquet(path: Path, *, repair: str) -> pl.DataFrame:
    """Read one Parquet file. Raises DataError for a missing or truncated file, with the command that repairs it."""
    if not Path(path).exists():
        raise DataError(f"{path} is missing; run `{repair}`")
    try:
        return pl.read_parquet(path, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); it may be truncated: run `{repair}`") from error


@dataclass(frozen=True)
class StoredTables:
    """The tables in `folder`, days in order. Errors name the command `repair` for a missing or broken file."""

    folder: Path
    days: tuple[Day, ...]
    repair: str

    @classmethod
    def open(cls, folder: str | Path, *, repair: str = "dvc repro tables") -> "StoredTables":
        """Open a finished folder. Raises DataError for an unfinished one."""
        path = Path(folder) / "days.json"
        if not path.exists():
            raise DataError(f"{path} is missing; run `{repair}`")
        return cls(Path(folder), tuple(Day(**day) for day in json.loads(path.read_text())), repair)

    @cached_property
    def users(self) -> pl.DataFrame:
        return read_parquet(self.folder / "users.parquet", repair=self.repair)

    @cached_property
    def videos(self) -> pl.DataFrame:
        return read_parquet(self.folder / "videos.parquet", repair=self.repair)

    def impressions(self, days: Sequence[Day], start_ms: int | None = None, end_ms: int | None = None) -> pl.DataFrame:
        """Return the rows of `days` with `start_ms` <= time_ms < `end_ms`, in the order of the log, even if days overlap."""
        parts = [read_parquet(day_file(self.folder, day.day), repair=self.repair) for day in days]
        for i, (day, part) in enumerate(zip(days, parts, strict=True)):
            if not _is_within(day, start_ms, end_ms):
                parts[i] = part.filter(pl.col("time_ms").is_between(start_ms or 0, end_ms or LATEST, closed="left"))
        return parts[0] if len(parts) == 1 else in_order(pl.concat(parts))

    def rows_within(self, day: Day, start_ms: int, end_ms: int | None) -> int:
        """Count the rows of a day with `start_ms` <= time_ms < `end_ms`."""
        if _is_within(day, start_ms, end_ms):
            return day.rows
        times = pl.scan_parquet(day_file(self.folder, day.day), hive_partitioning=False).select("time_ms").collect().to_series()
        return int(times.is_between(start_ms, end_ms or LATEST, closed="left").sum())

    def all(self) -> Tables:
        """Read all tables into memory."""
        if not self.days:
            raise DataError(
                f"{self.folder} holds no impressions, expected at least one day; check the loader's root and the rejected rows"
            )
        return Tables(self.impressions(self.days), self.users, self.videos)

    @property
    def hash(self) -> str:
        """Digest the bytes of the three tables: 16 hex digits."""
        digest = hashlib.sha256("".join(day.day + day.sha256 for day in self.days).encode())
        for name in ("users", "videos"):
            digest.update((self.folder / f"{name}.parquet").read_bytes())
        return digest.hexdigest()[:16]


def read_tables(folder: str | Path, *, repair: str = "dvc repro tables") -> Tables:
    """Read all tables in `folder`. Raises DataError naming the bad file."""
    return StoredTables.open(folder, repair=repair).all()

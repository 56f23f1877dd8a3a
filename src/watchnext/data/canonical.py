"""Logs that are already in the three tables, as Parquet or CSV, a file or a folder of partitions each."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from watchnext.data.columns import expected_columns, sound_columns
from watchnext.data.delimited import parsed, whole_numbers
from watchnext.data.loaders import REJECTED, Loaded
from watchnext.data.tables import TABLES, DataError, Id, Tables
from watchnext.schema import FeatureSchema

SUFFIXES = (".parquet", ".csv")
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"  # Hive's null


@dataclass(frozen=True)
class Source:
    """One table as read: `frame` of all rows, `heights` of them from each of `files` in turn; `refused` as in REJECTED, the
    values (null in `frame`) that could not be read as their type."""

    frame: pl.DataFrame
    files: tuple[Path, ...]
    heights: tuple[int, ...]
    refused: pl.DataFrame

    @property
    def kept(self) -> pl.Series:
        """Numbers of the rows all of whose values could be read."""
        every = pl.int_range(len(self.frame), dtype=pl.Int64, eager=True)
        return every.filter(~every.is_in(self.refused["row"].unique().implode()))

    def rows(self) -> pl.DataFrame:
        return self.frame[self.kept] if len(self.refused) else self.frame

    def place(self, row: int) -> tuple[Path, int]:
        """The file of a row of `frame`, and its number within that file."""
        for file, height in zip(self.files, self.heights, strict=True):
            if row < height:
                return file, row
            row -= height
        raise IndexError(f"there are only {len(self.frame)} rows")


@dataclass(frozen=True)
class DayFiles:
    """The files of one day, `day` an ISO date."""

    day: str
    files: tuple[Path, ...]

    @cached_property
    def sha256(self) -> str:
        """Of their bytes, one after another."""
        digest = hashlib.sha256()
        for file in self.files:
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


class CanonicalTables:
    """`impressions`, `users` and `videos` in `root`: `<table>.parquet`, `<table>.csv`, or a folder `<table>/` of either, whose
    files are read in the order of their paths. A folder `key=value` below it (Hive) gives the column `key`, and `date=...`
    the column `day`, where that is a column of the table and the file lacks it. Without `impressions` it is a catalogue that has no
    log yet; it need not list users then.

    features  the YAML file of the feature schema, which a CSV needs, as it says which raw feature is a number, and a catalogue
              without a log, as it says which columns the tables would have
    repair    the command named where a file is missing or broken
    """

    def __init__(self, *, root: str, features: str | None = None, repair: str = "git checkout -- data"):
        self.root = Path(root)
        self.schema = FeatureSchema.load(Path(features)) if features else FeatureSchema.from_mapping({})
        self.repair = repair

    def by_day(self) -> dict[str, DayFiles] | None:
        """Day > its files, in order, of impressions in Parquet under `date=` folders; None where they are not so."""
        if "impressions" not in _needed(self.root):
            return None
        files = _files(self.root, "impressions", self.repair)
        days = [_partition(file.relative_to(self.root)).get("day") for file in files]
        if files[0].suffix != ".parquet" or None in days or NO_PARTITION in days:
            return None
        return {day: DayFiles(day, tuple(f for f, d in zip(files, days, strict=True) if d == day)) for day in sorted(set(days))}

    def entities(self, by_day: Mapping[str, DayFiles]) -> Loaded:
        """Users and videos, beside no impressions. Raises DataError naming every file whose columns the feature schema does not
        know, or that lacks one, or has another type than it should or than the days before, before a row is read."""
        sources = {}
        for table in ("users", "videos"):
            sources[table] = _typed(self.root, table, _untyped(self.root, table, self.schema, self.repair), self.schema, [])
        tables = {name: source.rows() for name, source in sources.items()}
        files = [file for each in by_day.values() for file in each.files]
        frames = [self._columns(file) for file in files]
        _same_types(tuple(files), frames)
        wrong = {}
        for file, frame in zip(files, frames, strict=True):
            _, faults, _ = sound_columns(Tables(frame, **tables), self.schema)
            for fault in faults:
                wrong.setdefault(fault.message, f"{file}: {fault.message}")
        if wrong:
            raise DataError("\n".join(wrong.values()))
        rejected = pl.concat([pl.DataFrame(schema=REJECTED), *(source.refused for source in sources.values())])
        return Loaded(Tables(frames[0], **tables), rejected)

    def _columns(self, file: Path) -> pl.DataFrame:
        """The columns of a file, without its rows."""
        try:
            empty = pl.DataFrame(schema=pl.read_parquet_schema(file))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{file} cannot be read as Parquet ({error}); it may be truncated: run `{self.repair}`") from error
        known = expected_columns("impressions", self.schema)
        empty = _with_partition(empty, file.relative_to(self.root), set(known))
        return _typed(
            self.root, "impressions", Source(empty, (file,), (0,), pl.DataFrame(schema=REJECTED)), self.schema, []
        ).frame

    def read_day(self, files: DayFiles) -> Source:
        """One day's impressions. Rows that say they are of another day are refused."""
        known = set(expected_columns("impressions", self.schema))
        frames = [_with_partition(_read(file, self.repair), file.relative_to(self.root), known) for file in files.files]
        frame = pl.concat(frames, how="diagonal_relaxed")
        source = Source(frame, files.files, tuple(map(len, frames)), pl.DataFrame(schema=REJECTED))
        typed = _typed(self.root, "impressions", source, self.schema, [])
        rows = typed.frame.with_row_index("row").filter(pl.col("day") != pl.lit(files.day).str.to_date())
        astray = rows.select(
            table=pl.lit("impressions"),
            row=pl.col("row").cast(pl.Int64),
            reason=pl.lit("day is not that of its folder"),
            value=pl.col("day").cast(pl.String),
        )
        return Source(typed.frame, typed.files, typed.heights, pl.concat([typed.refused, astray]))

    def read(self) -> Loaded:
        """Raises DataError naming all that is missing or truncated, and the command `repair`."""
        sources = sources_of(self.root, self.schema, repair=self.repair)
        rejected = pl.concat([pl.DataFrame(schema=REJECTED), *(source.refused for source in sources.values())])
        return Loaded(Tables(**{name: source.rows() for name, source in sources.items()}), rejected)


def sources_of(root: Path, schema: FeatureSchema, *, repair: str) -> dict[str, Source]:
    """All three tables. Raises DataError naming every one that cannot be read."""
    sources, wrong = {}, []
    for table in _needed(root):
        try:
            sources[table] = _untyped(root, table, schema, repair)
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    number_ids = _number_ids(sources)
    typed = {table: _typed(root, table, source, schema, number_ids) for table, source in sources.items()}
    return {table: typed[table] if table in typed else _nothing(table, schema, typed) for table in TABLES}


def _needed(root: Path) -> tuple[str, ...]:
    """The tables that `root` must hold: all, but of a catalogue without a log those that are there."""
    there = tuple(table for table in TABLES if _paths(root, table))
    return there if "videos" in there and "impressions" not in there else tuple(TABLES)


def _nothing(table: str, schema: FeatureSchema, others: Mapping[str, Source]) -> Source:
    """A table without rows, whose ids are of the kind that the others have."""
    kinds = {name: kind for other in others.values() for name, kind in other.frame.schema.items()}
    columns = {}
    for name, one in expected_columns(table, schema).items():
        columns[name] = kinds.get(name, one.types[0]) if one.types == Id else one.types[0]
    return Source(pl.DataFrame(schema=columns), (), (), pl.DataFrame(schema=REJECTED))


def _number_ids(sources: Mapping[str, Source]) -> list[str]:
    """Ids that are numbers wherever they occur as text."""
    names = {name for columns in TABLES.values() for name, column in columns.items() if column.types == Id}
    texts = {name: [s.frame[name] for s in sources.values() if s.frame.schema.get(name) == pl.String] for name in names}
    return [name for name, columns in texts.items() if whole_numbers(columns)]


def _typed(root: Path, table: str, source: Source, schema: FeatureSchema, number_ids: list[str]) -> Source:
    """A CSV's strings, or the partitions' names, as what they are of."""
    expected = expected_columns(table, schema)
    if source.files[0].suffix != ".csv":
        given = {key for file in source.files for key in _partition(file.relative_to(root))}
        expected = {name: one for name, one in expected.items() if name in given}
    frame, refused = parsed(table, source.frame, expected, number_ids)
    return Source(frame, source.files, source.heights, refused)


def _untyped(root: Path, table: str, schema: FeatureSchema, repair: str) -> Source:
    files = _files(root, table, repair)
    known = expected_columns(table, schema)
    frames = [_with_partition(_read(file, repair), file.relative_to(root), set(known)) for file in files]
    _same_types(files, frames)
    frame = pl.concat(frames, how="diagonal_relaxed")
    return Source(frame, files, tuple(map(len, frames)), pl.DataFrame(schema=REJECTED))


def _paths(root: Path, table: str) -> list[Path]:
    """Where the table is; one place is enough."""
    return [path for path in (root / f"{table}.parquet", root / f"{table}.csv", root / table) if path.exists()]


def _files(root: Path, table: str, repair: str) -> tuple[Path, ...]:
    """One file, or those of the folder: of one kind, nothing hidden."""
    found = _paths(root, table)
    if not found:
        raise DataError(
            f"{root / table}.parquet is missing; run `{repair}`. A file {table}.csv or a folder {table}/ of either would do too"
        )
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(str, found))} are both there, expected one of them; remove the other")
    if found[0].is_file():
        return (found[0],)
    within = [path.relative_to(found[0]) for path in found[0].rglob("*") if path.suffix in SUFFIXES]
    files = sorted(found[0] / path for path in within if not any(part.startswith((".", "_")) for part in path.parts))
    if len({file.suffix for file in files}) != 1:
        raise DataError(f"{found[0]}/ holds {len(files)} files, expected at least one, all .parquet or all .csv")
    return tuple(files)


def _read(file: Path, repair: str) -> pl.DataFrame:
    """One file as it is; a CSV as strings."""
    try:
        if file.suffix == ".csv":
            return pl.read_csv(file, infer_schema=False)
        return pl.read_parquet(file, hive_partitioning=False)
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{file} is empty, expected a header line; run `{repair}`") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        kind = "CSV" if file.suffix == ".csv" else "Parquet"
        what = str(error).partition("\n")[0]
        raise DataError(f"{file} cannot be read as {kind} ({what}); it may be truncated: run `{repair}`") from error


def _partition(file: Path) -> dict[str, str]:
    """Column > value, of the folders named `key=value` in a path below the root."""
    pairs = [folder.name.split("=", 1) for folder in file.parents if "=" in folder.name]
    return {"day" if key == "date" else key: value for key, value in pairs}


def _with_partition(frame: pl.DataFrame, file: Path, known: set[str]) -> pl.DataFrame:
    given = {key: value for key, value in _partition(file).items() if key in known and key not in frame.columns}
    return frame.with_columns(
        pl.lit(None if value == NO_PARTITION else value, dtype=pl.String).alias(key) for key, value in given.items()
    )


def _same_types(files: tuple[Path, ...], frames: list[pl.DataFrame]) -> None:
    """Raises DataError naming every column that changes its type from one file to another."""
    first: dict[str, tuple[pl.DataType, Path]] = {}
    wrong = []
    for file, frame in zip(files, frames, strict=True):
        for name, kind in frame.schema.items():
            if kind == pl.Null:  # without a value a column has no type yet
                continue
            other, there = first.setdefault(name, (kind, file))
            if kind != other:
                wrong.append(f"{file}: {name} is of type {kind}, but {other} in {there}; write both alike")
    if wrong:
        raise DataError("\n".join(wrong))

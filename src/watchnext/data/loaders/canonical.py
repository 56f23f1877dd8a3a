"""Loader of logs that are already in the three tables: Parquet or CSV, one file or one folder of partitions each."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import polars as pl
import pyarrow as pa

from watchnext.data.loaders.conversions import convert, number_ids, plain, target_type
from watchnext.data.loaders.csv import UNNAMED, read_csv
from watchnext.data.loaders.folder_names import folder_values, left_out
from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.structure import Expected, expected_columns, sound_columns
from watchnext.data.tables import TABLES, DataError, Id, Tables
from watchnext.schema import FeatureSchema

FORMS = {"Parquet": r"\.(parquet|parq|pq)$", "CSV": r"\.(csv|tsv)(\.gz|\.bz2|\.zst)?$"}
INDEX = (UNNAMED, "__index_level_0__")  # row numbers that pandas writes by default
SAMPLE, DESCRIBE = "git checkout -- data", "python -m watchnext.data describe"  # what repairs the sample, and any other log
Types = Mapping[str, pl.DataType | None]  # column > type to read; None if none fits


@dataclass(frozen=True)
class TableSource:
    """One table as read.

    frame    all rows, `heights[i]` of them from `files[i]`
    refused  inconvertible values (null in `frame`), columns as in REJECTED
    notes    conversions that were made
    """

    frame: pl.DataFrame
    files: tuple[Path, ...]
    heights: tuple[int, ...]
    refused: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def convertible(self) -> pl.Series:
        """Numbers of the rows without inconvertible values."""
        every = pl.int_range(len(self.frame), dtype=pl.Int64, eager=True)
        return every.filter(~every.is_in(self.refused["row"].unique().implode()))

    def rows(self) -> pl.DataFrame:
        return self.frame[self.convertible] if len(self.refused) else self.frame

    def locate(self, row: int) -> tuple[Path, int]:
        """Return the file of a row of `frame`, and its number within that file."""
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
        """Digest of the bytes of all files, in order."""
        digest = hashlib.sha256()
        for file in self.files:
            with open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()


class CanonicalTables:
    """`impressions`, `users` and `videos` in `root`: `<table>.parquet`, `<table>.csv`, or a folder `<table>/` of either, whose
    files are read in the order of their paths. A folder `key=value` below it (Hive) gives the column `key`, and `date=`, `dt=`,
    `ds=` or `year=/month=/day=` the column `day`, if it is a column of the table and the file lacks it. Other types of the same
    meaning are converted, with a note: other integers, whole floats and decimals, text, dictionaries, timestamps to ms UTC.
    Without `impressions` it is a catalogue without a log, which need not list users.

    features  YAML file of the feature schema; a CSV needs it for the types of raw features, a catalogue without a log for the
              columns of the other tables
    repair    command named in errors about a missing or broken file
    numbers   id column > true if its ids are numbers, for text ids of a known type
    """

    def __init__(
        self,
        *,
        root: str,
        features: str | None = None,
        repair: str | None = None,
        numbers: Mapping[str, bool] = MappingProxyType({}),
    ):
        self.root = Path(root)
        self.schema = FeatureSchema.load(Path(features)) if features else FeatureSchema.from_mapping({})
        self.repair, self.numbers = repair or (SAMPLE if self.root == Path("data") else DESCRIBE), numbers

    def by_day(self) -> dict[str, DayFiles] | None:
        """Return day > its files for impressions in daily Parquet folders; None for any other layout."""
        if "impressions" not in _needed(self.root):
            return None
        files = _files(self.root, "impressions", self.repair)
        days = [folder_values(self.root, file, ("day",)).get("day") for file in files]
        if _form(files[0]) != "Parquet" or None in days:
            return None
        return {day: DayFiles(day, tuple(f for f, d in zip(files, days, strict=True) if d == day)) for day in sorted(set(days))}

    def entities(self, by_day: Mapping[str, DayFiles]) -> Loaded:
        """Read users and videos, with empty impressions.

        Raises DataError before any row is read, naming every file with unknown, missing or mistyped columns, or with types that
        differ from earlier days.
        """
        parts, types = self._unread
        sources = {table: _source(table, parts[table], types[table], self.schema) for table in ("users", "videos")}
        tables = {name: source.rows() for name, source in sources.items()}
        first_parts = [group[0] for group in _groups_of_equal_layout(parts["impressions"])]
        empty = [_convert(part, "impressions", types["impressions"], self.schema)[0] for part in first_parts]
        _same_types(tuple(part.file for part in first_parts), empty)
        errors = {}
        for part, frame in zip(first_parts, empty, strict=True):
            _, faults, _ = sound_columns(Tables(frame, **tables), self.schema)
            for fault in faults:
                errors.setdefault(fault.message, f"{part.file}: {fault.message}")
        if errors:
            raise DataError("\n".join(errors.values()))
        return Loaded(Tables(empty[0], **tables), _refused(sources.values()), _notes(sources.values()))

    @cached_property
    def _unread(self) -> tuple[dict[str, list["Part"]], dict[str, Types]]:
        """The files of every table, those of impressions without their rows, and the column types of all."""
        parts = {table: _parts(self.root, table, self.schema, self.repair) for table in ("users", "videos")}
        files = _files(self.root, "impressions", self.repair)
        known = expected_columns("impressions", self.schema)
        parts["impressions"] = [_part(self.root, file, _columns(file, self.repair), known=known) for file in files]
        return parts, _types(parts, self.schema, self.numbers)

    def read_days(self, days: Sequence[DayFiles]) -> TableSource:
        """Read the impressions of some days. Rows of another day than their folder are rejected."""
        known = expected_columns("impressions", self.schema)
        files = [file for each in days for file in each.files]
        parts = [_part(self.root, file, *_read(file, known, self.repair), known=known) for file in files]
        return _source(
            "impressions",
            [_joined(group) for group in _groups_of_equal_layout(parts)],
            self._unread[1]["impressions"],
            self.schema,
        )

    def read(self) -> Loaded:
        """Read all tables. Raises DataError naming every missing or truncated file, and the command `repair`."""
        sources = read_sources(self.root, self.schema, repair=self.repair, numbers=self.numbers)
        tables = Tables(**{name: source.rows() for name, source in sources.items()})
        return Loaded(tables, _refused(sources.values()), _notes(sources.values()))


def read_sources(
    root: Path, schema: FeatureSchema, *, repair: str, numbers: Mapping[str, bool] = MappingProxyType({})
) -> dict[str, TableSource]:
    """Read all three tables. Raises DataError naming every unreadable one."""
    parts, errors = {}, []
    for table in _needed(root):
        try:
            parts[table] = _parts(root, table, schema, repair)
        except DataError as error:
            errors.append(str(error))
    if errors:
        raise DataError("\n".join(errors))
    types = _types(parts, schema, numbers)
    read = {table: _source(table, parts[table], types[table], schema) for table in parts}
    return {table: read[table] if table in read else _empty_source(table, schema, read) for table in TABLES}


def _refused(sources: Iterable[TableSource]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=REJECTED), *(source.refused for source in sources)])


def _notes(sources: Iterable[TableSource]) -> tuple[str, ...]:
    return tuple(note for source in sources for note in source.notes)


def _needed(root: Path) -> tuple[str, ...]:
    """Return the tables that `root` must hold: all, or the existing ones for a catalogue without a log.

    A log in another format or spelling counts as a log.
    """
    present = tuple(table for table in TABLES if _paths(root, table))
    has_log = "impressions" in present or _named_alike(root, "impressions")
    return present if "videos" in present and not has_log else tuple(TABLES)


def _empty_source(table: str, schema: FeatureSchema, others: Mapping[str, TableSource]) -> TableSource:
    """Return a table without rows, with ids of the type of the other tables."""
    kinds = {name: kind for other in others.values() for name, kind in other.frame.schema.items()}
    columns = {}
    for name, one in expected_columns(table, schema).items():
        columns[name] = kinds.get(name, one.types[0]) if one.types == Id else one.types[0]
    return TableSource(pl.DataFrame(schema=columns), (), (), pl.DataFrame(schema=REJECTED))


# ---- files > one table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One file, unconverted.

    texts   columns without a type yet
    folder  columns from folder names; those that the file itself lacks are in `frame`
    """

    file: Path
    frame: pl.DataFrame
    texts: frozenset[str]
    folder: Mapping[str, str | None]
    notes: tuple[str, ...] = ()

    @property
    def is_blank(self) -> bool:
        """True if no column of the file has a type, as pandas writes a day without rows."""
        return all(kind == pl.Null for name, kind in self.frame.schema.items() if name not in self.texts)

    def text(self, name: str) -> pl.Series:
        """Return a column of `texts`; a folder's column has its value even if the rows were not read."""
        return (
            self.frame[name] if len(self.frame) or name not in self.folder else pl.Series([self.folder[name]], dtype=pl.String)
        )


def _parts(root: Path, table: str, schema: FeatureSchema, repair: str) -> list[Part]:
    known = expected_columns(table, schema)
    return [_part(root, file, *_read(file, known, repair), known=known) for file in _files(root, table, repair)]


def _part(root: Path, file: Path, frame: pl.DataFrame, notes: Sequence[str] = (), *, known: Collection[str]) -> Part:
    folder, notes = folder_values(root, file, known), list(notes)
    if index := [name for name in INDEX if name in frame.columns]:
        frame = frame.drop(index)
        notes.append("row numbers that pandas wrote are left out")
    notes += [f"folder names hold {key!r}, which is not a column and is left out" for key in left_out(root, file, known)]
    lacking = {name: value for name, value in folder.items() if name not in frame.columns}
    texts = {*lacking, *(frame.columns if _form(file) == "CSV" else ())}
    frame = frame.with_columns(pl.lit(value, dtype=pl.String).alias(name) for name, value in lacking.items())
    return Part(file, frame, frozenset(texts), folder, tuple(notes))


def _groups_of_equal_layout(parts: Sequence[Part]) -> list[list[Part]]:
    """Group consecutive files of equal layout, so that their columns are checked once."""
    groups: list[list[Part]] = []
    for part in parts:
        if groups and _layout(part) == _layout(groups[-1][0]):
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def _layout(part: Part) -> tuple:
    checked = {name: value for name, value in part.folder.items() if name not in part.texts}  # compared with the rows
    return tuple(part.frame.schema.items()), part.texts, frozenset(part.folder), tuple(checked.items()), part.notes


def _joined(parts: Sequence[Part]) -> Part:
    return replace(parts[0], frame=pl.concat([part.frame for part in parts])) if len(parts) > 1 else parts[0]


def _types(parts: Mapping[str, Sequence[Part]], schema: FeatureSchema, known: Mapping[str, bool]) -> dict[str, Types]:
    """Return table > column types, equal for all of its files."""
    numbers = _number_ids([part for each in parts.values() for part in each], known)
    types = {}
    for table, each in parts.items():
        types[table] = {}
        for name, one in expected_columns(table, schema).items():
            typed = [part.frame.schema[name] for part in each if name in part.frame.columns and name not in part.texts]
            types[table][name] = target_type(one, typed, [part.text(name) for part in each if name in part.texts], numbers)
    return types


def _number_ids(parts: Sequence[Part], known: Mapping[str, bool]) -> list[str]:
    """Return the id columns that are numeric: those `known`, and those with numbers in all texts and no typed strings."""
    names = {name for columns in TABLES.values() for name, column in columns.items() if column.types == Id}
    columns = [(name, kind) for part in parts for name, kind in part.frame.schema.items() if name not in part.texts]
    typed = {name for name, kind in columns if plain(kind) == pl.String}
    numeric = {name: number_ids(part.text(name) for part in parts if name in part.texts) for name in names - typed}
    return [name for name, is_number in (numeric | {**known}).items() if is_number]


def _source(table: str, parts: Sequence[Part], types: Types, schema: FeatureSchema) -> TableSource:
    read = [_convert(part, table, types, schema) for part in parts]
    files, frames = tuple(part.file for part in parts), [frame for frame, _, _ in read]
    _same_types(files, frames)
    heights = tuple(map(len, frames))
    first = [sum(heights[:i]) for i in range(len(heights))]
    refused = [rows.with_columns(pl.col("row") + start) for start, (_, rows, _) in zip(first, read, strict=True)]
    notes = dict.fromkeys(
        note for part, (_, _, converted) in zip(parts, read, strict=True) for note in (*part.notes, *converted)
    )
    frame = pl.concat(frames, how="diagonal_relaxed")
    return TableSource(
        frame, files, heights, pl.concat([pl.DataFrame(schema=REJECTED), *refused]), tuple(f"{table}: {note}" for note in notes)
    )


def _convert(part: Part, table: str, types: Types, schema: FeatureSchema) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Convert a file's columns to `types`. Returns frame, inconvertible values as in REJECTED, and notes."""
    frame, refused, notes = part.frame, [pl.DataFrame(schema=REJECTED)], []
    if part.is_blank:
        untyped = [name for name in frame.columns if name not in part.texts and types.get(name) is not None]
        frame = frame.with_columns(pl.col(name).cast(types[name]) for name in untyped)
    for name, one in expected_columns(table, schema).items():
        kind = types[name]
        if kind is None or frame.schema.get(name, pl.Null) == pl.Null:
            continue
        read = convert(frame[name], kind, one, is_text=name in part.texts)
        if read is None:
            continue
        refused.append(_rows(table, frame[name], read.refused, read.reason))
        notes += [f"{name}: {note}" for note in read.notes]
        frame = frame.with_columns(read.values.alias(name))
        if name in part.folder and name in part.frame.columns and name not in part.texts:
            refused.append(_contradicting_folder(table, frame[name], part.folder[name], one))
    return frame, pl.concat(refused), notes


def _contradicting_folder(table: str, values: pl.Series, folder: str | None, one: Expected) -> pl.DataFrame:
    """Return the rows whose value differs from their folder's."""
    of_folder = convert(pl.Series(one.name, [folder], dtype=pl.String), values.dtype, one, is_text=True)
    if of_folder is None:
        return pl.DataFrame(schema=REJECTED)
    differs = values.is_not_null() & values.ne_missing(of_folder.values.item())
    return _rows(table, values, differs, f"{one.name} is not that of its folder")


def _rows(table: str, values: pl.Series, mask: pl.Series, reason: str) -> pl.DataFrame:
    rows = mask.arg_true()
    bad = values.gather(rows)  # Python has no years above 9999
    shown = bad.cast(pl.String) if bad.dtype.is_temporal() else [str(value) for value in bad]
    columns = {"table": [table] * len(rows), "row": rows.cast(pl.Int64), "reason": [reason] * len(rows), "value": shown}
    return pl.DataFrame(columns, schema=REJECTED)


# ---- one file ----------------------------------------------------------------------------------------------------------


def _form(path: Path) -> str | None:
    """ "Parquet" or "CSV", by the name."""
    return next((form for form, ending in FORMS.items() if re.search(ending, path.name)), None)


def _paths(root: Path, table: str) -> list[Path]:
    """Return the paths of a table; more than one is an error of the caller's folder."""
    files = [path for path in root.glob(f"{table}.*") if _form(path) and re.sub(FORMS[_form(path)], "", path.name) == table]
    return [*sorted(files, reverse=True), *([root / table] if (root / table).exists() else [])]


def _named_alike(root: Path, table: str) -> list[Path]:
    """Return paths similar to the table's name: any case, the singular, or with a suffix."""
    return sorted(path for path in root.glob("*") if path.name.lower().startswith(table[:-1]))


def _files(root: Path, table: str, repair: str) -> tuple[Path, ...]:
    """Return the one file, or the files of the folder: all of one format, none hidden."""
    paths = _paths(root, table)
    if not paths:
        hint = _taken_for(_named_alike(root, table), table)
        raise DataError(
            f"{root / table}.parquet is missing{hint}; run `{repair}`. "
            f"A file {table}.csv or a folder {table}/ of either would do too"
        )
    if len(paths) > 1:
        raise DataError(f"{' and '.join(map(str, paths))} are both there, expected one of them; remove the other")
    if paths[0].is_file():
        return (paths[0],)
    within = [path.relative_to(paths[0]) for path in paths[0].rglob("*") if path.is_file()]
    visible = sorted(paths[0] / path for path in within if not any(part.startswith((".", "_")) for part in path.parts))
    files = [file for file in visible if _form(file)]
    if len({_form(file) for file in files}) != 1 or len(files) < len(visible):
        others = [file for file in visible if not _form(file)]
        neither = f", {len(others)} of which are neither, such as {others[0]}" if others else ""
        raise DataError(f"{paths[0]}/ holds {len(visible)} files{neither}, expected at least one, all .parquet or all .csv")
    return tuple(files)


def _taken_for(others: Sequence[Path], table: str) -> str:
    if not others:
        return ""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    wrong = f"is no folder {table}/ and no {table}.parquet or {table}.csv" if _form(others[0]) or others[0].is_dir() else None
    return f"; {others[0].name}{more} {wrong or 'is neither Parquet nor CSV'}"


def _read(file: Path, known: Collection[str], repair: str) -> tuple[pl.DataFrame, list[str]]:
    """Read one file unconverted, a CSV as strings. Returns frame and notes on its form."""
    try:
        if _form(file) == "CSV":
            return read_csv(file, known)
        return pl.read_parquet(file, hive_partitioning=False), []
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{file} is empty, expected a header line; run `{repair}`") from error
    except (pl.exceptions.PolarsError, OSError, pa.ArrowInvalid) as error:
        raise _unreadable(file, error, repair) from error


def _columns(file: Path, repair: str) -> pl.DataFrame:
    """Read the columns of a Parquet file, without its rows."""
    try:
        return pl.DataFrame(schema=pl.read_parquet_schema(file))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(file, error, repair) from error


def _unreadable(file: Path, error: Exception, repair: str) -> DataError:
    reason = str(error).partition("\n")[0]
    return DataError(f"{file} cannot be read as {_form(file)} ({reason}); it may be truncated: run `{repair}`")


def _same_types(files: tuple[Path, ...], frames: list[pl.DataFrame]) -> None:
    """Raise DataError naming every column whose type differs between files."""
    first: dict[str, tuple[pl.DataType, Path]] = {}
    wrong = []
    for file, frame in zip(files, frames, strict=True):
        for name, kind in frame.schema.items():
            if kind == pl.Null:  # a column without values has no type yet
                continue
            other, other_file = first.setdefault(name, (kind, file))
            if kind != other:
                wrong.append(f"{file}: {name} is of type {kind}, but {other} in {other_file}; write both alike")
    if wrong:
        raise DataError("\n".join(wrong))

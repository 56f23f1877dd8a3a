"""Logs that are already in the three tables, as Parquet or CSV, a file or a folder of partitions each."""

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

import polars as pl
import pyarrow as pa

from watchnext.data.loaders.conversions import converted, number_ids, plain, target
from watchnext.data.loaders.csv import UNNAMED, read_csv
from watchnext.data.loaders.folder_names import folder_values, left_out
from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.structure import Expected, expected_columns, sound_columns
from watchnext.data.tables import TABLES, DataError, Id, Tables
from watchnext.schema import FeatureSchema

FORMS = {"Parquet": r"\.(parquet|parq|pq)$", "CSV": r"\.(csv|tsv)(\.gz|\.bz2|\.zst)?$"}
INDEX = (UNNAMED, "__index_level_0__")  # of the row numbers that pandas writes unless told not to
Types = Mapping[str, pl.DataType | None]  # column > type to read it as; None where none fits


@dataclass(frozen=True)
class Source:
    """One table as read: `frame` of all rows, `heights` of them from each of `files` in turn; `refused` as in REJECTED, the
    values (null in `frame`) that could not be read as their type; `notes` say what was read as something else."""

    frame: pl.DataFrame
    files: tuple[Path, ...]
    heights: tuple[int, ...]
    refused: pl.DataFrame
    notes: tuple[str, ...] = ()

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
    files are read in the order of their paths. A folder `key=value` below it (Hive) gives the column `key`, and `date=`, `dt=`,
    `ds=` or `year=/month=/day=` the column `day`, where that is a column of the table and the file lacks it. Types of the same
    meaning are read as those above, with a note: other integers, whole floats and decimals, text, dictionaries, timestamps as
    ms UTC. Without `impressions` it is a catalogue that has no log yet; it need not list users then.

    features  the YAML file of the feature schema, which a CSV needs, as it says which raw feature is a number, and a catalogue
              without a log, as it says which columns the tables would have
    repair    the command named where a file is missing or broken
    numbers   id column > whether its ids are numbers, where that is known already: text is read so, as it does not say itself
    """

    def __init__(
        self,
        *,
        root: str,
        features: str | None = None,
        repair: str = "git checkout -- data",
        numbers: Mapping[str, bool] = MappingProxyType({}),
    ):
        self.root = Path(root)
        self.schema = FeatureSchema.load(Path(features)) if features else FeatureSchema.from_mapping({})
        self.repair, self.numbers = repair, numbers

    def by_day(self) -> dict[str, DayFiles] | None:
        """Day > its files, in order, of impressions in Parquet under folders that name a day; None where they are not so."""
        if "impressions" not in _needed(self.root):
            return None
        files = _files(self.root, "impressions", self.repair)
        days = [folder_values(self.root, file, ("day",)).get("day") for file in files]
        if _form(files[0]) != "Parquet" or None in days:
            return None
        return {day: DayFiles(day, tuple(f for f, d in zip(files, days, strict=True) if d == day)) for day in sorted(set(days))}

    def entities(self, by_day: Mapping[str, DayFiles]) -> Loaded:
        """Users and videos, beside no impressions. Raises DataError naming every file whose columns the feature schema does not
        know, or that lacks one, or has another type than it should or than the days before, before a row is read."""
        parts, types = self._unread
        sources = {table: _source(table, parts[table], types[table], self.schema) for table in ("users", "videos")}
        tables = {name: source.rows() for name, source in sources.items()}
        firsts = [each[0] for each in _alike(parts["impressions"])]
        empty = [_converted(part, "impressions", types["impressions"], self.schema)[0] for part in firsts]
        _same_types(tuple(part.file for part in firsts), empty)
        wrong = {}
        for part, frame in zip(firsts, empty, strict=True):
            _, faults, _ = sound_columns(Tables(frame, **tables), self.schema)
            for fault in faults:
                wrong.setdefault(fault.message, f"{part.file}: {fault.message}")
        if wrong:
            raise DataError("\n".join(wrong.values()))
        return Loaded(Tables(empty[0], **tables), _refused(sources.values()), _notes(sources.values()))

    @cached_property
    def _unread(self) -> tuple[dict[str, list["Part"]], dict[str, Types]]:
        """The files of every table, those of impressions without their rows, and the types of all."""
        parts = {table: _parts(self.root, table, self.schema, self.repair) for table in ("users", "videos")}
        files = _files(self.root, "impressions", self.repair)
        known = expected_columns("impressions", self.schema)
        parts["impressions"] = [_part(self.root, file, _columns(file, self.repair), known=known) for file in files]
        return parts, _types(parts, self.schema, self.numbers)

    def read_days(self, days: Sequence[DayFiles]) -> Source:
        """The impressions of some days. Rows that say they are of another day than their folder are refused."""
        known = expected_columns("impressions", self.schema)
        files = [file for each in days for file in each.files]
        parts = [_part(self.root, file, *_read(file, known, self.repair), known=known) for file in files]
        return _source("impressions", [_joined(each) for each in _alike(parts)], self._unread[1]["impressions"], self.schema)

    def read(self) -> Loaded:
        """Raises DataError naming all that is missing or truncated, and the command `repair`."""
        sources = sources_of(self.root, self.schema, repair=self.repair, numbers=self.numbers)
        tables = Tables(**{name: source.rows() for name, source in sources.items()})
        return Loaded(tables, _refused(sources.values()), _notes(sources.values()))


def sources_of(
    root: Path, schema: FeatureSchema, *, repair: str, numbers: Mapping[str, bool] = MappingProxyType({})
) -> dict[str, Source]:
    """All three tables. Raises DataError naming every one that cannot be read."""
    parts, wrong = {}, []
    for table in _needed(root):
        try:
            parts[table] = _parts(root, table, schema, repair)
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError("\n".join(wrong))
    types = _types(parts, schema, numbers)
    read = {table: _source(table, parts[table], types[table], schema) for table in parts}
    return {table: read[table] if table in read else _nothing(table, schema, read) for table in TABLES}


def _refused(sources: Iterable[Source]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=REJECTED), *(source.refused for source in sources)])


def _notes(sources: Iterable[Source]) -> tuple[str, ...]:
    return tuple(note for source in sources for note in source.notes)


def _needed(root: Path) -> tuple[str, ...]:
    """The tables that `root` must hold: all, but of a catalogue without a log those that are there. A log of another form or
    spelling is one all the same."""
    there = tuple(table for table in TABLES if _paths(root, table))
    has_log = "impressions" in there or _named_alike(root, "impressions")
    return there if "videos" in there and not has_log else tuple(TABLES)


def _nothing(table: str, schema: FeatureSchema, others: Mapping[str, Source]) -> Source:
    """A table without rows, whose ids are of the kind that the others have."""
    kinds = {name: kind for other in others.values() for name, kind in other.frame.schema.items()}
    columns = {}
    for name, one in expected_columns(table, schema).items():
        columns[name] = kinds.get(name, one.types[0]) if one.types == Id else one.types[0]
    return Source(pl.DataFrame(schema=columns), (), (), pl.DataFrame(schema=REJECTED))


# ---- files > one table -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One file as it is: `texts` are the columns that have no type yet, `folder` the columns that its folders name; those that
    it lacks itself stand in `frame`."""

    file: Path
    frame: pl.DataFrame
    texts: frozenset[str]
    folder: Mapping[str, str | None]
    notes: tuple[str, ...] = ()

    @property
    def is_blank(self) -> bool:
        """Whether no column of its own has a type: pandas writes a day without rows so."""
        return all(kind == pl.Null for name, kind in self.frame.schema.items() if name not in self.texts)

    def text(self, name: str) -> pl.Series:
        """A column of `texts`; the folder's value where it is the folder's, also of a file without its rows."""
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
    notes += [f"folder names say {key!r}, which is no column and left out" for key in left_out(root, file, known)]
    lacking = {name: value for name, value in folder.items() if name not in frame.columns}
    texts = {*lacking, *(frame.columns if _form(file) == "CSV" else ())}
    frame = frame.with_columns(pl.lit(value, dtype=pl.String).alias(name) for name, value in lacking.items())
    return Part(file, frame, frozenset(texts), folder, tuple(notes))


def _alike(parts: Sequence[Part]) -> list[list[Part]]:
    """Files that follow each other and are written alike: what is found of the columns of one is found of all."""
    found: list[list[Part]] = []
    for part in parts:
        if found and _written(part) == _written(found[-1][0]):
            found[-1].append(part)
        else:
            found.append([part])
    return found


def _written(part: Part) -> tuple:
    own = {name: value for name, value in part.folder.items() if name not in part.texts}  # compared with what rows say
    return tuple(part.frame.schema.items()), part.texts, frozenset(part.folder), tuple(own.items()), part.notes


def _joined(parts: Sequence[Part]) -> Part:
    return replace(parts[0], frame=pl.concat([part.frame for part in parts])) if len(parts) > 1 else parts[0]


def _types(parts: Mapping[str, Sequence[Part]], schema: FeatureSchema, known: Mapping[str, bool]) -> dict[str, Types]:
    """Table > the types that its columns are read as, the same in all of its files."""
    numbers = _number_ids([part for each in parts.values() for part in each], known)
    types = {}
    for table, each in parts.items():
        types[table] = {}
        for name, one in expected_columns(table, schema).items():
            typed = [part.frame.schema[name] for part in each if name in part.frame.columns and name not in part.texts]
            types[table][name] = target(one, typed, [part.text(name) for part in each if name in part.texts], numbers)
    return types


def _number_ids(parts: Sequence[Part], known: Mapping[str, bool]) -> list[str]:
    """Ids that are `known` as numbers, else those that are wherever they stand as text, and strings nowhere else."""
    names = {name for columns in TABLES.values() for name, column in columns.items() if column.types == Id}
    columns = [(name, kind) for part in parts for name, kind in part.frame.schema.items() if name not in part.texts]
    typed = {name for name, kind in columns if plain(kind) == pl.String}
    found = {name: number_ids(part.text(name) for part in parts if name in part.texts) for name in names - typed}
    return [name for name, is_number in (found | {**known}).items() if is_number]


def _source(table: str, parts: Sequence[Part], types: Types, schema: FeatureSchema) -> Source:
    read = [_converted(part, table, types, schema) for part in parts]
    files, frames = tuple(part.file for part in parts), [frame for frame, _, _ in read]
    _same_types(files, frames)
    heights = tuple(map(len, frames))
    first = [sum(heights[:i]) for i in range(len(heights))]
    refused = [rows.with_columns(pl.col("row") + start) for start, (_, rows, _) in zip(first, read, strict=True)]
    notes = dict.fromkeys(note for part, (_, _, said) in zip(parts, read, strict=True) for note in (*part.notes, *said))
    frame = pl.concat(frames, how="diagonal_relaxed")
    return Source(
        frame, files, heights, pl.concat([pl.DataFrame(schema=REJECTED), *refused]), tuple(f"{table}: {note}" for note in notes)
    )


def _converted(part: Part, table: str, types: Types, schema: FeatureSchema) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """A file's columns as of `types`, the values that are none as in REJECTED, and what to say."""
    frame, refused, notes = part.frame, [pl.DataFrame(schema=REJECTED)], []
    if part.is_blank:
        own = [name for name in frame.columns if name not in part.texts and types.get(name) is not None]
        frame = frame.with_columns(pl.col(name).cast(types[name]) for name in own)
    for name, one in expected_columns(table, schema).items():
        kind = types[name]
        if kind is None or frame.schema.get(name, pl.Null) == pl.Null:
            continue
        read = converted(frame[name], kind, one, is_text=name in part.texts)
        if read is None:
            continue
        refused.append(_rows(table, frame[name], read.refused, read.reason))
        notes += [f"{name}: {note}" for note in read.notes]
        frame = frame.with_columns(read.values.alias(name))
        if name in part.folder and name in part.frame.columns and name not in part.texts:
            refused.append(_astray(table, frame[name], part.folder[name], one))
    return frame, pl.concat(refused), notes


def _astray(table: str, values: pl.Series, said: str | None, one: Expected) -> pl.DataFrame:
    """Rows whose own value is not the one that their folder names."""
    of_folder = converted(pl.Series(one.name, [said], dtype=pl.String), values.dtype, one, is_text=True)
    if of_folder is None:
        return pl.DataFrame(schema=REJECTED)
    differs = values.is_not_null() & values.ne_missing(of_folder.values.item())
    return _rows(table, values, differs, f"{one.name} is not that of its folder")


def _rows(table: str, values: pl.Series, where: pl.Series, reason: str) -> pl.DataFrame:
    rows = where.arg_true()
    bad = values.gather(rows)  # years above 9999 are none of Python's
    shown = bad.cast(pl.String) if bad.dtype.is_temporal() else [str(value) for value in bad]
    answer = {"table": [table] * len(rows), "row": rows.cast(pl.Int64), "reason": [reason] * len(rows), "value": shown}
    return pl.DataFrame(answer, schema=REJECTED)


# ---- one file ----------------------------------------------------------------------------------------------------------


def _form(path: Path) -> str | None:
    """ "Parquet" or "CSV", by the name."""
    return next((form for form, ending in FORMS.items() if re.search(ending, path.name)), None)


def _paths(root: Path, table: str) -> list[Path]:
    """Where the table is; one place is enough."""
    named = [path for path in root.glob(f"{table}.*") if _form(path) and re.sub(FORMS[_form(path)], "", path.name) == table]
    return [*sorted(named, reverse=True), *([root / table] if (root / table).exists() else [])]


def _named_alike(root: Path, table: str) -> list[Path]:
    """What may be meant as the table: its name in any case, in the singular, and with more behind it."""
    return sorted(path for path in root.glob("*") if path.name.lower().startswith(table[:-1]))


def _files(root: Path, table: str, repair: str) -> tuple[Path, ...]:
    """One file, or those of the folder: of one kind, nothing hidden."""
    found = _paths(root, table)
    if not found:
        there = _taken_for(_named_alike(root, table), table)
        raise DataError(
            f"{root / table}.parquet is missing{there}; run `{repair}`. "
            f"A file {table}.csv or a folder {table}/ of either would do too"
        )
    if len(found) > 1:
        raise DataError(f"{' and '.join(map(str, found))} are both there, expected one of them; remove the other")
    if found[0].is_file():
        return (found[0],)
    within = [path.relative_to(found[0]) for path in found[0].rglob("*") if path.is_file()]
    seen = sorted(found[0] / path for path in within if not any(part.startswith((".", "_")) for part in path.parts))
    files = [file for file in seen if _form(file)]
    if len({_form(file) for file in files}) != 1 or len(files) < len(seen):
        others = [file for file in seen if not _form(file)]
        neither = f", {len(others)} of which are neither, such as {others[0]}" if others else ""
        raise DataError(f"{found[0]}/ holds {len(seen)} files{neither}, expected at least one, all .parquet or all .csv")
    return tuple(files)


def _taken_for(others: Sequence[Path], table: str) -> str:
    if not others:
        return ""
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    wrong = f"is no folder {table}/ and no {table}.parquet or {table}.csv" if _form(others[0]) or others[0].is_dir() else None
    return f"; {others[0].name}{more} {wrong or 'is neither Parquet nor CSV'}"


def _read(file: Path, known: Collection[str], repair: str) -> tuple[pl.DataFrame, list[str]]:
    """One file as it is, a CSV as strings, and what to say of how it is written."""
    try:
        if _form(file) == "CSV":
            return read_csv(file, known)
        return pl.read_parquet(file, hive_partitioning=False), []
    except pl.exceptions.NoDataError as error:
        raise DataError(f"{file} is empty, expected a header line; run `{repair}`") from error
    except (pl.exceptions.PolarsError, OSError, pa.ArrowInvalid) as error:
        raise _unreadable(file, error, repair) from error


def _columns(file: Path, repair: str) -> pl.DataFrame:
    """The columns of a Parquet file, without its rows."""
    try:
        return pl.DataFrame(schema=pl.read_parquet_schema(file))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(file, error, repair) from error


def _unreadable(file: Path, error: Exception, repair: str) -> DataError:
    what = str(error).partition("\n")[0]
    return DataError(f"{file} cannot be read as {_form(file)} ({what}); it may be truncated: run `{repair}`")


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

"""Columns of each table: the structure of `tables.py` and the raw features of the schema.

`sound_columns` checks whole columns of a log, before any row is checked.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from watchnext.data.tables import OUTCOMES, TABLES, Column, Tables
from watchnext.schema import Feature, FeatureSchema

ENTITY = {"impressions": "context", "users": "user", "videos": "video"}
INTEGERS = (pl.Int64, pl.Int32, pl.Int16, pl.Int8, pl.UInt64, pl.UInt32, pl.UInt16, pl.UInt8)
FLOATS = (pl.Float32, pl.Float64)
TYPES = {
    "categorical": (pl.String, pl.Boolean, *INTEGERS),
    "numerical": (*FLOATS, *INTEGERS, pl.Boolean),
    "sequence": (pl.List(pl.String), *(pl.List(kind) for kind in INTEGERS)),
    "vector": (pl.List(pl.Float32),),
}

NO_SIGNAL = "its rates stay 0"
CLICKS_ALONE = "where only clicks are known, write 1000 for a click, else 0, and the click as long_view; clients post the same"
ABSENT = {  # outcome that models are trained on > consequence of its absence
    "click": "no model learns clicks",
    "like": "no model learns likes",
    "long_view": "no model learns long views; define one with labels.long_view_s=SECONDS or labels.long_view_ratio=PART",
}
CASTS = {"Int64": "BIGINT", "Int16": "SMALLINT", "Float32": "REAL", "Float64": "DOUBLE", "Boolean": "BOOLEAN", "Date": "DATE"}


@dataclass(frozen=True)
class Expected:
    """Declaration of a column: structure, a raw feature, or both."""

    name: str
    column: Column | None
    feature: Feature | None

    @property
    def types(self) -> tuple:
        """Accepted types; the first one types an absent optional column."""
        return self.column.types if self.column else TYPES[self.feature.kind]

    @property
    def nullable(self) -> bool:
        return (self.column is None or self.column.nullable) and (self.feature is None or self.feature.nullable)

    @property
    def may_lack(self) -> bool:
        return self.nullable or self.name in OUTCOMES

    @property
    def required(self) -> bool:
        """True for a column that every table has after the checks, of nulls where the log lacks it."""
        return self.column is None or self.column.required

    @property
    def lows(self) -> set[float]:
        """Inclusive lower bounds."""
        return {self.column and self.column.minimum, self.feature and self.feature.bounds[0]} - {None}

    @property
    def highs(self) -> set[float]:
        """Inclusive upper bounds."""
        return {self.column and self.column.maximum, self.feature and self.feature.bounds[1]} - {None}


@dataclass(frozen=True)
class Fault:
    """An error of a whole column. kind: missing, unknown or mistyped."""

    kind: str
    table: str
    column: str
    message: str


def expected_columns(table: str, schema: FeatureSchema) -> dict[str, Expected]:
    """Return every column of a table by name, structure first. A user's `history` is folded and is not a column."""
    features = {f.name: f for f in schema.columns(ENTITY[table]) if (f.entity, f.kind) != ("user", "sequence")}
    names = dict.fromkeys([*TABLES[table], *features])
    return {name: Expected(name, TABLES[table].get(name), features.get(name)) for name in names}


def sound_columns(tables: Tables, schema: FeatureSchema) -> tuple[dict[str, pl.DataFrame], list[Fault], dict[str, int]]:
    """Check the columns of all tables. Returns frames, faults and filled counts.

    frames  table > its valid columns in declared order; absent columns are null where required, outcomes have no null
    faults  the errors of all other columns
    filled  "table.column" > number of values that were filled in
    """
    faults: list[Fault] = []
    filled: dict[str, int] = {}
    frames = {name: _completed(name, getattr(tables, name), schema, faults, filled) for name in TABLES}
    for key, table in (("user_id", "users"), ("video_id", "videos")):
        logged, listed = frames["impressions"].schema.get(key), frames[table].schema.get(key)
        if logged and listed and logged != listed:
            cast = cast_to(key, (pl.String,))
            message = (
                f"{key} is {logged} in impressions and {listed} in {table}; expected one id type per data set; write both as "
                f"numbers, or both as text: {cast}"
            )
            faults.append(Fault("mistyped", "impressions", key, message))
            frames["impressions"] = frames["impressions"].drop(key)
    return frames, faults, filled


def _completed(
    table: str, frame: pl.DataFrame, schema: FeatureSchema, faults: list[Fault], filled: dict[str, int]
) -> pl.DataFrame:
    expected = expected_columns(table, schema)
    errors = [_unknown(table, name, [*expected]) for name in frame.columns if name not in expected]
    absent = []
    for one in expected.values():
        if fault := _fault(table, frame, one):
            errors.append(fault)
        elif frame.schema.get(one.name, pl.Null) == pl.Null and (one.required or one.name in frame.columns):
            filled[f"{table}.{one.name}"] = frame.height
            absent.append(pl.lit(None, dtype=one.types[0]).alias(one.name))
    faults += errors
    at_fault = {fault.column for fault in errors}
    frame = frame.with_columns(absent)
    frame = frame.select(name for name in expected if name in frame.columns and name not in at_fault)
    return _outcomes_filled(frame, filled) if table == "impressions" else frame


def _outcomes_filled(impressions: pl.DataFrame, filled: dict[str, int]) -> pl.DataFrame:
    outcomes = [name for name in OUTCOMES if name in impressions.columns]
    filled |= {f"impressions.{name}": nulls for name in outcomes if (nulls := impressions[name].null_count())}
    return impressions.with_columns(pl.col(outcomes).fill_null(False))


def absent_outcomes(filled: Mapping[str, int], rows: int) -> list[str]:
    """Name the outcomes that are absent in all or some of the log's `rows`, with the consequence of each."""
    partly = {name: filled.get(f"impressions.{name}", 0) for name in OUTCOMES}
    notes = [
        f"impressions: {name} is absent in {count:,} of {rows:,} rows and counts as false there: its rate is too low; leave "
        "out the column, or the rows where it is not known"
        for name, count in partly.items()
        if 0 < count < rows
    ]
    absent = [name for name in OUTCOMES if 0 < rows <= filled.get(f"impressions.{name}", 0)]
    return notes + [f"impressions: {name} is absent and counts as false: {ABSENT.get(name, NO_SIGNAL)}" for name in absent]


def _unknown(table: str, name: str, known: list[str]) -> Fault:
    near = difflib.get_close_matches(name.lower(), known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    message = (
        f"{table} has the unknown column {name!r}; {hint}Known: {', '.join(known)}. "
        "A raw feature is one line in conf/features/<data>.yaml"
    )
    return Fault("unknown", table, name, message)


def cast_to(name: str, types: tuple) -> str:
    """Spell the cast to the first of `types` in SQL and in polars."""
    kind = types[0] if isinstance(types[0], pl.DataType) else types[0]()
    inner = getattr(kind, "inner", kind)
    sql = CASTS.get(str(inner), "VARCHAR") + ("[]" if inner is not kind else "")
    dtype = f"pl.List(pl.{inner})" if inner is not kind else f"pl.{inner}"
    return f"CAST({name} AS {sql}) in SQL, pl.col({name!r}).cast({dtype}) in polars"


def _way_to(name: str, kind: pl.DataType, types: tuple) -> str:
    """Describe how to turn a column into one of `types`: a cast, if there is one."""
    inner = getattr(kind, "inner", kind)
    if isinstance(inner, pl.Struct):
        fields = ", ".join(field.name for field in inner.fields)
        return f"the one of its fields that is meant ({fields})"
    if isinstance(inner, pl.List | pl.Array):
        return "one list a row, without lists in it"
    if inner == pl.Binary:
        return f"TO_HEX({name}) in SQL, pl.col({name!r}).bin.encode('hex') in polars, for bytes that are not text"
    return cast_to(name, types)


def _fault(table: str, frame: pl.DataFrame, expected: Expected) -> Fault | None:
    """Return the error of a mistyped or missing column, None for a valid one."""
    name, kind = expected.name, frame.schema.get(expected.name, pl.Null)
    if kind in expected.types or (kind == pl.Null and expected.may_lack):
        return None
    if kind != pl.Null:
        wanted = " or ".join(str(kind) for kind in expected.types)
        message = f"{table}.{name} is of type {kind}, expected {wanted}; write {_way_to(name, kind, expected.types)}"
        return Fault("mistyped", table, name, message)
    if name in frame.columns:
        return Fault("missing", table, name, f"{table}.{name} holds no value, expected one in every row")
    near = difflib.get_close_matches(name, frame.columns, 1)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    if name == "day":
        hint += "; where every day has a folder of its own, name it so: date=2025-03-10"
    if name == "watch_ms":
        hint += f"; {CLICKS_ALONE}"
    message = f"{table} lacks the column {name!r}{hint}. It has: {', '.join(frame.columns)}"
    return Fault("missing", table, name, message)

"""Rows checked against `tables.py` and the feature schema; a rejected row is kept with its reason, never dropped silently."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from watchnext.data.loaders import REJECTED, in_order
from watchnext.data.tables import ID_BYTES, OUTCOMES, TABLES, Column, DataError, Tables
from watchnext.schema import Feature, FeatureSchema

ENTITY = {"impressions": "context", "users": "user", "videos": "video"}
IDS = {"impressions": ("request_id", "user_id", "video_id"), "users": ("user_id",), "videos": ("video_id", "creator_id")}
KEYS = {"impressions": ["user_id", "video_id", "time_ms"], "users": ["user_id"], "videos": ["video_id"]}
INTEGERS = (pl.Int64, pl.Int32, pl.Int16, pl.Int8, pl.UInt64, pl.UInt32, pl.UInt16, pl.UInt8)
FLOATS = (pl.Float32, pl.Float64)
TYPES = {
    "categorical": (pl.String, pl.Boolean, *INTEGERS),
    "numerical": (*FLOATS, *INTEGERS, pl.Boolean),
    "sequence": (pl.List(pl.String), *(pl.List(kind) for kind in INTEGERS)),
    "vector": (pl.List(pl.Float32),),
}


@dataclass(frozen=True)
class Validated:
    """Rows that passed, in order; `rejected` as in REJECTED, one line a row and reason; `filled`, how many values of
    "table.column" the log lacked and a stand-in took their place: null, or False for an outcome."""

    tables: Tables
    rejected: pl.DataFrame
    filled: Mapping[str, int]


def validate(tables: Tables, schema: FeatureSchema) -> Validated:
    """Check every row. Raises DataError for what no row can answer for: a missing, unknown or mistyped column."""
    filled: dict[str, int] = {}
    frames = {name: _completed(name, getattr(tables, name), schema, filled) for name in TABLES}
    _one_kind_of_id(frames)
    rejections: list[pl.DataFrame] = []
    for name in ("users", "videos", "impressions"):  # impressions last: they may only name users and videos that passed
        frames[name] = _checked(name, frames, schema, rejections)
    impressions = in_order(frames["impressions"])
    rejected = pl.concat([pl.DataFrame(schema=REJECTED), *rejections])
    return Validated(Tables(impressions, frames["users"], frames["videos"]), rejected, filled)


def raw_features(schema: FeatureSchema, table: str) -> dict[str, Feature]:
    """Features that are columns of this table; a user's `history` is folded from the impressions and is none."""
    columns = {feature.name: feature for feature in schema.columns(ENTITY[table])}
    return {name: f for name, f in columns.items() if (f.entity, f.kind) != ("user", "sequence")}


def _completed(table: str, frame: pl.DataFrame, schema: FeatureSchema, filled: dict[str, int]) -> pl.DataFrame:
    """Columns named, typed and in order, absent nullable ones null, outcomes without null."""
    columns, features = TABLES[table], raw_features(schema, table)
    names = list(dict.fromkeys([*columns, *features]))
    _known_columns(table, frame, names)
    frame = frame.select([_typed(table, frame, name, columns.get(name), features.get(name), filled) for name in names])
    if table != "impressions":
        return frame
    for name in OUTCOMES:
        if nulls := frame[name].null_count():
            filled[f"impressions.{name}"] = nulls
    return frame.with_columns(pl.col(OUTCOMES).fill_null(False))


def _known_columns(table: str, frame: pl.DataFrame, known: list[str]) -> None:
    for name in frame.columns:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise DataError(
                f"{table} has the unknown column {name!r}; {hint}Known: {', '.join(known)}. "
                "A raw feature is one line in conf/features/<data>.yaml"
            )


def _typed(
    table: str, frame: pl.DataFrame, name: str, column: Column | None, feature: Feature | None, filled: dict[str, int]
) -> pl.Expr:
    """The column as it is, or a null one where the log may lack it."""
    types = column.types if column else TYPES[feature.kind]
    if name in frame.columns and frame.schema[name] in types:
        return pl.col(name)
    if name in frame.columns and frame.schema[name] != pl.Null:
        expected = " or ".join(str(kind) for kind in types)
        raise DataError(f"{table}.{name} is of type {frame.schema[name]}, expected {expected}; mend the loader or the file")
    if not (name in OUTCOMES or _nullable(column, feature)):
        near = difflib.get_close_matches(name, frame.columns, 1)
        hint = f"; the nearest it has is {near[0]!r}" if near else ""
        raise DataError(f"{table} lacks the column {name!r}{hint}. It has: {', '.join(frame.columns)}")
    filled[f"{table}.{name}"] = frame.height
    return pl.lit(None, dtype=types[0]).alias(name)


def _nullable(column: Column | None, feature: Feature | None) -> bool:
    return (column is None or column.nullable) and (feature is None or feature.nullable)


def _one_kind_of_id(frames: Mapping[str, pl.DataFrame]) -> None:
    for key, table in (("user_id", "users"), ("video_id", "videos")):
        logged, listed = frames["impressions"].schema[key], frames[table].schema[key]
        if logged != listed:
            raise DataError(f"{key} is {logged} in impressions and {listed} in {table}; expected one kind of id a data set")


def _checked(
    table: str, frames: Mapping[str, pl.DataFrame], schema: FeatureSchema, rejections: list[pl.DataFrame]
) -> pl.DataFrame:
    """Rows of `table` that pass, first each by itself and against the other tables, then against their own earlier twins."""
    frame = frames[table].with_row_index("row")
    features = raw_features(schema, table)
    columns = {}
    for name in frames[table].columns:
        feature = features.get(name)
        nullable = _nullable(TABLES[table].get(name), feature)
        columns[name] = pa.Column(nullable=nullable, checks=list(_checks(table, name, frames, feature)))
    frame = _passing(table, frame, pa.DataFrameSchema(columns), rejections)
    unique = pa.Check(lambda data: data.lazyframe.select(pl.struct(KEYS[table]).is_first_distinct()), name="duplicate")
    frame = _passing(table, frame, pa.DataFrameSchema({KEYS[table][0]: pa.Column(checks=unique)}), rejections)
    return frame.drop("row")


def _checks(table: str, name: str, frames: Mapping[str, pl.DataFrame], feature: Feature | None) -> Iterator[pa.Check]:
    """What each value of a column must be; nulls are pandera's own check."""
    column, dtype = TABLES[table].get(name, Column(())), frames[table].schema[name]
    low, high = feature.bounds if feature else (None, None)
    for least in {column.minimum, low} - {None}:
        yield pa.Check.ge(least, name=f"{name} is below {least:g}")
    for most in {column.maximum, high} - {None}:
        yield pa.Check.le(most, name=f"{name} is above {most:g}")
    if column.choices:
        yield pa.Check.isin(column.choices, name=f"{name} is not one of {', '.join(column.choices)}")
    if dtype in FLOATS:
        yield _check(pl.col(name).is_finite(), f"{name} is not finite")
    if name in IDS[table] and dtype == pl.String:
        yield _check(pl.col(name).str.len_bytes().is_between(1, ID_BYTES), f"{name} is not of 1 to {ID_BYTES} bytes")
    if feature is not None and feature.kind == "vector":
        yield _check(pl.col(name).list.len() == feature.dimension, f"{name} is not of dimension {feature.dimension}")
        yield _check(
            ~pl.col(name).list.eval(pl.element().is_finite().fill_null(False)).list.contains(False), f"{name} is not finite"
        )
    if table == "impressions" and name in ("user_id", "video_id"):
        entity = name.removesuffix("_id")
        yield _check(pl.col(name).is_in(frames[f"{entity}s"][name].implode()), f"unknown {entity}")


def _check(passes: pl.Expr, reason: str) -> pa.Check:
    return pa.Check(lambda data: data.lazyframe.select(passes.fill_null(True)), name=reason)


def _passing(table: str, frame: pl.DataFrame, schema: pa.DataFrameSchema, rejections: list[pl.DataFrame]) -> pl.DataFrame:
    """Rows that obey `schema`; the others go to `rejections`, once for every reason."""
    try:
        schema.validate(frame, lazy=True)
        return frame
    except SchemaErrors as failed:
        bad = pl.repeat(False, frame.height, eager=True)
        for error in failed.schema_errors:
            if error.check_output is None:  # not a row's fault, so nothing to reject: a mistake in the checks themselves
                raise
            fails = ~error.check_output.to_series()
            bad |= fails
            rejections.append(_rejections(table, frame.filter(fails), error.schema.name, getattr(error.check, "name", None)))
        return frame.filter(~bad)


def _rejections(table: str, rows: pl.DataFrame, column: str, reason: str | None) -> pl.DataFrame:
    shown = KEYS[table] if reason == "duplicate" else [column]
    return pl.DataFrame(
        {
            "table": [table] * rows.height,
            "row": rows["row"].cast(pl.Int64),
            "reason": [reason or f"{column} is null"] * rows.height,
            "value": [" ".join(map(str, values)) for values in rows.select(shown).iter_rows()],
        },
        schema=REJECTED,
    )

"""Check rows against `tables.py` and the feature schema; a rejected row is kept with its reason, never dropped silently."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from watchnext.data.consistency import Evidence, evidence_of, is_in_another_unit, stands_for_null
from watchnext.data.loaders.loaded import REJECTED
from watchnext.data.structure import FLOATS, Expected, expected_columns, sound_columns
from watchnext.data.tables import ID_BYTES, DataError, Tables, in_order
from watchnext.schema import FeatureSchema

IDS = {"impressions": ("request_id", "user_id", "video_id"), "users": ("user_id",), "videos": ("video_id", "creator_id")}
UNKNOWN = ("unknown user", "unknown video")  # reasons that end when the user or video is listed
KEYS = {"impressions": ["user_id", "video_id", "time_ms"], "users": ["user_id"], "videos": ["video_id"]}


@dataclass(frozen=True)
class Validated:
    """Result of the row checks.

    tables    rows that passed, in order
    rejected  one line per row and reason, columns as in REJECTED
    filled    "table.column" > number of absent values that were filled in: null, or False for an outcome
    evidence  counts over all rows about columns that may contradict each other
    """

    tables: Tables
    rejected: pl.DataFrame
    filled: Mapping[str, int]
    evidence: Evidence


def validate(tables: Tables, schema: FeatureSchema) -> Validated:
    """Check every row. Raises DataError naming all missing, unknown and mistyped columns at once."""
    frames, faults, filled = sound_columns(tables, schema)
    if faults:
        raise DataError("\n".join(fault.message for fault in faults))
    passed, rejected = checked_rows(frames, schema)
    tables = Tables(**passed | {"impressions": in_order(passed["impressions"])})
    return Validated(tables, rejected, filled, evidence_of(frames, schema))


def validate_day(impressions: pl.DataFrame, users: pl.DataFrame, videos: pl.DataFrame, schema: FeatureSchema) -> Validated:
    """Check one day's impressions against users and videos that are checked already."""
    frames, faults, filled = sound_columns(Tables(impressions, users, videos), schema)
    if faults:
        raise DataError("\n".join(fault.message for fault in faults))
    rejections = [pl.DataFrame(schema=REJECTED)]
    passed = in_order(_checked("impressions", frames, schema, rejections))
    return Validated(Tables(passed, users, videos), pl.concat(rejections), filled, evidence_of(frames, schema))


def checked_rows(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """Check the rows on the columns that `frames` have. Returns the rows that pass, in the order given, and the others as in
    REJECTED."""
    frames, rejections = dict(frames), [pl.DataFrame(schema=REJECTED)]
    for name in ("users", "videos", "impressions"):  # impressions last: they may only name users and videos that passed
        frames[name] = _checked(name, frames, schema, rejections)
    return frames, pl.concat(rejections)


def _checked(
    table: str, frames: Mapping[str, pl.DataFrame], schema: FeatureSchema, rejections: list[pl.DataFrame]
) -> pl.DataFrame:
    """Return the rows of `table` that pass: first row by row and against the other tables, then without duplicates."""
    frame = frames[table].with_row_index("row")
    expected = expected_columns(table, schema)
    columns = {}
    for name in frames[table].columns:
        columns[name] = pa.Column(nullable=expected[name].nullable, checks=list(_checks(table, frames, expected[name])))
    frame = _passing(table, frame, pa.DataFrameSchema(columns), rejections)
    if set(KEYS[table]) <= set(frame.columns):
        unique = pa.Check(lambda data: data.lazyframe.select(pl.struct(KEYS[table]).is_first_distinct()), name="duplicate")
        frame = _passing(table, frame, pa.DataFrameSchema({KEYS[table][0]: pa.Column(checks=unique)}), rejections)
    return frame.drop("row")


def _checks(table: str, frames: Mapping[str, pl.DataFrame], expected: Expected) -> Iterator[pa.Check]:
    """Yield the checks of a column's values; pandera itself checks nulls."""
    name, feature = expected.name, expected.feature
    dtype = frames[table].schema[name]
    for least in expected.lows:
        yield pa.Check.ge(least, name=f"{name} is below {least:.15g}")
    for most in expected.highs:
        yield pa.Check.le(most, name=f"{name} is above {most:.15g}")
    if expected.column is not None and expected.column.choices:
        choices = expected.column.choices
        yield pa.Check.isin(choices, name=f"{name} is not one of {', '.join(choices)}")
    if name == "time_ms" and "day" in frames[table].columns:
        yield _check(~is_in_another_unit(), "time_ms does not fit its day, but would in a unit other than ms")
        yield _check(~stands_for_null(), "time_ms is 0, its day is not of 1970")
    if dtype in FLOATS:
        yield _check(pl.col(name).is_finite(), f"{name} is not finite")
    if name in IDS[table] and dtype == pl.String:
        yield _check(pl.col(name).str.len_bytes().is_between(1, ID_BYTES), f"{name} is not of 1 to {ID_BYTES} bytes")
        # Ids are kept in fixed-width byte arrays, which are padded with NUL: "a" and "a\0" would become the same one.
        yield _check(~pl.col(name).str.contains("\0", literal=True), f"{name} contains a NUL byte")
    if feature is not None and feature.kind == "vector":
        yield _check(pl.col(name).list.len() == feature.dimension, f"{name} is not of dimension {feature.dimension}")
        yield _check(
            ~pl.col(name).list.eval(pl.element().is_finite().fill_null(False)).list.contains(False), f"{name} is not finite"
        )
    entity = name.removesuffix("_id")
    if table == "impressions" and name in ("user_id", "video_id") and name in frames[f"{entity}s"].columns:
        yield _check(pl.col(name).is_in(frames[f"{entity}s"][name].implode()), f"unknown {entity}")


def _check(passes: pl.Expr, reason: str) -> pa.Check:
    return pa.Check(lambda data: data.lazyframe.select(passes.fill_null(True)), name=reason)


def _passing(table: str, frame: pl.DataFrame, schema: pa.DataFrameSchema, rejections: list[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows that pass `schema`; the others go to `rejections`, once per reason."""
    try:
        schema.validate(frame, lazy=True)
        return frame
    except SchemaErrors as failed:
        bad = pl.repeat(False, frame.height, eager=True)
        for error in failed.schema_errors:
            if error.check_output is None:  # no row failed: the check itself is wrong
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

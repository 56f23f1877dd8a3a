"""Rows checked against `tables.py` and the feature schema; a rejected row is kept with its reason, never dropped silently."""

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
UNKNOWN = ("unknown user", "unknown video")  # reasons that go away when such a one is listed
KEYS = {"impressions": ["user_id", "video_id", "time_ms"], "users": ["user_id"], "videos": ["video_id"]}


@dataclass(frozen=True)
class Validated:
    """Rows that passed, in order; `rejected` as in REJECTED, one line a row and reason; `filled`, how many values of
    "table.column" the log lacked and a stand-in took their place: null, or False for an outcome; `evidence` of columns that
    contradict each other, of all rows."""

    tables: Tables
    rejected: pl.DataFrame
    filled: Mapping[str, int]
    evidence: Evidence


def validate(tables: Tables, schema: FeatureSchema) -> Validated:
    """Check every row. Raises DataError for what no row can answer for: all missing, unknown and mistyped columns at once."""
    frames, faults, filled = sound_columns(tables, schema)
    if faults:
        raise DataError("\n".join(fault.message for fault in faults))
    passed, rejected = checked_rows(frames, schema)
    tables = Tables(**passed | {"impressions": in_order(passed["impressions"])})
    return Validated(tables, rejected, filled, evidence_of(frames, schema))


def validate_day(impressions: pl.DataFrame, users: pl.DataFrame, videos: pl.DataFrame, schema: FeatureSchema) -> Validated:
    """The same for one day's impressions, of users and videos that were checked."""
    frames, faults, filled = sound_columns(Tables(impressions, users, videos), schema)
    if faults:
        raise DataError("\n".join(fault.message for fault in faults))
    rejections = [pl.DataFrame(schema=REJECTED)]
    passed = in_order(_checked("impressions", frames, schema, rejections))
    return Validated(Tables(passed, users, videos), pl.concat(rejections), filled, evidence_of(frames, schema))


def checked_rows(frames: Mapping[str, pl.DataFrame], schema: FeatureSchema) -> tuple[dict[str, pl.DataFrame], pl.DataFrame]:
    """The rows that pass what can be asked of the columns that `frames` have, in the order given, and the others as in
    REJECTED."""
    frames, rejections = dict(frames), [pl.DataFrame(schema=REJECTED)]
    for name in ("users", "videos", "impressions"):  # impressions last: they may only name users and videos that passed
        frames[name] = _checked(name, frames, schema, rejections)
    return frames, pl.concat(rejections)


def _checked(
    table: str, frames: Mapping[str, pl.DataFrame], schema: FeatureSchema, rejections: list[pl.DataFrame]
) -> pl.DataFrame:
    """Rows of `table` that pass, first each by itself and against the other tables, then against their own earlier twins."""
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
    """What each value of a column must be; nulls are pandera's own check."""
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
        yield _check(~is_in_another_unit(), "time_ms is not of its day, but would be in another unit than ms")
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

"""How a table is written as CSV, and read back.

- UTF-8, a header line, fields apart by commas, quoted with `"` where they hold one. An empty field is null.
- A list is `a|b`; a vector too: `0.5|-1.25`.
- A boolean is 0, 1, true or false, in any case; a date is ISO: 2025-03-10.
- An id is a number where all of its kind in the three tables are whole numbers without leading zeros, else a string. The
  same holds for a raw categorical feature by itself.
"""

from collections.abc import Callable, Iterable

import polars as pl

from watchnext.data.columns import Expected
from watchnext.data.loaders import REJECTED
from watchnext.data.tables import Id

BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"  # what comes back as it was written, within 64 bits


def whole_numbers(columns: Iterable[pl.Series]) -> bool:
    """Whether every value that is there is a whole number, and there is one."""
    present = [column.drop_nulls() for column in columns]
    return any(map(len, present)) and all(column.str.contains(WHOLE_NUMBER).all() for column in present)


def parsed(
    table: str, frame: pl.DataFrame, expected: dict[str, Expected], number_ids: Iterable[str]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Strings > the types of `expected`; ids named in `number_ids` become numbers. A value that is none of its type becomes
    null and a row of the second answer, as in REJECTED. Unknown columns stay as they are."""
    refused = [pl.DataFrame(schema=REJECTED)]
    for name in frame.columns:
        if name not in expected or frame.schema[name] != pl.String:
            continue
        kind = _type_of(expected[name], frame[name], number_ids)
        values = frame.select(_readers(kind)(pl.col(name)).alias(name)).to_series()
        bad = (values.is_null() & frame[name].is_not_null()).arg_true()
        refused.append(_refused(table, frame[name], bad, f"{name} is not {_spelt(kind)}"))
        frame = frame.with_columns(values)
    return frame, pl.concat(refused)


def _type_of(expected: Expected, strings: pl.Series, number_ids: Iterable[str]) -> pl.DataType:
    if expected.types == Id:
        return pl.Int64() if expected.name in number_ids else pl.String()
    if expected.column is None and expected.feature.kind == "categorical":
        return pl.Int64() if whole_numbers([strings]) else pl.String()
    if expected.column is None and expected.feature.kind == "numerical":
        return pl.Float64()
    kind = expected.types[0]
    return kind() if isinstance(kind, type) else kind


def _readers(kind: pl.DataType) -> Callable[[pl.Expr], pl.Expr]:
    if kind == pl.Boolean:
        return lambda text: text.str.to_lowercase().replace_strict(BOOLEANS, default=None, return_dtype=pl.Boolean)
    if kind == pl.Date:
        return lambda text: text.str.to_date("%Y-%m-%d", strict=False)
    if kind == pl.List(pl.Float32):
        numbers = pl.element().cast(pl.Float32, strict=False)
        return lambda text: _whole(text.str.split("|").list.eval(numbers))
    if kind == pl.List(pl.String):
        return lambda text: text.str.split("|")
    return lambda text: text.cast(kind, strict=False)


def _whole(lists: pl.Expr) -> pl.Expr:
    """Null for a list with an element that could not be read."""
    return pl.when(lists.list.eval(pl.element().is_null()).list.any()).then(None).otherwise(lists)


def _spelt(kind: pl.DataType) -> str:
    if kind == pl.Boolean:
        return "one of 0, 1, true, false"
    if kind == pl.Date:
        return "a date like 2025-03-10"
    if kind == pl.List(pl.Float32):
        return "numbers apart by |"
    return f"of type {kind}"


def _refused(table: str, strings: pl.Series, rows: pl.Series, reason: str) -> pl.DataFrame:
    answer = {
        "table": [table] * len(rows),
        "row": rows.cast(pl.Int64),
        "reason": [reason] * len(rows),
        "value": strings.gather(rows),
    }
    return pl.DataFrame(answer, schema=REJECTED)

"""Describe the three tables in Markdown, from their declarations."""

import inspect

from watchnext.data.loaders import csv
from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.structure import INTEGERS, Expected, expected_columns
from watchnext.data.tables import ID_BYTES, OUTCOMES, TABLES
from watchnext.data.validation import KEYS
from watchnext.schema import FeatureSchema

HEADER = "| column | type | unit | may be missing | bounds | is |\n|---|---|---|---|---|---|"


def describe_tables(schema: FeatureSchema) -> str:
    """Describe every column of every table with type, unit, nulls and bounds, then the file layout."""
    parts = [_table(table, schema) for table in TABLES]
    layout = inspect.cleandoc(CanonicalTables.__doc__).split("\n\n")[0]
    ids = f"An id is a string of 1 to {ID_BYTES} bytes or an Int64, one type per data set."
    return "\n\n".join([*parts, f"## Files\n\n{ids}\n\n{layout}\n\n{inspect.cleandoc(csv.__doc__)}"])


def _table(table: str, schema: FeatureSchema) -> str:
    rows = [_row(one) for one in expected_columns(table, schema).values()]
    return "\n".join([f"## {table}\n\nOne row per {', '.join(KEYS[table])}.\n\n{HEADER}", *rows])


def _row(one: Expected) -> str:
    feature, column = one.feature, one.column
    unit = (feature and feature.unit) or (column and column.unit) or ""
    part = f"{feature.kind} feature" if feature else "structure"
    cells = (f"`{one.name}`", _types(one), unit, _missing(one), _bounds(one), part)
    return f"| {' | '.join(cells)} |"


def _types(one: Expected) -> str:
    """Format the types; all integer types are summed up as one."""
    if len(one.types) <= len(INTEGERS):
        return " or ".join(map(str, one.types))
    whole = [str(kind) for kind in one.types if "Int" in str(kind)]
    others = [str(kind) for kind in one.types if "Int" not in str(kind)]
    return " or ".join([*others, "List of integers" if "List" in whole[0] else "any integer"])


def _missing(one: Expected) -> str:
    """Format whether values, or the whole column, may be missing."""
    if one.name in OUTCOMES:
        return "yes, counts as false"
    return "yes" if one.nullable else "no"


def _bounds(one: Expected) -> str:
    if one.column is not None and one.column.choices:
        return ", ".join(one.column.choices)
    bounds = [*(f"at least {low:.15g}" for low in sorted(one.lows)), *(f"at most {high:.15g}" for high in sorted(one.highs))]
    if one.feature is not None and one.feature.kind == "vector":
        bounds.append(f"{one.feature.dimension} numbers")
    return ", ".join(bounds)

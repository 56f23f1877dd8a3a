"""Summarise each column of a table: type, unit, missing values, range. Aggregates only: no id, no rare category."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from watchnext.data.card.distribution import quantiles
from watchnext.data.card.log_figures import collected, counted
from watchnext.data.structure import Expected, expected_columns
from watchnext.data.tables import UNITS, Id
from watchnext.schema import FeatureSchema

LEVELS = (0.05, 0.5, 0.95)
SHOWN = 4  # most frequent categories that are shown,
RAREST = 0.001  # each with at least this share of the values
LARGEST = 50  # a column with more categories shows none, as one may identify a user
LETTERS = 24
WIDEST = 1e18  # from here on a number is printed with an exponent
NOTHING = "–"
FIRST, LAST = -30_610_224_000_000, 253_402_300_799_000  # years 1000 to 9999, that a moment is printed for


@dataclass(frozen=True)
class ColumnSummary:
    """Summary of one column. values: low / 5% / median / 95% / high of numbers, most frequent categories, number of ids."""

    column: str
    type: str
    unit: str
    missing: int
    values: str


def summarise_columns(table: str, frame: pl.LazyFrame, schema: FeatureSchema) -> Iterator[ColumnSummary]:
    """Yield a summary of every column in the frame, in declared order."""
    types = frame.collect_schema()
    missing = collected(frame.select(pl.all().null_count()))
    for name, expected in expected_columns(table, schema).items():
        if name in types:
            values = _values(frame.select(name).drop_nulls(), name, types[name], expected)
            yield ColumnSummary(name, str(types[name]), _unit(expected), missing[name].item(), values)


def _unit(expected: Expected) -> str:
    return (expected.feature and expected.feature.unit) or (expected.column and expected.column.unit) or ""


def _values(known: pl.LazyFrame, name: str, kind: pl.DataType, expected: Expected) -> str:
    value = pl.col(name)
    if name == "request_id":  # they grow with the log; `log_figures.Figures` counts them from their order
        return NOTHING
    if name == "fingerprint" or (expected.column is not None and expected.column.types == Id):
        return different(collected(known.select(value.n_unique())).item())
    if "UTC" in _unit(expected):
        return _moments(known, value, UNITS.get(_unit(expected).split()[0], 1.0))
    if kind == pl.Date:
        return _range(known, value)
    if isinstance(kind, pl.List):
        return f"{_numbers(known, value.list.len())} entries".removeprefix(f"{NOTHING} entries") or NOTHING
    if kind == pl.Boolean:
        return f"{percent(_mean(known, value))} true"
    if kind == pl.String or (expected.feature is not None and expected.feature.kind == "categorical"):
        return _categories(counted(known, value, name), name)
    return _numbers(known, value)


def _mean(known: pl.LazyFrame, value: pl.Expr) -> float:
    mean = collected(known.select(value.mean())).item()
    return float("nan") if mean is None else mean


def different(number: int) -> str:
    return f"{number:,} different" if number else NOTHING


def _range(known: pl.LazyFrame, value: pl.Expr) -> str:
    low, high = collected(known.select(low=value.min().cast(pl.String), high=value.max().cast(pl.String))).row(0)
    return NOTHING if low is None else f"{low} to {high}"


def _moments(known: pl.LazyFrame, value: pl.Expr, factor: float) -> str:
    """Format the first and last date of times in units of `factor` ms; values outside the calendar stay numbers."""
    low, high = collected(known.select(low=value.min().cast(pl.Float64), high=value.max().cast(pl.Float64))).row(0)
    if low is None:
        return NOTHING
    if not FIRST <= low * factor <= high * factor <= LAST:
        return f"{number(low)} to {number(high)}, no moments"
    dates = [datetime.fromtimestamp(each * factor / 1000, UTC).date() for each in (low, high)]
    return f"{dates[0]} to {dates[1]}"


def _categories(counts: pl.DataFrame, name: str) -> str:
    if not 0 < len(counts) <= LARGEST:
        return different(len(counts))
    total = counts["impressions"].sum()
    first = counts.sort("impressions", descending=True, maintain_order=True).head(SHOWN)
    first = first.filter(pl.col("impressions") >= RAREST * total)
    shares = [f"{plain(value)} {percent(number / total)}" for value, number in first.select(name, "impressions").iter_rows()]
    others = len(counts) - len(first)
    return ", ".join([*shares, f"{others} other{'s' if others > 1 else ''}"] if others else shares)


def _numbers(known: pl.LazyFrame, value: pl.Expr) -> str:
    """Format quantiles to three digits, which keeps the number of distinct values small for any log."""
    rounded = value.cast(pl.Float64).round_sig_figs(3).alias("rounded")
    counts = known.group_by(rounded).agg(pl.len().alias("impressions"), low=value.min(), high=value.max())
    counts = collected(counts).sort("rounded")
    if counts.is_empty():
        return NOTHING
    if counts["low"].min() == counts["high"].max():
        return number(counts["low"].min())
    middle = quantiles(counts["rounded"].to_numpy(), counts["impressions"].to_numpy(), LEVELS)
    return " / ".join(map(number, [counts["low"].min(), *middle.tolist(), counts["high"].max()]))


def number(value: float) -> str:
    """Format a number: integers in full, others to three digits, nan as a dash."""
    if np.isnan(value):
        return NOTHING
    if np.isinf(value) or abs(value) >= WIDEST:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.3g}"


def percent(part: float) -> str:
    return NOTHING if np.isnan(part) else f"{100 * part:.3g}%"


def plain(value: object) -> str:
    """Format a value of a log for a Markdown table."""
    word = str(value) if len(str(value)) <= LETTERS else f"{str(value)[:LETTERS]}..."
    return "`" + "".join(letter if letter.isprintable() and letter not in "`|" else "?" for letter in word) + "`"

"""Check a log and report all errors with counts and examples."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from watchnext.data.card.statistics import dominating
from watchnext.data.consistency import contradictions, evidence_of
from watchnext.data.loaders.canonical import TableSource
from watchnext.data.structure import absent_outcomes, sound_columns
from watchnext.data.tables import TABLES, Tables
from watchnext.data.validation import checked_rows
from watchnext.schema import FeatureSchema

EXAMPLES = 3
LONGEST = 80  # characters shown of a value


@dataclass(frozen=True)
class Finding:
    """One error of a log.

    kind      missing, unknown, mistyped, out of range, duplicated, out of order, contradiction or suspicious
    count     number of rows, None for a whole column
    examples  location and value of the first rows
    """

    kind: str
    table: str
    message: str
    count: int | None = None
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = "" if self.count is None else f": {self.count:,} row{'s' if self.count > 1 else ''}"
        return "\n".join([f"{self.kind:<12} {self.table}: {self.message}{rows}", *(f"{'':<15}{one}" for one in self.examples)])


def check_log(sources: Mapping[str, TableSource], schema: FeatureSchema) -> list[Finding]:
    """Check a log: columns first, then the rows of all valid columns, in the order of the tables."""
    frames, faults, _ = sound_columns(Tables(**{name: source.rows() for name, source in sources.items()}), schema)
    _, rejected = checked_rows(frames, schema)
    findings = [Finding(fault.kind, fault.table, fault.message) for fault in faults]
    if sources["videos"].frame.is_empty():  # a log, and its users, may come later
        findings.append(Finding("missing", "videos", "there are no rows"))
    for table in TABLES:
        source, rows = sources[table], sources[table].convertible
        findings += _grouped(source, source.refused, "mistyped")
        of_table = rejected.filter(table=table)
        findings += _grouped(source, of_table.with_columns(rows.gather(of_table["row"]).alias("row")), None)
    contradicting = contradictions(evidence_of(frames, schema), schema)
    findings += [Finding("contradiction" if one.refused else "suspicious", one.table, one.message) for one in contradicting]
    return findings + list(_out_of_order(sources["impressions"], frames["impressions"])) + list(_bots(frames["impressions"]))


def notes(sources: Mapping[str, TableSource], schema: FeatureSchema) -> list[str]:
    """Return notes for review: conversions while reading, and absent outcomes. They are no errors."""
    tables = Tables(**{name: source.rows() for name, source in sources.items()})  # without rejected rows
    _, _, filled = sound_columns(tables, schema)
    return [*(note for source in sources.values() for note in source.notes), *absent_outcomes(filled, len(tables.impressions))]


def _kind(reason: str) -> str:
    if reason.endswith(" is null"):
        return "missing"
    if reason.startswith("unknown "):
        return "unknown"
    return "duplicated" if reason == "duplicate" else "out of range"


def _grouped(source: TableSource, rejected: pl.DataFrame, kind: str | None) -> Iterator[Finding]:
    for (table, reason), rows in rejected.group_by("table", "reason", maintain_order=True):
        first = rows.sort("row").head(EXAMPLES)
        examples = tuple(_example(source, row, value) for row, value in first.select("row", "value").iter_rows())
        yield Finding(kind or _kind(reason), table, reason, len(rows), examples)


def _example(source: TableSource, row: int, value: str) -> str:
    file, number = source.locate(row)
    shown = value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
    return f"{file} row {number}: {shown}".replace("\0", "\\0")  # visible on a terminal


def _out_of_order(source: TableSource, impressions: pl.DataFrame) -> Iterator[Finding]:
    """Find rows earlier than the row before, and outcomes received before their request.

    The loader sorts the first, and the feature stage ignores the second, but both show a log that was not written in order.
    """
    if "time_ms" not in impressions.columns:
        return
    latest = pl.col("time_ms").cum_max().shift()
    yield from _ordered(source, impressions, "time_ms is below that of an earlier row", latest, pl.col("time_ms"))
    if "received_ms" in impressions.columns:
        message = "received_ms is before time_ms"
        yield from _ordered(source, impressions, message, pl.col("time_ms"), pl.col("received_ms"))


def _ordered(source: TableSource, rows: pl.DataFrame, message: str, least: pl.Expr, value: pl.Expr) -> Iterator[Finding]:
    """Yield a finding if some `value` is below `least`."""
    wrong = rows.select(source.convertible.alias("row"), least.alias("least"), value.alias("value")).filter(
        pl.col("value") < pl.col("least")
    )
    if len(wrong):
        examples = tuple(_example(source, row, f"{got} < {wanted}") for row, wanted, got in wrong.head(EXAMPLES).iter_rows())
        yield Finding("out of order", "impressions", message, len(wrong), examples)


def _bots(impressions: pl.DataFrame) -> Iterator[Finding]:
    """Find viewers who dominate the log."""
    if "user_id" not in impressions.columns:
        return
    counts = impressions["user_id"].drop_nulls().value_counts(sort=True)
    median, rows = counts["count"].median(), counts["count"].sum()
    for viewer, count in counts.filter(dominating(counts["count"].to_numpy())).iter_rows():
        message = (
            f"user_id {viewer} has {count / rows:.1%} of the log, {count / median:,.0f} times the median viewer's: a bot, or "
            "a shared id? It dominates training and evaluation over impressions; leave it out, or give each viewer an id"
        )
        yield Finding("suspicious", "impressions", message, count)

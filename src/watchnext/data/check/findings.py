"""What is wrong with a log, all of it, with counts and examples: for whoever brings one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from watchnext.data.card.statistics import dominating
from watchnext.data.consistency import contradictions, evidence_of
from watchnext.data.loaders.canonical import Source
from watchnext.data.structure import absent_outcomes, sound_columns
from watchnext.data.tables import TABLES, Tables
from watchnext.data.validation import checked_rows
from watchnext.schema import FeatureSchema

EXAMPLES = 3
LONGEST = 80  # letters of a value that are shown


@dataclass(frozen=True)
class Finding:
    """kind: missing, unknown, mistyped, out of range, duplicated, out of order, contradiction or suspicious. `count` of rows,
    None where it is of a whole column; `examples` are the first of them: where, and the value."""

    kind: str
    table: str
    what: str
    count: int | None = None
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = "" if self.count is None else f": {self.count:,} row{'s' if self.count > 1 else ''}"
        return "\n".join([f"{self.kind:<12} {self.table}: {self.what}{rows}", *(f"{'':<15}{one}" for one in self.examples)])


def findings(sources: Mapping[str, Source], schema: FeatureSchema) -> list[Finding]:
    """Columns first, then the rows of every column that can be looked at, in the order of the tables."""
    frames, faults, _ = sound_columns(Tables(**{name: source.rows() for name, source in sources.items()}), schema)
    _, rejected = checked_rows(frames, schema)
    found = [Finding(fault.kind, fault.table, fault.message) for fault in faults]
    if sources["videos"].frame.is_empty():  # a log may be still to come, and with it its users
        found.append(Finding("missing", "videos", "there are no rows"))
    for table in TABLES:
        source, kept = sources[table], sources[table].kept
        found += _grouped(source, source.refused, "mistyped")
        mine = rejected.filter(table=table)
        found += _grouped(source, mine.with_columns(kept.gather(mine["row"]).alias("row")), None)
    told = contradictions(evidence_of(frames, schema), schema)
    found += [Finding("contradiction" if one.refused else "suspicious", one.table, one.what) for one in told]
    return found + list(_out_of_order(sources["impressions"], frames["impressions"])) + list(_bots(frames["impressions"]))


def notes(sources: Mapping[str, Source], schema: FeatureSchema) -> list[str]:
    """What is not wrong, but read as something else, or missed: for a person to agree to."""
    tables = Tables(**{name: source.rows() for name, source in sources.items()})  # what was refused is not missed
    _, _, filled = sound_columns(tables, schema)
    return [*(note for source in sources.values() for note in source.notes), *absent_outcomes(filled, len(tables.impressions))]


def _kind(reason: str) -> str:
    if reason.endswith(" is null"):
        return "missing"
    if reason.startswith("unknown "):
        return "unknown"
    return "duplicated" if reason == "duplicate" else "out of range"


def _grouped(source: Source, rejected: pl.DataFrame, kind: str | None) -> Iterator[Finding]:
    for (table, reason), rows in rejected.group_by("table", "reason", maintain_order=True):
        first = rows.sort("row").head(EXAMPLES)
        examples = tuple(_example(source, row, value) for row, value in first.select("row", "value").iter_rows())
        yield Finding(kind or _kind(reason), table, reason, len(rows), examples)


def _example(source: Source, row: int, value: str) -> str:
    file, place = source.place(row)
    shown = value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
    return f"{file} row {place}: {shown}".replace("\0", "\\0")  # else a terminal would not show it


def _out_of_order(source: Source, impressions: pl.DataFrame) -> Iterator[Finding]:
    """Rows before an earlier row's time, and outcomes before their own request's: the loader sorts the first, and the feature
    stage does not believe the second, but either tells of a log that was not written as it happened."""
    if "time_ms" not in impressions.columns:
        return
    latest = pl.col("time_ms").cum_max().shift()
    yield from _ordered(source, impressions, "time_ms is below that of an earlier row", latest, pl.col("time_ms"))
    if "received_ms" in impressions.columns:
        what = "received_ms is before time_ms"
        yield from _ordered(source, impressions, what, pl.col("time_ms"), pl.col("received_ms"))


def _ordered(source: Source, rows: pl.DataFrame, what: str, least: pl.Expr, value: pl.Expr) -> Iterator[Finding]:
    """A finding where `value` is below `least`."""
    wrong = rows.select(source.kept.alias("row"), least.alias("least"), value.alias("value")).filter(
        pl.col("value") < pl.col("least")
    )
    if len(wrong):
        examples = tuple(_example(source, row, f"{got} < {wanted}") for row, wanted, got in wrong.head(EXAMPLES).iter_rows())
        yield Finding("out of order", "impressions", what, len(wrong), examples)


def _bots(impressions: pl.DataFrame) -> Iterator[Finding]:
    """Name the viewers who have too much of the log."""
    if "user_id" not in impressions.columns:
        return
    counts = impressions["user_id"].drop_nulls().value_counts(sort=True)
    median, rows = counts["count"].median(), counts["count"].sum()
    for viewer, count in counts.filter(dominating(counts["count"].to_numpy())).iter_rows():
        what = (
            f"user_id {viewer} has {count / rows:.1%} of the log, {count / median:,.0f} times the median viewer's: a bot, or "
            "an id that many share? What is learned and measured over impressions is about it; leave it out, or give each "
            "viewer an id"
        )
        yield Finding("suspicious", "impressions", what, count)

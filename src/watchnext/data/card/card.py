"""Write the data card in Markdown with plots. Equal tables give equal bytes; it holds no row and no time of writing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.data.card import plots
from watchnext.data.card.column_summary import NOTHING, number, percent, summarise_columns
from watchnext.data.card.distribution import LEVELS, gini, quantiles, top_share
from watchnext.data.card.log_figures import MOST_PERCENT, DataSet, Figures
from watchnext.data.card.provenance import provenance_of, provenance_of_others
from watchnext.data.splits import NO_SPLIT, SPLITS, TimeSplit
from watchnext.data.tables import OUTCOMES, TABLES
from watchnext.schema import FeatureSchema

PLOTS = "data_card"  # folder beside the card
AT = ["least", *(f"{100 * level:g}%" for level in LEVELS[1:-1]), "most"]


@dataclass(frozen=True, kw_only=True)
class StateSize:
    """State size of the viewers: bytes used (U,) of at most `limit`; `when` describes the time of the state."""

    used: np.ndarray
    limit: int
    when: str


def write_card(
    out: Path,
    data: DataSet,
    *,
    schema: FeatureSchema,
    split: TimeSplit,
    utc_offset_h: float,
    state_size: StateSize,
    command: str,
) -> Path:
    """Write `data_card.md` and its plots into `out`; returns its path. The card prints the `command` that writes it."""
    figures = Figures.of(data, split, utc_offset_h)
    folder = Path(out) / PLOTS
    folder.mkdir(parents=True, exist_ok=True)
    draw(figures, state_size, folder)
    parts = [
        f"# Data card: {data.name}\n\nWritten by `{command}`. Origin and licence come from "
        "`src/watchnext/data/card/provenance.py`.",
        provenance_of(data.name),
        overview(data, figures),
        held_out(figures, split),
        outcomes(figures),
        watching(figures),
        distributions(figures),
        rhythm(figures),
        *(columns(table, data, figures, schema) for table in TABLES),
        bytes_a_viewer(state_size),
        rejected(data),
        f"## Other data sets\n{provenance_of_others(data.name)}",
    ]
    path = Path(out) / "data_card.md"
    path.write_text("\n\n".join(parts) + "\n")
    return path


def draw(figures: Figures, state_size: StateSize, folder: Path) -> None:
    days, ratio = figures.days, figures.percent
    reached = ratio["impressions"].reverse().cum_sum().reverse() / max(ratio["impressions"].sum(), 1)
    plots.watch_ratio(ratio["percent"].to_numpy(), reached.to_numpy(), folder / "watch_ratio.png")
    plots.distributions({table: figures.distribution(table).at_least() for table in ("users", "videos")}, folder / "tails.png")
    rate = (days["long_view"] / days["impressions"]).to_numpy()
    plots.days([f"{day:%m-%d}" for day in days["day"]], days["impressions"].to_numpy(), rate, folder / "days.png")
    plots.hours(figures.hours / max(figures.impressions, 1), folder / "hours.png")
    plots.state_size(state_size.used, state_size.limit, folder / "bytes.png")


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def image(name: str, caption: str) -> str:
    return f"![{caption}]({PLOTS}/{name}.png)"


def overview(data: DataSet, figures: Figures) -> str:
    counted, repeated = figures.repeats
    sample = f", counted on {counted:,} of them" if counted < figures.impressions else ""
    rows = [
        ("Hash of the tables", f"`{data.hash}`"),
        ("Days", f"{figures.days['day'].min()} to {figures.days['day'].max()}"),
        ("Impressions", f"{figures.impressions:,}"),
        ("Requests", f"{figures.requests:,}, with {figures.impressions / max(figures.requests, 1):.1f} impressions on average"),
        ("Users", f"{figures.rows['users']:,}, of which {len(figures.users):,} have an impression"),
        ("Videos", f"{figures.rows['videos']:,}, of which {len(figures.videos):,} have an impression"),
        ("Repeats", f"{percent(repeated / max(counted, 1))} of impressions repeat a video to a user{sample}"),
        ("Rows rejected", f"{sum(data.rejected.values()):,}"),
    ]
    return f"## Contents\n{table(['', ''], rows)}"


def held_out(figures: Figures, split: TimeSplit) -> str:
    rows = []
    for index, name in [*enumerate(SPLITS), (NO_SPLIT, "none (gap or warm-up)")]:
        days = figures.days.filter(split=index)
        if len(days):
            span = f"{days['day'].min()} to {days['day'].max()}"
            cold = [percent(figures.cold(entity, name)) if index > 0 else NOTHING for entity in ("users", "videos")]
            rows.append((name, span, f"{days['impressions'].sum():,}", *cold))
    header = ("split", "days", "impressions", "share of users unseen in training", "share of videos unseen in training")
    moved = split.moved_message(figures.days["day"])
    note = f" {moved[0].upper()}{moved[1:]}." if moved else ""
    return f"## Splits\nBy day: {split}.{note}\n\n{table(header, rows)}"


def outcomes(figures: Figures) -> str:
    days = figures.days
    overall = table(OUTCOMES, [[percent(figures.rate(name)) for name in OUTCOMES]])
    rows = []
    for day in days.iter_rows(named=True):
        rates = [percent(day[name] / day["impressions"]) for name in ("click", "long_view", "like")]
        rows.append((day["day"], f"{day['impressions']:,}", *rates, f"{day['watch_ms'] / day['impressions'] / 1000:.1f}"))
    by_day = table(("day", "impressions", "click", "long view", "like", "mean watch, s"), rows)
    plot = image("days", "Impressions and long view rate by day")
    return f"## Outcomes\nShare of all impressions:\n\n{overall}\n\n{plot}\n\n{by_day}"


def watching(figures: Figures) -> str:
    ratio, seconds = figures.percent, figures.delay
    parts = [ratio["percent"].to_numpy() / 100, seconds["seconds"].to_numpy()]
    counts = [frame["impressions"].to_numpy() for frame in (ratio, seconds)]
    names = (f"watch ratio, at most {MOST_PERCENT / 100:g}", "outcome received after the request, s")
    rows = [
        (name, *map(number, quantiles(values, known).tolist()), percent(1 - known.sum() / max(figures.impressions, 1)))
        for name, values, known in zip(names, parts, counts, strict=True)
    ]
    completed = ratio.filter(ratio["percent"] >= 100)["impressions"].sum() / max(ratio["impressions"].sum(), 1)
    mean = figures.days["watch_ms"].sum() / max(figures.impressions, 1) / 1000
    return (
        f"## Watching\nMean watch time is {mean:.1f} s; {percent(figures.rate('unwatched'))} of impressions have none.\n"
        f"{percent(completed)} of videos with a known duration were watched to the end or longer.\n\n"
        f"{table(('', *AT, 'unknown'), rows)}\n\n{image('watch_ratio', 'Share of impressions by least watch ratio')}"
    )


def distributions(figures: Figures) -> str:
    rows = []
    for entity in ("users", "videos"):
        distribution = figures.distribution(entity)
        shares = [percent(top_share(distribution.counts, part)) for part in (0.01, 0.1)]
        rows.append(
            (
                f"impressions of {entity}",
                *map(number, distribution.quantiles.tolist()),
                *shares,
                f"{gini(distribution.counts):.3f}",
            )
        )
    header = ("", *AT, "share of the top 1%", "of the top 10%", "Gini")
    caption = "Share of users and of videos by least number of impressions"
    figure = image("tails", caption)
    return f"## Activity and popularity\nUsers and videos with at least one impression:\n\n{table(header, rows)}\n\n{figure}"


def rhythm(figures: Figures) -> str:
    return f"## Rhythm\n{image('hours', 'Share of impressions by local hour')}"


def columns(name: str, data: DataSet, figures: Figures, schema: FeatureSchema) -> str:
    rows = []
    for one in summarise_columns(name, data.frames[name], schema):
        missing = percent(one.missing / max(figures.rows[name], 1)) if one.missing else "0"
        rows.append((f"`{one.column}`", one.type, one.unit, missing, one.values))
    legend = "numbers: least / 5% / median / 95% / most, to three digits; categories: the most frequent"
    header = ("column", "type", "unit", "missing", "values")
    return f"## Table `{name}`\n{figures.rows[name]:,} rows. Values: {legend}.\n\n{table(header, rows)}"


def bytes_a_viewer(state_size: StateSize) -> str:
    """Describe the state size of all users, also of users without an impression."""
    used, counts = np.unique(state_size.used, return_counts=True)
    full = percent((state_size.used >= state_size.limit).mean() if len(used) else float("nan"))
    row = (*map(number, quantiles(used, counts).tolist()), f"{state_size.limit:,}", full)
    return (
        "## Bytes per viewer\nThe online state of a viewer is a record of fixed size. Bytes in use "
        f"{state_size.when}:\n\n{table((*AT, 'limit', 'at the limit'), [row])}\n\n"
        + image("bytes", "Share of viewers by most bytes in use")
    )


def rejected(data: DataSet) -> str:
    rows = [(f"{count:,}", reason) for reason, count in sorted(data.rejected.items())]
    text = table(("rows", "table and reason"), rows) if rows else "No row was rejected."
    if data.filled:
        filled = [(f"`{name}`", f"{count:,}") for name, count in sorted(data.filled.items())]
        text += "\n\nValues that the log lacks, filled with null, or false for an outcome:\n\n" + table(
            ("column", "values"), filled
        )
    return f"## Rejected rows and missing columns\n{text}"

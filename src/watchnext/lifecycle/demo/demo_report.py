"""Render the demo: a picture of the days, and a page of Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from watchnext.data.card.plots import save
from watchnext.evaluation.experiment.experiment_report import GRID, INK
from watchnext.lifecycle.demo.arms import ARMS, STILL, YARDSTICK
from watchnext.lifecycle.demo.demo_figures import verdicts
from watchnext.metrics import shown

COLOURS = {
    YARDSTICK: "#9a9a9a", "frozen": "#7a5c3a", "streamed": "#d9722a", "weekly": "#9a4bb0", "daily": "#3a9a5b",
    "loop": "#1f6fb4",
}  # fmt: skip


def demo_plot(figures: Mapping, path: Path) -> None:
    """Plot seconds per viewer by day and arm with drift verdicts and promotions, and the training of each arm beside it."""
    figure = Figure(figsize=(10.0, 3.8), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(4, 1))
    arms, days = figures["arms"], np.arange(1, figures["days"] + 1)
    for name, arm in arms.items():
        style = {"color": COLOURS[name], "linewidth": 2.2 if name == "loop" else 1.3, "label": name}
        seconds = np.array(arm["daily"]["watch_s"])
        left.plot(days, seconds, linestyle="--" if name == YARDSTICK else "-", **style)
        for marker, key in (("^", "promotions"), ("x", "drifts")):
            at = np.array(arm[key], int)
            left.plot(at, seconds[at - 1], marker, color=COLOURS[name], markersize=7 if marker == "^" else 5)
    left.axvline(figures["shift_day"] - 0.5, color=INK, linewidth=0.8, linestyle=":")
    left.annotate("tastes shift", (figures["shift_day"] - 0.45, left.get_ylim()[1]), fontsize=7, color=INK, va="top")
    left.set_title(
        "Seconds watched per viewer; after the day: \u25b2 a retrained release was promoted, \u00d7 drift was found",
        fontsize=8, color=INK, loc="left",
    )  # fmt: skip
    left.set_xlabel("day", fontsize=8, color=INK)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    names = [name for name in arms if name != YARDSTICK][::-1]
    right.barh(names, [arms[name]["train_s"] for name in names], color=[COLOURS[name] for name in names])
    right.set_title("Training, s of a processor", fontsize=8, color=INK, loc="left")
    for axes in (left, right):
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    save(figure, Path(path), colours=64)


def _spread(values: Sequence[float] | None, form: str, times: float = 1.0) -> str:
    if values is None:
        return "-"
    value, low, high = (shown(None if each is None else times * each, form) for each in values)  # null: undefined
    return f"{value} [{low}, {high}]"


def table_rows(figures: Mapping) -> list[list[str]]:
    """Return the table of the arms, head first."""
    head = ["arm", "s a viewer and day", "lost on the day of the shift", f"lost on day {figures['judged_day']}", "recovered %",
            "trainings", "training, s", "promoted", "value, s"]  # fmt: skip
    rows = [
        [
            name, _spread(arm["watch_s"], ".1f"), _spread(arm["shift_cost_s"], ".1f"), _spread(arm["left_s"], ".1f"),
            _spread(arm["recovered"], ".0f", 100), str(arm["trainings"]), f"{arm['train_s']:,.0f}", str(len(arm["promotions"])),
            f"{arm['value_s']:,.0f}",
        ]
        for name, arm in figures["arms"].items()
    ]  # fmt: skip
    return [head, *rows]


def demo_page(report: Mapping) -> str:
    """Return the page of the demo in Markdown, which shows demo.png beside it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Mapping) -> Iterator[str]:
    figures = report["figures"]
    yield "# The loop beside other ways to retrain"
    yield ""
    lived = "{days} days of {viewers} simulated viewers; tastes shift on day {shift_day}".format(**figures)
    yield f"{lived}; seed {report['seed']}."
    yield ""
    yield "![Seconds watched per viewer by day and arm](demo.png)"
    yield ""
    for number, row in enumerate(table_rows(figures)):
        yield f"| {' | '.join(row)} |"
        if not number:
            yield "|---" * len(row) + "|"
    yield ""
    for name in figures["arms"]:
        yield f"- **{name}**: {STILL.says if name == YARDSTICK else ARMS[name].says}"
    yield ""
    priced = f"watch time less {figures['price']:g} s for each second of training"
    yield f"Intervals are 95%, by bootstrap over viewers. Value: {priced}."
    yield ""
    for what, holds in verdicts(figures).items():
        yield f"- the loop {what}: {'is not known' if holds is None else 'yes' if holds else 'no'}"
    yield ""
    yield "## Passes"
    yield ""
    for name, passes in report["passes"].items():
        for each in passes:
            drifted = f" ({', '.join(each['drifted'])})" if each["drifted"] else ""
            yield f"- {name}, day {each['day']}: drift verdict {each['drift']}{drifted}; {each['decision']}: {each['reason']}"

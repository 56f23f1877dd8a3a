"""Render the report of an experiment: a table, and a picture of each arm's days."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from watchnext.data.card.plots import save
from watchnext.evaluation.experiment.arm_figures import UNITS
from watchnext.metrics import aligned, shown

INK, GRID = "#444444", "#e6e6e6"
COLOURS = ("#1f6fb4", "#d9722a", "#3a9a5b", "#9a4bb0", "#9a9a9a", "#c23b3b", "#7a5c3a")


def experiment_table(report: Mapping) -> str:
    """Render the figures of each arm, the differences, and what an A/B test or an interleaved arm says."""
    return "\n".join([*_arms(report), *_differences(report), *_tests(report), *_preference(report)])


def _arms(report: Mapping) -> Iterator[str]:
    yield "{release} in {world}: {days} days, {viewers} viewers, design {design}".format(**report)
    rows = [["arm", "viewers", "requests", "videos shown", *UNITS]]
    for name, arm in report["arms"].items():
        counts = (f"{arm[key]:,}" for key in ("viewers", "requests", "videos_shown"))
        rows.append([name, *counts, *(shown(arm[figure][0], ".4g") for figure in UNITS)])
    yield from aligned(rows)
    yield from (f"  {name}: {unit}" for name, unit in UNITS.items())


def _interval(spread: list[float | None], form: str) -> str:
    value, low, high = (shown(each, form) for each in spread)
    return f"{value} [{low}, {high}]"


def _differences(report: Mapping) -> Iterator[str]:
    if not report["differences"]:
        return
    yield "differences with 95% intervals by bootstrap over viewers, relative ones in percent"
    names = ("watch_s", "long_views", "days_visited", "day_n_return")
    rows = [["", "watch_s", *(f"{name} %" for name in names)]]
    for pair, figures in report["differences"].items():
        relative = (_interval([None if v is None else 100 * v for v in figures[name]["relative"]], "+.1f") for name in names)
        rows.append([pair, _interval(figures["watch_s"]["difference"], "+.2f"), *relative])
    yield from aligned(rows)


def _tests(report: Mapping) -> Iterator[str]:
    for pair, test in report.get("ab_test", {}).items():
        decided = test["decided_after_h"]
        when = "never in this time" if decided is None else f"after {decided} h"
        yield (
            f"{pair}: {_interval(test['single_look'], '+.2f')} s per viewer and day in one look, "
            f"{_interval(test['always_valid'], '+.2f')} always valid, decided {when}; "
            f"+1% takes {test['viewers_for_1%']:,} viewers, these suffice for {test['detectable']:+.1%}"
        )


def _preference(report: Mapping) -> Iterator[str]:
    if found := report.get("interleaved"):
        first, second = found["policies"]
        yield (
            f"interleaved: {first} is credited {_interval(found['credit'], '+.4f')} long views a request more than {second} "
            f"({found['requests']:,} requests of {found['viewers']:,} viewers)"
        )


def experiment_plot(daily: Mapping[str, Mapping], path: Path) -> None:
    """Plot seconds per viewer by day and arm, with twice the standard error, and beside it the share of viewers who came."""
    figure = Figure(figsize=(9.0, 3.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, days) in zip(np.resize(COLOURS, len(daily)).tolist(), daily.items(), strict=True):
        at = np.arange(1, len(days["came"]) + 1)
        left.errorbar(at, days["watch_s"], yerr=days["watch_s_2se"], color=colour, label=name, linewidth=1.4, capsize=2)
        right.plot(at, days["came"], color=colour, linewidth=1.4)
    _titled(left, "Seconds watched per viewer and day")
    _titled(right, "Share of the viewers who came")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    save(figure, Path(path), colours=64)


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK, loc="left")
    axes.set_xlabel("day", fontsize=8, color=INK)
    axes.set_ylim(bottom=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)

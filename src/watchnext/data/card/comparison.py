"""Compare logs: a table of figures and a plot of curves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from watchnext.data.card.distribution import Distribution
from watchnext.data.card.plots import save
from watchnext.data.card.statistics import RATIOS, Statistics

COLOURS = ("#444444", "#1f6fb4", "#d9722a", "#3c9d63", "#a04fb0")


def markdown(logs: Mapping[str, Statistics]) -> str:
    """Return a Markdown table with one row per figure and one column per log."""
    names = next(iter(logs.values())).figures
    rows = [[name, *(_number(log.figures[name]) for log in logs.values())] for name in names]
    head = [["", *logs], ["---", *("---:" for _ in logs)]]
    return "\n".join(f"| {' | '.join(row)} |" for row in head + rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"


def picture(logs: Mapping[str, Statistics], path: Path) -> None:
    """Plot watch ratios by duration group, distributions and hours; equal numbers give equal bytes."""
    groups = list(next(iter(logs.values())).watch_ratio)
    figure = Figure(figsize=(11, 6.2), dpi=100, layout="constrained")
    axes = figure.subplots(3, 3).ravel()
    for i, group in enumerate(groups):
        for colour, log in zip(COLOURS, logs.values(), strict=False):
            axes[i].plot(RATIOS, log.watch_ratio[group], color=colour, linewidth=1.2)
        _label_axes(axes[i], f"Videos of {group}: share watched at least", "watch ratio")
        axes[i].set_ylim(0, 1)
    for i, name in ((6, "activity"), (7, "popularity")):
        for colour, log in zip(COLOURS, logs.values(), strict=False):
            axes[i].loglog(*_relative(getattr(log, name)), color=colour, linewidth=1.2)
        _label_axes(axes[i], f"{name.capitalize()}: share with at least", "times the mean")
    for colour, (name, log) in zip(COLOURS, logs.items(), strict=False):
        axes[8].plot(np.arange(24), log.hours, color=colour, linewidth=1.2, label=name)
    _label_axes(axes[8], "Share of impressions", "hour UTC")
    axes[8].legend(fontsize=7, frameon=False)
    save(figure, path, colours=48)


def _relative(distribution: Distribution) -> tuple[np.ndarray, np.ndarray]:
    values, at_least = distribution.at_least()
    return values / distribution.counts.mean(), at_least


def _label_axes(axes: Axes, title: str, along: str) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlabel(along, fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)

"""Plots of the ranking stage: small PNGs, the same bytes for the same numbers. Import only where plots are made, because
serving has no matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from watchnext.data.card.plots import save
from watchnext.ranking.analysis.trade_off import Point
from watchnext.ranking.calibration.reliability import Reliability
from watchnext.ranking.target_metrics import TITLES

INK, GRID = "#444444", "#e6e6e6"
COLOURS = ("#1f6fb4", "#d9722a", "#3c9d63", "#a04fb0", "#b03a48", "#7a6a2f")


def _axes(count: int) -> tuple[Figure, list[Axes]]:
    """Create one row of axes without the global state of pyplot."""
    figure = Figure(figsize=(3.6 * count, 3.2), dpi=110, layout="constrained")
    axes = [figure.add_subplot(1, count, index + 1) for index in range(count)]
    for each in axes:
        each.grid(color=GRID, linewidth=0.7)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(colors=INK, labelsize=7)
    return figure, axes


def reliability_plot(panels: Mapping[str, Mapping[str, Reliability]], path: Path) -> None:
    """Plot panel title > line name > reliability: one point per bin; the dotted line is perfect calibration."""
    figure, axes = _axes(len(panels))
    for each, (title, lines) in zip(axes, panels.items(), strict=True):
        for index, (name, line) in enumerate(lines.items()):
            colour = COLOURS[index % len(COLOURS)]
            each.plot(line.predicted, line.observed, color=colour, marker="o", markersize=2.5, linewidth=1, label=name)
        highest = max([1e-3, *(float(values.max(initial=0.0)) for line in lines.values() for values in _both(line))])
        each.plot([0, highest], [0, highest], color=INK, linewidth=0.8, linestyle=":")
        each.set_title(title, fontsize=8, color=INK, loc="left")
        each.set_xlabel("mean probability", fontsize=7, color=INK)
        each.set_ylabel("share of positives", fontsize=7, color=INK)
        if lines:
            each.legend(fontsize=6, frameon=False, labelcolor=INK)
    save(figure, Path(path), colours=48)


def _both(line: Reliability) -> tuple[np.ndarray, np.ndarray]:
    return line.predicted, line.observed


def trade_off_plot(points: Sequence[Point], path: Path) -> None:
    """Plot both metrics of the trade-off. Efficient points are filled; each label is the share of the first head."""
    figure, (axes,) = _axes(1)
    first, second = points[0].metrics
    across, up = ([point.metrics[name] for point in points] for name in (first, second))
    axes.plot(across, up, color=COLOURS[0], linewidth=1)
    for point, x, y in zip(points, across, up, strict=True):
        axes.plot([x], [y], "o", color=COLOURS[0], markersize=4, fillstyle="full" if point.efficient else "none")
        axes.annotate(f"{point.share:.2f}", (x, y), fontsize=6, color=INK, xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel(first, fontsize=7, color=INK)
    axes.set_ylabel(second, fontsize=7, color=INK)
    save(figure, Path(path), colours=48)


def worse_plot(worse_by: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path) -> None:
    """Plot one bar per group and metric: the loss and its spread, in the given order from the top."""
    figure, panels = _axes(len(TITLES))
    figure.set_figheight(1.0 + 0.2 * len(worse_by))
    names, heights = list(worse_by), np.arange(len(worse_by))
    for axes, (key, title) in zip(panels, TITLES.items(), strict=True):
        means, spreads = (np.array([worse_by[name][key][statistic] for name in names]) for statistic in ("mean", "spread"))
        axes.barh(heights, means, xerr=np.nan_to_num(spreads), color=COLOURS[0], ecolor=INK, height=0.6, error_kw={"lw": 0.8})
        axes.set_yticks(heights, names if axes is panels[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.set_axisbelow(True)
        axes.set_title(f"{title} is worse by", fontsize=8, color=INK, loc="left")
    save(figure, Path(path), colours=48)


def learning_curve_plot(sizes: Sequence[Mapping], path: Path) -> None:
    """Plot one panel per metric: mean and spread by training impressions, on a logarithmic axis."""
    figure, panels = _axes(len(TITLES))
    rows = [size["rows"] for size in sizes]
    for axes, (key, title) in zip(panels, TITLES.items(), strict=True):
        means, spreads = (np.array([size[key][statistic] for size in sizes]) for statistic in ("mean", "spread"))
        axes.errorbar(rows, means, np.nan_to_num(spreads), color=COLOURS[0], marker="o", markersize=3, linewidth=1, capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_xticks(rows, [f"{each:,}" for each in rows], fontsize=6)
        axes.minorticks_off()
        axes.set_title(title, fontsize=8, color=INK, loc="left")
        axes.set_xlabel("training impressions", fontsize=7, color=INK)
    save(figure, Path(path), colours=48)

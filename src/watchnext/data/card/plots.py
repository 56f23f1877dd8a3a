"""Plots of the data card: small PNGs, equal bytes for equal numbers. The only importer of matplotlib here."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

INK, GRID = "#444444", "#e6e6e6"
COLOURS = ("#1f6fb4", "#d9722a")
COLUMN_IN, HEIGHT_IN, DPI = 3.4, 2.4, 110


def _axes(columns: int) -> tuple[Figure, list[Axes]]:
    """Create one row of axes without the global state of pyplot."""
    figure = Figure(figsize=(COLUMN_IN * columns, HEIGHT_IN), dpi=DPI, layout="constrained")
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for each in axes:
        each.grid(color=GRID, linewidth=0.7)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(INK)
        each.tick_params(colors=INK, labelsize=7, which="both")
    return figure, axes


def _label_axes(axes: Axes, title: str, along: str) -> None:
    axes.set_title(title, fontsize=8, color=INK, loc="left")
    axes.set_xlabel(along, fontsize=7, color=INK)


def _in_percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1))


def save(figure: Figure, path: Path, *, colours: int = 32) -> None:
    """Save a PNG in few colours: a third of the bytes, and no program name or version in them."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)


def watch_ratio(percent: np.ndarray, at_least: np.ndarray, path: Path) -> None:
    """Plot the shares (n,) of impressions with at least `percent` (n,) of the video watched."""
    figure, (axes,) = _axes(1)
    axes.plot(percent / 100, at_least, color=COLOURS[0])
    axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, 2)
    _in_percent(axes)
    _label_axes(axes, "Impressions watched at least so much", "watch ratio")
    save(figure, path)


def distributions(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], path: Path) -> None:
    """Plot distributions, name > (counts, shares with at least each count), on logarithmic axes."""
    figure, (axes,) = _axes(1)
    for colour, (name, (values, at_least)) in zip(COLOURS, curves.items(), strict=True):
        axes.loglog(values, at_least, color=colour, label=name)
    axes.legend(fontsize=7, frameon=False, labelcolor=INK, loc="lower left")
    _label_axes(axes, "Share with at least so many impressions", "impressions")
    save(figure, path)


def days(names: list[str], impressions: np.ndarray, long_view: np.ndarray, path: Path) -> None:
    """Plot impressions (n,) and long view rate (n,) by day."""
    figure, (left, right) = _axes(2)
    positions = np.arange(len(names))
    left.bar(positions, impressions, color=COLOURS[0])
    right.plot(positions, long_view, color=COLOURS[1], marker="o", markersize=3)
    right.set_ylim(0, max(1.15 * long_view.max(), 0.01))
    left.yaxis.set_major_formatter("{x:,.0f}")
    _in_percent(right)
    for axes, title in ((left, "Impressions"), (right, "Long view rate")):
        shown = positions[:: -(-len(names) // 7)]
        axes.set_xticks(shown, [names[i] for i in shown])
        axes.set_xlim(-0.6, len(names) - 0.4)
        _label_axes(axes, title, "day")
    save(figure, path)


def hours(share: np.ndarray, path: Path) -> None:
    """Plot the shares (24,) of impressions by hour of the day."""
    figure, (axes,) = _axes(1)
    axes.bar(np.arange(24), share, color=COLOURS[0])
    axes.set_xticks(range(0, 24, 3))
    _in_percent(axes)
    _label_axes(axes, "Share of impressions", "local hour")
    save(figure, path)


def state_size(used: np.ndarray, limit: int, path: Path) -> None:
    """Plot the share of viewers by most bytes in use."""
    figure, (axes,) = _axes(1)
    values, counts = np.unique(used, return_counts=True)
    axes.step(values, np.cumsum(counts) / len(used), where="post", color=COLOURS[0])
    axes.axvline(limit, color=COLOURS[1], linewidth=1, linestyle="--")
    axes.set_xlim(0, 1.05 * limit)
    axes.set_ylim(0, 1.02)
    _in_percent(axes)
    _label_axes(axes, "Viewers that use at most so many bytes", "bytes; dashed is the limit")
    save(figure, path)

"""Plot the retrieval report. Import this only where it is used, as serving must not need matplotlib."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from watchnext.data.card.plots import save
from watchnext.evaluation.report.report_text import depths_of, named_lists
from watchnext.metrics import shown

INK, GRID = "#444444", "#e6e6e6"
COLOURS = {"source": "#1f6fb4", "baseline": "#9a9a9a"}
MERGED = "#d9722a"
PARTS = {"video_age": "by age of the video", "activity": "by watches of the viewer so far"}
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#1f6fb4"])


def retrieval_plot(retrieval: Mapping, path: Path) -> None:
    """Plot the recall of every list at the smallest and largest depth, and beside it by video age and viewer activity."""
    lists = {name: entry for name, entry in named_lists(retrieval).items() if name not in ("served", "slate")}
    depths = depths_of(retrieval)
    figure = Figure(figsize=(11.0, 1.6 + 0.32 * len(lists)), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.7], sharey=True)
    _bars(left, lists, depths)
    if retrieval["relevant"]["outcome"]["watched"]:
        _grid(right, lists, retrieval["relevant"], depths[-1])
    else:
        right.set_axis_off()
    save(figure, Path(path), colours=64)


def _bars(axes: Axes, lists: Mapping[str, Mapping], depths: list[str]) -> None:
    at = np.arange(len(lists))
    watched = {depth: [entry[depth]["outcome"]["watched"] for entry in lists.values()] for depth in (depths[0], depths[-1])}
    recalls = {depth: np.nan_to_num(np.array(values, np.float64)) for depth, values in watched.items()}  # undefined: no bar
    colours = [COLOURS.get(name.partition(":")[0], MERGED) for name in lists]
    axes.barh(at, recalls[depths[-1]], height=0.7, color=colours, alpha=0.45)
    axes.barh(at, recalls[depths[0]], height=0.7, color=colours)
    for y, length, value in zip(at, recalls[depths[-1]], watched[depths[-1]], strict=True):
        axes.text(length, y, f" {shown(value, '.3f')}", va="center", fontsize=7, color=INK)
    axes.set_yticks(at, list(lists), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.18 * max([1e-3, *recalls[depths[-1]]]))
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    _titled(axes, f"Share of watched videos among the first {depths[-1][7:]} (dark: {depths[0][7:]})")


def _titled(axes: Axes, title: str, *, at: float = 0.0) -> None:
    axes.text(at, 1.02, title, transform=axes.transAxes, fontsize=9, color=INK)


def _grid(axes: Axes, lists: Mapping[str, Mapping], relevant: Mapping, depth: str) -> None:
    """Plot a column for each slice with any video; a gap separates the parts."""
    columns = [(part, value) for part in PARTS for value, count in relevant[part].items() if count]
    values = np.array([[entry[depth][part][value] for part, value in columns] for entry in lists.values()], np.float64)
    axes.imshow(values, cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > 0.7 else INK
        axes.text(column, row, shown(value, ".2f"), ha="center", va="center", fontsize=7, color=colour)
    labels = [f"{textwrap.fill(value, 11)}\n({relevant[part][value]:,})" for part, value in columns]
    axes.set_xticks(range(len(columns)), labels, fontsize=7)
    parts = [part for part, _ in columns]
    for part in sorted(set(parts), key=parts.index):
        _titled(axes, f"... {PARTS[part]}", at=parts.index(part) / len(parts))
        axes.axvline(parts.index(part) - 0.5, color="white", linewidth=6)
    axes.tick_params(axis="both", length=0, colors=INK, labelleft=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("in brackets: watched videos in the slice", fontsize=7, color=INK)

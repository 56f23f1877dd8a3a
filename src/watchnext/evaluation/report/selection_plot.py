"""Draw what stage `selection` weighs: recall of the candidates' order by the power of how likely a watch is."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from watchnext.data.card.plots import COLOURS, GRID, INK, save

POWER = "engage "  # before the power, in the names of orders


def selection_plot(report: Mapping, path: Path) -> None:
    """Draw recall of the validation days over the powers that were tried, at every depth, beside the merge and the best list of
    a source. A ring marks what was chosen."""
    orders, depths = report["orders"], [*report["slate"]["slate"]]
    powers = [name.removeprefix(POWER) for name in orders if name.startswith(POWER)]
    lists = {name: entry for name, entry in orders.items() if not name.startswith(POWER)}
    figure = Figure(figsize=(3.6 * len(depths), 2.8), dpi=110, layout="constrained")
    for at, depth in enumerate(depths, 1):
        axes = figure.add_subplot(1, len(depths), at)
        recalls = [orders[POWER + power][depth] for power in powers]
        axes.plot(powers, recalls, color=COLOURS[0], marker=".", label="value x engage to a power")
        best = max(lists, key=lambda name, depth=depth: lists[name][depth])
        for name, style in {best: ":", "merge": "--"}.items():
            axes.axhline(lists[name][depth], color=COLOURS[1], linestyle=style, linewidth=1, label=name)
        if report["source"] is None:
            chosen = powers.index(f"{report['engage']:g}")
            axes.plot([chosen], [recalls[chosen]], "o", markersize=11, markerfacecolor="none", color=INK, label="chosen")
        axes.set_title(depth, fontsize=8, color=INK, loc="left")
        axes.set_xlabel("power of how likely a watch is", fontsize=7, color=INK)
        axes.set_ylim(bottom=0)
        axes.grid(color=GRID, linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=7)
        axes.legend(fontsize=6, frameon=False, loc="lower right")
    save(figure, path)

"""Plot the cost of a million viewers over size. Import this only where it is used, as serving must not need matplotlib."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from watchnext.data.card.plots import GRID, INK, save
from watchnext.lifecycle.capacity.assumptions import SCENARIOS, CapacityAssumptions
from watchnext.lifecycle.capacity.capacity_report import count
from watchnext.lifecycle.capacity.machine_limits import limits_of
from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves
from watchnext.lifecycle.capacity.stage_needs import SIZES, VIDEOS_A_VIEWER, scenarios_of

COLOURS = {"low": "#7fb2dd", "mid": "#1f6fb4", "high": "#7fb2dd"}


def cost_plot(configured: Mapping, curves: ScalingCurves, path: Path) -> None:
    """Plot the three scenarios, and the sizes at which a part of one machine is full."""
    sizes = np.geomspace(SIZES[0], SIZES[-1], 60)
    plans = [scenarios_of(float(size), VIDEOS_A_VIEWER * float(size), configured, curves) for size in sizes]
    costs = {name: [plan[name].usd_a_million for plan in plans] for name in SCENARIOS}
    figure = Figure(figsize=(8.0, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.fill_between(sizes, costs["low"], costs["high"], color=COLOURS["low"], alpha=0.25, linewidth=0)
    for name in SCENARIOS:
        axes.plot(sizes, costs[name], color=COLOURS[name], linewidth=1.8 if name == "mid" else 1.0)
        axes.annotate(f" {name}", (sizes[-1], costs[name][-1]), color=INK, fontsize=8, va="center")
    limits = limits_of(CapacityAssumptions.of(configured, "mid"), curves)
    inside = [limit for limit in limits if SIZES[0] <= limit.viewers <= SIZES[-1]]
    for number, limit in enumerate(inside, start=1):
        axes.axvline(limit.viewers, color=INK, linewidth=0.6, linestyle=":")
        axes.text(limit.viewers, max(costs["high"]), f"{number} ", va="top", ha="right", fontsize=8, color=INK)
    listed = [f"{number} {limit.part}" for number, limit in enumerate(inside, start=1)]
    half = -(-len(listed) // 2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(SIZES, [count(size) for size in SIZES])
    lines = ["viewers a day, with two videos each", "   ".join(listed[:half]), "   ".join(listed[half:])]
    axes.set_xlabel("\n".join(lines), fontsize=8, color=INK)
    axes.set_title("USD a month for a million daily viewers; dotted: one machine is full", fontsize=9, color=INK, loc="left")
    axes.grid(color=GRID, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    save(figure, path)

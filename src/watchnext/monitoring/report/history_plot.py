"""Plot verdicts by window: which held, and how far each drifted check was from the reference."""

from collections.abc import Sequence
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from watchnext.monitoring.verdict.checked_window import DRIFT, NO_DATA, NONE
from watchnext.monitoring.verdict.verdict_history import PastWindow

COLOURS = {NONE: "#2a8a55", DRIFT: "#c8372d", NO_DATA: "#b9bcc2"}
SHOWN = 8  # checks with a row of their own, those that drifted furthest
MOST = 5.0  # effect at which the colour ends, in units of what matters


def history_plot(windows: Sequence[PastWindow], holds: Sequence[str]) -> bytes:
    """Return a PNG: a strip of verdicts that held, one of each window alone, and the effects of drifted checks."""
    names = _furthest(windows)
    figure = Figure(figsize=(10, 1.1 + 0.22 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    strips, effects = figure.subplots(2, 1, sharex=True, height_ratios=(2, max(len(names), 1)))
    codes = {name: code for code, name in enumerate(COLOURS)}
    verdicts = np.array([[codes[each] for each in holds], [codes[each.verdict] for each in windows]])
    strips.imshow(verdicts, ListedColormap(list(COLOURS.values())), aspect="auto", vmin=0, vmax=2, interpolation="nearest")
    strips.set_yticks([0, 1], ["holds", "window alone"], fontsize=8)
    table = np.array([[each.drifted.get(name, 0.0) for each in windows] for name in names] or [[0.0] * len(windows)])
    effects.imshow(table, "Reds", aspect="auto", vmin=0, vmax=MOST, interpolation="nearest")
    effects.set_yticks(range(len(names)), names, fontsize=8)
    every = max(1, len(windows) // 10)
    effects.set_xticks(range(0, len(windows), every), [_day(each.start_ms) for each in windows[::every]], fontsize=8)
    strips.set_title("verdicts: green none, red drift, grey no data; below, how far checks drifted", fontsize=8, loc="left")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()


def _furthest(windows: Sequence[PastWindow]) -> list[str]:
    most: dict[str, float] = {}
    for window in windows:
        for name, effect in window.drifted.items():
            most[name] = max(most.get(name, 0.0), effect)
    return sorted(most, key=lambda name: (-most[name], name))[:SHOWN]


def _day(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%d %b %H:%M")

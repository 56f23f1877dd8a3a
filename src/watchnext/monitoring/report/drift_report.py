"""A report of drift: the verdict that holds, the newest window, and the windows before it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from watchnext.metrics import rounded
from watchnext.monitoring.report.history_plot import history_plot
from watchnext.monitoring.report.summary_page import summary_page
from watchnext.monitoring.verdict.advice import Step, listed, steps
from watchnext.monitoring.verdict.checked_window import DRIFT, NO_DATA, NONE, Check, CheckedWindow
from watchnext.monitoring.verdict.verdict_history import PastWindow, holding

EXIT_CODES = {NONE: 0, DRIFT: 2, NO_DATA: 3}


@dataclass(frozen=True)
class DriftReport:
    """The outcome of a check.

    verdict      "none", "drift" or "no data", as it holds after `history`
    window       the newest window
    history      it and the windows before it, oldest first, with the verdict that held after each in `holds`
    reliability  "reference" and "current" > target > rows, mean prediction and mean outcome by bin of the score
    notes        of what was left out
    evidently    its page and its results by column; None where it had nothing to compare
    """

    verdict: str
    window: CheckedWindow
    history: Sequence[PastWindow] = ()
    holds: Sequence[str] = ()
    reliability: Mapping[str, Mapping] = field(default_factory=dict)
    notes: Sequence[str] = ()
    evidently: tuple[str, dict] | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    @property
    def steps(self) -> list[Step]:
        return steps(self.window.findings)

    @property
    def held_by(self) -> dict[str, float]:
        """Check > effect in units of what matters, of the windows before that hold drift over a newest one without."""
        return holding(self.history) if (self.verdict, self.window.verdict) == (DRIFT, NONE) else {}

    @property
    def json(self) -> dict:
        """The report for programs: without times of its own, equal for equal windows."""
        newest = self.history[-1] if self.history else None
        sides = ("reference", "current")
        return {
            "verdict": self.verdict,
            "reason": self.window.reason,
            "notes": list(self.notes),
            "window": {
                "verdict": self.window.verdict,
                "start_ms": newest and newest.start_ms,
                "end_ms": newest and newest.end_ms,
            },
            "rows": dict(zip(sides, self.window.rows, strict=True)),
            "viewers": {side: round(each, 1) for side, each in zip(sides, self.window.viewers, strict=True)},
            "drifted": self.window.drifted,
            "sizes": {name: check.size for name, check in self.window.findings.items()} | self.held_by,
            "steps": [asdict(step) for step in self.steps],
            "columns": {name: _entry(check) for name, check in sorted(self.window.columns.items())},
            "slices": {
                name: {"verdict": part.verdict, "rows": part.rows, "drifted": list(part.drifted)}
                for name, part in self.window.slices.items()
            },
            "reliability": dict(self.reliability),
            "evidently": self.evidently[1] if self.evidently else {},
        }

    @property
    def files(self) -> list[str]:
        """Names of what `write` writes."""
        return ["drift.html", "drift.json", *(["history.png"] if self.history else [])]

    def write(self, folder: Path) -> None:
        """Write `drift.json`, `drift.html`, and `history.png` where there is a history."""
        folder.mkdir(parents=True, exist_ok=True)
        picture = history_plot(self.history, self.holds) if self.history else None
        if picture:
            (folder / "history.png").write_bytes(picture)
        (folder / "drift.json").write_text(json.dumps(rounded(self.json, 6), indent=1) + "\n")
        page = summary_page(self, picture)
        (folder / "drift.html").write_text(page, encoding="utf-8")

    def __str__(self) -> str:
        window = self.window
        lines = [f"  {line}" for line in (window.reason, *self.notes) if line]
        if self.verdict != window.verdict:
            lines.append(f"  the newest window alone: {window.verdict}; a verdict changes after windows in a row")
        if self.held_by:
            lines.append(f"  held by the windows before: {listed([*self.held_by])}; it ends where the next ones are without it")
        for step in self.steps:
            lines += [f"  {step.cause}: {listed(step.columns)}", f"    {step.command}", f"    {step.purpose}"]
        if not window.columns:
            return "\n".join([f"drift: {self.verdict}", *lines])
        checks = f"{len(window.drifted)} of {len(window.columns)} checks"
        parts = f"{sum(part.verdict == DRIFT for part in window.slices.values())} of {len(window.slices)} slices"
        return "\n".join([f"drift: {self.verdict}; {checks} and {parts} drifted", *lines])


def _entry(check: Check) -> dict:
    return {
        "verdict": check.verdict,
        "drifted": check.drifted,
        "effect": check.effect,
        "least": check.least,
        "p": float(f"{check.p:.3g}"),
        "change": check.change,
        "missing": {"reference": check.missing[0], "current": check.missing[1]},
    }

"""Compare held-out days, or the served log window by window, with the reference of a release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.monitoring.drift import evidently_report
from watchnext.monitoring.report.drift_report import DriftReport
from watchnext.monitoring.sketch.rows import Coded, Impressions
from watchnext.monitoring.sketch.sketch import Sketch, reliability
from watchnext.monitoring.verdict.checked_window import NO_DATA, CheckedWindow, checked
from watchnext.monitoring.verdict.verdict_history import PastWindow, held
from watchnext.monitoring.windows.reference import sample
from watchnext.monitoring.windows.served_rows import ServedLogReader

HOUR_MS = 3_600_000
WINDOWS = 60  # the latest ones are compared; earlier ones are known from the history, or left
SAMPLED = 500  # answers of a window from which Evidently's sample is taken


@dataclass(frozen=True, kw_only=True)
class DriftCheck:
    """Compare windows with one reference.

    reference  sample of its rows, for Evidently
    tests      column > drift test, of Evidently
    alpha      share of windows without drift whose verdict may be drift
    hours      length of a window of the served log, counted from 1970-01-01 UTC
    in_a_row, margin   as in `held`
    """

    sketch: Sketch
    reference: pl.DataFrame
    tests: Mapping[str, str]
    alpha: float
    hours: int
    in_a_row: int
    margin: float

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("alpha", 0 < self.alpha < 1, "a share in (0, 1)"),
            ("hours", self.hours >= 1, "at least 1"),
            ("in_a_row", self.in_a_row >= 1, "at least 1"),
            ("margin", self.margin >= 1, "at least 1"),
        ):
            if not fine:
                raise ValueError(f"monitoring.{name} is {getattr(self, name)}, expected {expected}")

    def held_out(self, rows: Impressions, vectors: np.ndarray) -> DriftReport:
        """Compare one window that is held whole."""
        window = rows.coded(self.sketch.bins)
        result = checked(self.sketch, window, vectors, alpha=self.alpha)
        return self._report(result.verdict, result, window, sample(rows))

    def served(self, log: ServedLogReader, past: Sequence[PastWindow]) -> DriftReport:
        """Compare every window of a served log; of `past` ones, the two newest are compared again."""
        times, step, name = log.times(), self.hours * HOUR_MS, log.release.name
        if not len(times):
            return self._nothing(log, past)
        newest = int(times[-1]) // step * step
        starts = range(max(int(times[0]) // step * step, newest - (WINDOWS - 1) * step), newest + step, step)
        known = {(each.release, each.start_ms): each for each in past if each.end_ms - each.start_ms == step}
        for start in starts[:-1]:
            if start < newest - step and (name, start) in known:
                continue
            window, _ = self._read(log, start, times)
            known[name, start] = PastWindow.of(self._checked(window, log), name, start, start + step)
        window, shown = self._read(log, newest, times)
        result = self._checked(window, log)
        known[name, newest] = PastWindow.of(result, name, newest, newest + step)
        history = sorted((each for key, each in known.items() if key[0] == name), key=lambda each: each.start_ms)
        holds = held(history, in_a_row=self.in_a_row, margin=self.margin)
        return self._report(holds[-1], result, window, shown, history=history, holds=holds, notes=_notes(log))

    def _checked(self, window: Coded | None, log: ServedLogReader) -> CheckedWindow:
        if window is None:
            return CheckedWindow(NO_DATA, {}, {}, (self.sketch.rows, 0), (0.0, 0.0), "nothing was served in the window")
        return checked(self.sketch, window, log.vectors, alpha=self.alpha)

    def _read(self, log: ServedLogReader, start: int, times: np.ndarray) -> tuple[Coded | None, pl.DataFrame]:
        """Return a window as codes, None without impressions, and a sample of its rows."""
        end = start + self.hours * HOUR_MS
        every = max(1, int(np.searchsorted(times, end) - np.searchsorted(times, start)) // SAMPLED)
        parts, samples = [], []
        for rows in log.window(start, end):
            parts.append(rows.coded(self.sketch.bins))
            samples.append(sample(rows, every=every))
        return Coded.joined(parts) if parts else None, pl.concat(samples, how="diagonal_relaxed") if samples else pl.DataFrame()

    def _report(
        self, verdict: str, result: CheckedWindow, window: Coded | None, shown: pl.DataFrame, **history: Sequence
    ) -> DriftReport:
        tables = {"reference": self.sketch.reliability}
        tables |= {"current": reliability(window)} if window is not None and len(window) else {}
        page = evidently_report(self.reference, shown, tests=self.tests, first=[n for n in result.drifted if n in self.tests])
        return DriftReport(verdict, result, reliability=tables, evidently=page, **history)

    def _nothing(self, log: ServedLogReader, past: Sequence[PastWindow]) -> DriftReport:
        history = [each for each in past if each.release == log.release.name]
        holds = held(history, in_a_row=self.in_a_row, margin=self.margin)
        result = CheckedWindow(
            NO_DATA, {}, {}, (self.sketch.rows, 0), (0.0, 0.0), f"{log.folder} has no answer of {log.release.name}"
        )
        return DriftReport(NO_DATA, result, history=history, holds=holds, notes=_notes(log))


def _notes(log: ServedLogReader) -> list[str]:
    """Return what a reader of the report should know about its rows."""
    notes = []
    if others := log.others():
        listed = ", ".join(f"{count:,} of {name}" for name, count in others.items())
        notes.append(f"answers of other releases are left out: {listed}")
    if not len(log.outcomes):
        notes.append("no outcome came: outcomes, calibration and auc cannot be compared; clients send them to POST /v1/events")
    return notes

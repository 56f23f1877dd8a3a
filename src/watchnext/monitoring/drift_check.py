"""Compare held-out days, or the served log window by window, with the reference of a release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.monitoring.drift import evidently_report
from watchnext.monitoring.report.drift_report import DriftReport
from watchnext.monitoring.sketch.rows import Coded, Impressions
from watchnext.monitoring.sketch.sketch import Sketch, reliability
from watchnext.monitoring.verdict.checked_window import NO_DATA, NONE, CheckedWindow, broken_inputs_alone, checked
from watchnext.monitoring.verdict.verdict_history import PastWindow, held
from watchnext.monitoring.windows.reference import ROWS, Reference, sample
from watchnext.monitoring.windows.served_rows import ServedLogReader

HOUR_MS = 3_600_000
WINDOWS = 60  # the latest ones are compared; earlier ones are known from the history, or left
SAMPLED = 500  # answers of a window from which Evidently's sample is taken


@dataclass(frozen=True, kw_only=True)
class DriftCheck:
    """Compare windows with one reference.

    reference  of the release, from the days that it did not learn
    tests      column > drift test, of Evidently
    alpha      share of windows without drift whose verdict may be drift
    hours      length of a window of the served log, counted from 1970-01-01 UTC
    settling   first served windows without broken inputs that become the reference of later ones; 0 keeps that of the release
    in_a_row, margin   as in `held`
    """

    reference: Reference
    tests: Mapping[str, str]
    alpha: float
    hours: int
    settling: int
    in_a_row: int
    margin: float

    def __post_init__(self) -> None:
        for name, fine, expected in (
            ("alpha", 0 < self.alpha < 1, "a share in (0, 1)"),
            ("hours", self.hours >= 1, "at least 1"),
            ("settling", self.settling >= 0, "at least 0"),
            ("in_a_row", self.in_a_row >= 1, "at least 1"),
            ("margin", self.margin >= 1, "at least 1"),
        ):
            if not fine:
                raise ValueError(f"monitoring.{name} is {getattr(self, name)}, expected {expected}")

    @property
    def sketch(self) -> Sketch:
        return self.reference.sketch

    def held_out(self, rows: Impressions, vectors: np.ndarray) -> DriftReport:
        """Compare one window that is held whole."""
        window = rows.coded(self.sketch.bins)
        result = checked(self.sketch, window, vectors, alpha=self.alpha)
        return self._report(result.verdict, result, window, sample(rows))

    def served(self, log: ServedLogReader, past: Sequence[PastWindow], own: Path) -> DriftReport:
        """Compare every window of a served log; of `past` ones, the two newest are compared again.

        A release shows other videos than those of the log that it learned from. So its first windows are compared with its
        reference for broken inputs alone, and then become the reference, kept in the folder `own`, of the windows after them.
        """
        times, step, name = log.times(), self.hours * HOUR_MS, log.release.name
        if not len(times):
            return self._nothing(log, past)
        newest = int(times[-1]) // step * step
        starts = range(max(int(times[0]) // step * step, newest - (WINDOWS - 1) * step), newest + step, step)
        known = {(each.release, each.start_ms): each for each in past if each.end_ms - each.start_ms == step}
        settled = Reference.load(own) if self.settling and own.exists() else None
        first: list[int] = []
        for start in starts[:-1]:
            if not (start < newest - step and (name, start) in known):
                check, only_broken = self._at(start, settled)
                window, _ = check._read(log, start, times)
                known[name, start] = PastWindow.of(check._checked(window, log, only_broken), name, start, start + step)
            if self.settling and settled is None and known[name, start].verdict == NONE:
                first.append(start)
                settled = self._settled(log, first, own) if len(first) == self.settling else None
        check, only_broken = self._at(newest, settled)
        window, shown = check._read(log, newest, times)
        result = check._checked(window, log, only_broken)
        known[name, newest] = PastWindow.of(result, name, newest, newest + step)
        history = sorted((each for key, each in known.items() if key[0] == name), key=lambda each: each.start_ms)
        holds = held(history, in_a_row=self.in_a_row, margin=self.margin)
        notes = [*_notes(log), *check._compared_with(only_broken)]
        if holds[-1] == NO_DATA and len(holds) > 1:
            notes.append(f"the verdict of the window before is {holds[-2]}")
        return check._report(holds[-1], result, window, shown, history=history, holds=holds, notes=notes)

    def _at(self, start: int, settled: Reference | None) -> tuple["DriftCheck", bool]:
        """Return the check of the window at `start`, and whether broken inputs alone are drift there."""
        after = settled is not None and start >= settled.end_ms
        return replace(self, reference=settled) if after else self, bool(self.settling) and not after

    def _settled(self, log: ServedLogReader, starts: Sequence[int], own: Path) -> Reference:
        """Summarise the windows at `starts` as the reference of later ones: up to ROWS impressions, evenly spaced."""
        step = self.hours * HOUR_MS
        total = sum(len(rows) for start in starts for rows in log.window(start, start + step))
        every, parts = max(1, -(-total // ROWS)), []
        for rows in (rows for start in starts for rows in log.window(start, start + step)):
            names = [name for name in self.sketch.bins if name in rows.columns.columns]
            parts.append(replace(rows, columns=rows.columns.select(names)).take(np.arange(0, len(rows), every)))
        times = {"start_ms": starts[0], "end_ms": starts[-1] + step}
        return Reference.of_served(Impressions.joined(parts), log.vectors, own, **times)

    def _compared_with(self, only_broken: bool) -> list[str]:
        if only_broken:
            first = f"the first {self.settling} windows of a release"
            return [f"{first} become the reference of later ones; until then, broken inputs alone are drift"]
        if self.reference.end_ms is None:
            return []
        start, end = (datetime.fromtimestamp(each / 1000, UTC) for each in (self.reference.start_ms, self.reference.end_ms))
        return [f"compared with what the release itself served from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"]

    def _checked(self, window: Coded | None, log: ServedLogReader, only_broken: bool) -> CheckedWindow:
        if window is None:
            return CheckedWindow(NO_DATA, {}, {}, (self.sketch.rows, 0), (0.0, 0.0), "nothing was served in the window")
        result = checked(self.sketch, window, log.vectors, alpha=self.alpha)
        return broken_inputs_alone(result) if only_broken else result

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
        page = evidently_report(
            self.reference.sample, shown, tests=self.tests, first=[n for n in result.drifted if n in self.tests]
        )
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

"""The page of a report: one screen with verdict, drifted checks and what to do; Evidently's page below it."""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from watchnext.monitoring.report.history_plot import COLOURS
from watchnext.monitoring.verdict.advice import listed

if TYPE_CHECKING:
    from watchnext.monitoring.report.drift_report import DriftReport

SHOWN = 8  # drifted checks in the table; drift.json has all
STYLE = """
.drift-summary{font:14px/1.45 system-ui,sans-serif;color:#1d2129;background:#fff;max-width:1180px;
margin:0 auto;padding:20px 24px}
.drift-summary h1{font-size:26px;margin:0 0 2px}.drift-summary h2{font-size:15px;margin:14px 0 6px}
.drift-summary table{border-collapse:collapse;width:100%}.drift-summary th{text-align:left;font-weight:600;color:#5b6270}
.drift-summary td,.drift-summary th{padding:3px 10px 3px 0;border-bottom:1px solid #e4e6ea;vertical-align:top}
.drift-summary .columns{display:grid;grid-template-columns:3fr 2fr;gap:28px}.drift-summary p{margin:2px 0 8px;color:#434a57}
.drift-summary code{background:#f0f1f4;padding:1px 5px;border-radius:3px}
.drift-summary img{width:100%;max-height:250px;object-fit:contain;object-position:left}
"""


def summary_page(report: "DriftReport", picture: bytes | None) -> str:
    """Return the HTML page; `picture` is the PNG of the history."""
    summary = f'<style>{STYLE}</style><section class="drift-summary">{"".join(_summary(report, picture))}</section>'
    if report.evidently is None:
        return f"<!doctype html><meta charset=utf-8><title>Drift: {report.verdict}</title>{summary}\n"
    head, body, rest = report.evidently[0].partition("<body>")
    return f"{head}{body}{summary}{rest}"


def _summary(report: "DriftReport", picture: bytes | None) -> Sequence[str]:
    window = report.window
    parts = [f'<h1 style="color:{COLOURS[report.verdict]}">Drift: {report.verdict}</h1>', f"<p>{_about(report)}</p>"]
    parts.append(f'<div class="columns"><div><h2>Drifted, furthest first</h2>{_table(report)}</div>')
    parts.append(f"<div><h2>What to do</h2>{_steps(report)}</div></div>")
    if picture:
        data = base64.b64encode(picture).decode()
        parts.append(f'<h2>Windows before</h2><img alt="verdicts by window" src="data:image/png;base64,{data}">')
    return parts if window.columns else [*parts[:2], *parts[3:]]


def _about(report: "DriftReport") -> str:
    window, lines = report.window, []
    if report.history:
        first, last = (_time(each) for each in (report.history[-1].start_ms, report.history[-1].end_ms))
        lines.append(f"Window {first} to {last} UTC, release {escape(report.history[-1].release)}.")
    lines.append(
        f"{window.rows[1]:,} impressions (as many as {window.viewers[1]:,.0f} independent viewers) against {window.rows[0]:,} "
        "of the reference."
    )
    if window.columns:
        parts = f"{sum(bool(part.drifted) for part in window.slices.values())} of {len(window.slices)} slices"
        lines.append(f"{len(window.drifted)} of {len(window.columns)} checks drifted, {parts}.")
    lines += [f"{escape(line[0].upper() + line[1:])}." for line in (window.reason, *report.notes) if line]
    if report.verdict != window.verdict:
        lines.append(f"This window alone: {window.verdict}; a verdict changes after windows in a row.")
    return " ".join(lines)


def _table(report: "DriftReport") -> str:
    findings = report.window.findings
    if report.held_by:
        return f"<p>No check in this window; in those before: <b>{escape(listed([*report.held_by]))}</b>.</p>"
    if not findings:
        return "<p>No check.</p>"
    rows = [
        f"<tr><td><b>{escape(name)}</b></td><td>{check.effect:.2f} (from {check.least:g})</td>"
        f"<td>{escape(check.change)}</td></tr>"
        for name, check in islice(findings.items(), SHOWN)
    ]
    more = f"<p>and {len(findings) - SHOWN} more, in drift.json</p>" if len(findings) > SHOWN else ""
    return f"<table><tr><th>check</th><th>effect</th><th>largest change of a share</th></tr>{''.join(rows)}</table>{more}"


def _steps(report: "DriftReport") -> str:
    if report.held_by:
        return "<p>Look at the windows before: the drift holds until windows in a row are without it.</p>"
    if not report.steps:
        return "<p>Nothing.</p>" if report.window.columns else (
            "<p>Look whether requests reach the server, and whether it writes its served log.</p>"
        )  # fmt: skip
    return "".join(
        f"<p><b>{escape(step.cause)}</b>: {escape(listed(step.columns))}<br>"
        f"<code>{escape(step.command)}</code><br>{escape(step.purpose)}</p>"
        for step in report.steps
    )


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")

"""Compare traffic with the data that the release was trained on. Only this module imports Evidently.

Evidently raises on an empty window and on an all-null or missing column. A column that cannot be tested has the verdict "no
data", which is neither "drift" nor "none". Scores and thresholds are Evidently's defaults for each test.
"""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl

from watchnext.schema import DRIFT_TESTS

Table = pl.DataFrame | Mapping[str, np.ndarray]
Rows = TypeVar("Rows", pl.DataFrame, pl.Series)

EXIT_CODES = {"none": 0, "drift": 2, "no data": 3}
CATEGORIES = 50  # compared by name; the others are merged, as thousands of rare ones differ between any two samples
REST = "(rest)"


@dataclass(frozen=True)
class Drift:
    """The verdict ("none", "drift" or "no data") with its evidence.

    share     of the testable columns that drifted, nan if none is testable
    columns   name > score, test, threshold, drifted (None for "no data"), verdict, missing (ratio, both windows)
    rows      of the (reference, current) window before sampling
    page      the HTML report
    """

    verdict: str
    share: float
    columns: Mapping[str, Mapping]
    rows: tuple[int, int]
    page: str = field(repr=False)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]

    def write(self, folder: Path) -> None:
        """Write `drift.html`, and `drift.json`, which is the same for the same windows as it holds no times."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        share = None if np.isnan(self.share) else self.share
        rows = dict(zip(("reference", "current"), self.rows, strict=True))
        summary = {"verdict": self.verdict, "share": share, "rows": rows, "columns": dict(self.columns)}
        (folder / "drift.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
        (folder / "drift.html").write_text(self.page, encoding="utf-8")


def drift_report(
    reference: Table,
    current: Table,
    *,
    tests: Mapping[str, str],
    threshold: float = 0.3,
    score_column: str | None = None,
    rows: int = 20_000,
    seed: int = 0,
) -> Drift:
    """Compare two windows column by column.

    tests         column > one of schema.DRIFT_TESTS; "auto" lets Evidently choose, "none" leaves the column out
    threshold     share of drifted columns from which on the verdict is drift
    score_column  a column of predictions whose drift alone makes the verdict drift
    rows          largest number of rows read of each window, drawn with `seed`

    A list column is compared by its elements. Raises ValueError for an unknown test or one that a column's type does not allow.
    """
    _check(tests, threshold)
    names = [name for name, test in tests.items() if test != "none"]
    generator = np.random.default_rng(seed)
    windows = [_Window.of(table, names, tests, rows, generator) for table in (reference, current)]
    testable = [name for name in names if all(len(window.values.get(name, ())) for window in windows)]
    scores, page = _evidently(windows, testable, tests) if testable else ({}, _empty_page(names, windows))
    columns = {name: _entry(name, scores.get(name), windows) for name in names}
    drifted = [name for name in testable if columns[name]["drifted"]]
    share = len(drifted) / len(testable) if testable else float("nan")
    verdict = "drift" if share >= threshold or score_column in drifted else "none"
    return Drift(verdict if testable else "no data", share, columns, (windows[0].rows, windows[1].rows), page)


def _check(tests: Mapping[str, str], threshold: float) -> None:
    for name, test in tests.items():
        if test not in DRIFT_TESTS:
            raise ValueError(f"column {name!r}: drift test is {test!r}, expected one of {', '.join(DRIFT_TESTS)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected a share in (0, 1]")


@dataclass(frozen=True)
class _Window:
    """One window: its row count, the usable values of each of its columns, and the ratio of rows without one."""

    rows: int
    values: Mapping[str, pl.Series]
    missing: Mapping[str, float]

    @classmethod
    def of(
        cls, table: Table, names: list[str], tests: Mapping[str, str], rows: int, generator: np.random.Generator
    ) -> "_Window":
        table = table if isinstance(table, pl.DataFrame) else pl.DataFrame(dict(table))
        sample = _sampled(table.select(name for name in names if name in table.columns), rows, generator)
        values = {name: _usable(sample[name], categorical=tests[name] == "chisquare") for name in sample.columns}
        missing = {name: _missing(sample[name], values[name]) for name in sample.columns if len(sample)}
        return cls(table.height, {name: _sampled(column, rows, generator) for name, column in values.items()}, missing)


def _sampled(table: Rows, rows: int, generator: np.random.Generator) -> Rows:
    return table if len(table) <= rows else table[np.sort(generator.choice(len(table), rows, replace=False))]


def _usable(column: pl.Series, *, categorical: bool) -> pl.Series:
    """Return the comparable values: finite floats or strings, list elements one by one, without nulls."""
    while column.dtype.is_nested():
        column = column.explode()
    column = column.drop_nulls()
    if not column.dtype.is_numeric() or categorical:
        return column.cast(pl.String)
    column = column.cast(pl.Float64)
    return column.filter(column.is_finite())


def _missing(column: pl.Series, usable: pl.Series) -> float:
    nested = column.dtype.is_nested()
    return float(f"{(column.null_count() if nested else len(column) - len(usable)) / len(column):.6g}")


def _merged_rare(reference: pl.Series, current: pl.Series) -> list[pl.Series]:
    """Replace all but the most common categories of both by one. Shares of both count, because those of one side are biased."""
    shares = pl.concat(column.rename("value").value_counts(normalize=True, name="share") for column in (reference, current))
    ranked = shares.group_by("value").agg(pl.col("share").sum().round(9)).sort(["share", "value"], descending=[True, False])
    common = ranked["value"].head(CATEGORIES).implode()
    return [column.set(~column.is_in(common), REST) for column in (reference, current)]


def _paired(windows: list[_Window], names: list[str], tests: Mapping[str, str]) -> dict[str, list[pl.Series]]:
    """Give both sides of every column one type: strings where either side holds strings."""
    pairs = {name: [window.values[name] for window in windows] for name in names}
    text = [name for name, pair in pairs.items() if any(column.dtype == pl.String for column in pair)]
    for name in text:
        if tests[name] in ("ks", "wasserstein"):
            raise ValueError(f"column {name!r} holds strings, but its drift test {tests[name]!r} compares numerical values")
    return pairs | {name: _merged_rare(*(column.cast(pl.String) for column in pairs[name])) for name in text}


def _evidently(windows: list[_Window], names: list[str], tests: Mapping[str, str]) -> tuple[dict[str, dict], str]:
    """Run Evidently; return its result by column, and its page."""
    pairs = _paired(windows, names, tests)
    text = [name for name in names if pairs[name][0].dtype == pl.String]
    os.environ.setdefault("DO_NOT_TRACK", "1")  # its telemetry is on by default
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):  # it warns on import and about new categories
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        definition = DataDefinition(numerical_columns=[n for n in names if n not in text], categorical_columns=text)
        # columns differ in length; Evidently drops the nan that pandas pads with
        frames = [pd.DataFrame({name: pd.Series(pairs[name][side].to_numpy()) for name in names}) for side in (0, 1)]
        reference, current = (Dataset.from_pandas(frame, definition) for frame in frames)
        metrics = [ValueDrift(column=name, method=None if tests[name] == "auto" else tests[name]) for name in names]
        snapshot = Report(metrics, include_tests=True).run(current, reference)
        results, page = snapshot.dict(), snapshot.get_html_str(as_iframe=False)
    scores = {metric["config"]["column"]: {**metric["config"], "score": metric["value"]} for metric in results["metrics"]}
    for test in results["tests"]:
        scores[test["metric_config"]["params"]["column"]]["drifted"] = test["status"] == "FAIL"
    return scores, page


def _entry(name: str, result: dict | None, windows: list[_Window]) -> dict:
    missing = {side: window.missing.get(name, 1.0) for side, window in zip(("reference", "current"), windows, strict=True)}
    if result is None:
        return {"score": None, "test": None, "threshold": None, "drifted": None, "verdict": "no data", "missing": missing}
    score = float(f"{result['score']:.6g}")  # sums over sets of strings differ in the last bits from run to run
    return {
        "score": None if np.isnan(score) else score,  # undefined where both windows hold one category, the same
        "test": result["method"],
        "threshold": result["threshold"],
        "drifted": result["drifted"],
        "verdict": "drift" if result["drifted"] else "none",
        "missing": missing,
    }


def _empty_page(names: list[str], windows: list[_Window]) -> str:
    counts = f"{windows[0].rows} reference rows and {windows[1].rows} current rows"
    listed = f"None of the {len(names)} columns to test has values in both windows."
    return f"<!doctype html><meta charset=utf-8><title>Drift: no data</title><h1>No data</h1><p>{counts}. {listed}</p>\n"

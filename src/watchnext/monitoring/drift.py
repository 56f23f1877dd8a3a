"""Evidently's page and figures of two samples, column by column. Only this module imports Evidently.

Evidently raises on an empty window and on an all-null or missing column; such columns are left out. Its scores and thresholds
are the defaults of each test. It sees rows, not viewers, and is no part of the verdict.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from watchnext.schema import DRIFT_TESTS

CATEGORIES = 50  # compared by name; the others are merged, as thousands of rare ones differ between any two samples
REST = "(rest)"


def evidently_report(
    reference: pl.DataFrame, current: pl.DataFrame, *, tests: Mapping[str, str], first: Sequence[str] = ()
) -> tuple[str, dict] | None:
    """Return Evidently's page and its result by column, columns `first` before the others; None where nothing can be compared.

    tests  column > one of schema.DRIFT_TESTS; "auto" lets Evidently choose, "none" leaves the column out

    A list column is compared by its elements. Raises ValueError for an unknown test or one that a column's type does not allow.
    """
    for name, test in tests.items():
        if test not in DRIFT_TESTS:
            raise ValueError(f"column {name!r}: drift test is {test!r}, expected one of {', '.join(DRIFT_TESTS)}")
    names = [name for name in [*first, *(name for name in tests if name not in first)] if tests.get(name, "none") != "none"]
    sides = [{name: _usable(table[name], categorical=tests[name] == "chisquare") for name in names if name in table.columns}
             for table in (reference, current)]  # fmt: skip
    testable = [name for name in names if all(len(side.get(name, ())) for side in sides)]
    return _report(_paired(sides, testable, tests), tests) if testable else None


def _usable(column: pl.Series, *, categorical: bool) -> pl.Series:
    """Return the comparable values: finite floats or strings, list elements one by one, without nulls."""
    while column.dtype.is_nested():
        column = column.explode()
    column = column.drop_nulls()
    if not column.dtype.is_numeric() or categorical:
        return column.cast(pl.String)
    column = column.cast(pl.Float64)
    return column.filter(column.is_finite())


def _merged_rare(reference: pl.Series, current: pl.Series) -> list[pl.Series]:
    """Replace all but the most common categories of both by one. Shares of both count, because those of one side are biased."""
    shares = pl.concat(column.rename("value").value_counts(normalize=True, name="share") for column in (reference, current))
    ranked = shares.group_by("value").agg(pl.col("share").sum().round(9)).sort(["share", "value"], descending=[True, False])
    common = ranked["value"].head(CATEGORIES).implode()
    return [column.set(~column.is_in(common), REST) for column in (reference, current)]


def _paired(sides: list[dict[str, pl.Series]], names: list[str], tests: Mapping[str, str]) -> dict[str, list[pl.Series]]:
    """Give both sides of every column one type: strings where either side holds strings."""
    pairs = {name: [side[name] for side in sides] for name in names}
    text = [name for name, pair in pairs.items() if any(column.dtype == pl.String for column in pair)]
    for name in text:
        if tests[name] in ("ks", "wasserstein"):
            raise ValueError(f"column {name!r} holds strings, but its drift test {tests[name]!r} compares numerical values")
    return pairs | {name: _merged_rare(*(column.cast(pl.String) for column in pairs[name])) for name in text}


def _report(pairs: Mapping[str, list[pl.Series]], tests: Mapping[str, str]) -> tuple[str, dict]:
    text = [name for name, pair in pairs.items() if pair[0].dtype == pl.String]
    os.environ.setdefault("DO_NOT_TRACK", "1")  # its telemetry is on by default
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):  # it warns on import and about new categories
        import pandas as pd
        from evidently import DataDefinition, Dataset, Report
        from evidently.metrics import ValueDrift

        definition = DataDefinition(numerical_columns=[n for n in pairs if n not in text], categorical_columns=text)
        # columns differ in length; Evidently drops the nan that pandas pads with
        frames = [pd.DataFrame({name: pd.Series(pair[side].to_numpy()) for name, pair in pairs.items()}) for side in (0, 1)]
        before, now = (Dataset.from_pandas(frame, definition) for frame in frames)
        metrics = [ValueDrift(column=name, method=None if tests[name] == "auto" else tests[name]) for name in pairs]
        snapshot = Report(metrics, include_tests=True).run(now, before)
        return snapshot.get_html_str(as_iframe=False), _results(json.loads(snapshot.json()))


def _results(snapshot: dict) -> dict[str, dict]:
    """Return column > test, score, threshold, drifted."""
    found = {}
    for metric in snapshot["metrics"]:
        config, score = metric["config"], float(f"{metric['value']:.6g}")  # sums over sets of strings differ in the last bits
        score = None if np.isnan(score) else score  # undefined where both samples hold one category, the same
        found[config["column"]] = {"test": config["method"], "score": score, "threshold": config["threshold"]}
    for test in snapshot["tests"]:
        found[test["metric_config"]["params"]["column"]]["drifted"] = test["status"] == "FAIL"
    return found

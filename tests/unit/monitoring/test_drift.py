"""The drift report on real windows through the real Evidently."""

import json

import numpy as np
import polars as pl
import pytest

from watchnext.monitoring.drift import drift_report

TESTS = {"watch_s": "auto", "score": "ks", "language": "auto", "region": "chisquare", "tags": "jensenshannon", "id": "none"}


def window(rows: int, seed: int, *, shift: float = 0.0) -> pl.DataFrame:
    generator = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "watch_s": generator.exponential(20, rows) * (1 + shift),
            "score": np.clip(generator.normal(0.3 + shift / 4, 0.1, rows), 0, 1),
            "language": generator.choice(["de", "en", "fr"], rows, p=[0.2, 0.5, 0.3]),
            "region": generator.integers(0, 4, rows),
            "tags": [list(map(str, generator.integers(0, 8, n))) for n in generator.integers(0, 4, rows)],
            "id": np.arange(rows),
        }
    )


def test_the_same_distribution_does_not_drift():
    report = drift_report(window(3000, 1), window(2000, 2), tests=TESTS)
    assert (report.verdict, report.exit_code, report.share) == ("none", 0, 0.0)
    assert set(report.columns) == set(TESTS) - {"id"}
    assert all(entry["drifted"] is False and entry["score"] is not None for entry in report.columns.values())
    assert report.columns["score"]["test"] == "ks"


def test_a_shifted_window_drifts_by_name():
    report = drift_report(window(3000, 1), window(2000, 2, shift=1.0), tests=TESTS, threshold=0.4)
    assert (report.verdict, report.exit_code, report.share) == ("drift", 2, 0.4)
    assert [name for name, entry in report.columns.items() if entry["drifted"]] == ["watch_s", "score"]


def test_the_score_column_alone_is_enough():
    reference, current = window(3000, 1), window(2000, 2)
    current = current.with_columns(score=pl.col("score") + 0.2)
    assert drift_report(reference, current, tests=TESTS).verdict == "none"  # one of five
    assert drift_report(reference, current, tests=TESTS, score_column="score").verdict == "drift"


@pytest.mark.parametrize("emptied", ["reference", "current", "both"])
def test_an_empty_window_is_no_data(emptied, tmp_path):
    full = window(500, 1)
    reference = full.clear() if emptied in ("reference", "both") else full
    current = full.clear() if emptied in ("current", "both") else full
    report = drift_report(reference, current, tests=TESTS)
    assert (report.verdict, report.exit_code) == ("no data", 3)
    assert np.isnan(report.share)
    report.write(tmp_path)
    assert json.loads((tmp_path / "drift.json").read_text())["share"] is None
    assert "No data" in (tmp_path / "drift.html").read_text()


def test_all_null_and_missing_columns_are_no_data_and_do_not_dilute_the_share():
    reference, current = window(3000, 1), window(2000, 2, shift=1.0).drop("language")
    current = current.with_columns(region=pl.lit(None, dtype=pl.Int64), tags=pl.lit([], dtype=pl.List(pl.String)))
    report = drift_report(reference, current, tests=TESTS)
    verdicts = {name: entry["verdict"] for name, entry in report.columns.items()}
    assert verdicts == {"watch_s": "drift", "score": "drift", "language": "no data", "region": "no data", "tags": "no data"}
    assert report.share == 1.0
    assert report.columns["region"]["missing"] == {"reference": 0.0, "current": 1.0}


def test_nan_and_infinity_count_as_missing():
    columns = {"x": np.random.default_rng(0).normal(size=400)}
    broken = {"x": np.where(np.arange(400) % 4 == 0, np.nan, np.where(np.arange(400) % 4 == 1, np.inf, columns["x"]))}
    entry = drift_report(columns, broken, tests={"x": "ks"}).columns["x"]
    assert entry["missing"] == {"reference": 0.0, "current": 0.5}
    assert entry["drifted"] is False


def test_windows_of_one_row_or_of_one_value_have_a_verdict_and_no_nan(tmp_path):
    one = {"x": [0.5], "score": [0.5], "device": ["ios"]}
    tests = {"x": "wasserstein", "score": "ks", "device": "chisquare"}
    for rows in (1, 700):
        report = drift_report({name: value * rows for name, value in one.items()}, one, tests=tests)
        assert (report.verdict, report.share) == ("none", 0.0)
        assert report.columns["device"]["score"] is None  # of one category there is nothing to test
        report.write(tmp_path)
        assert "NaN" not in (tmp_path / "drift.json").read_text()


def test_many_rare_categories_do_not_look_like_drift():
    generator = np.random.default_rng(3)
    names = np.array([f"creator {i}" for i in range(4000)])
    report = drift_report(
        {"creator": names[generator.integers(0, 4000, 5000)]},
        {"creator": names[generator.integers(0, 4000, 5000)]},
        tests={"creator": "auto"},
    )
    assert report.verdict == "none"


def test_the_written_json_is_the_same_for_the_same_windows(tmp_path):
    for run in ("a", "b"):
        drift_report(window(3000, 1), window(2000, 2), tests=TESTS, rows=1500).write(tmp_path / run)
    assert (tmp_path / "a/drift.json").read_bytes() == (tmp_path / "b/drift.json").read_bytes()
    summary = json.loads((tmp_path / "a/drift.json").read_text())
    assert summary["rows"] == {"reference": 3000, "current": 2000}
    assert "watch_s" in (tmp_path / "a/drift.html").read_text(encoding="utf-8")


def test_wrong_questions_are_named():
    with pytest.raises(ValueError, match=r"'watch_s': drift test is 'kolmogorov', expected one of auto"):
        drift_report(window(10, 1), window(10, 2), tests={"watch_s": "kolmogorov"})
    with pytest.raises(ValueError, match="threshold is 0"):
        drift_report(window(10, 1), window(10, 2), tests=TESTS, threshold=0)
    with pytest.raises(ValueError, match=r"'language'.* 'wasserstein'.* numerical"):
        drift_report(window(10, 1), window(10, 2), tests={"language": "wasserstein"})

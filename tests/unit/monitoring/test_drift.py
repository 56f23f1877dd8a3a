"""Evidently's report on real samples."""

import numpy as np
import polars as pl
import pytest

from watchnext.monitoring.drift import evidently_report

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


def test_a_shifted_sample_is_named_and_the_same_distribution_is_not():
    _, same = evidently_report(window(3000, 1), window(2000, 2), tests=TESTS)
    assert set(same) == set(TESTS) - {"id"}
    assert not any(entry["drifted"] for entry in same.values())
    assert same["score"]["test"] == "ks"
    page, shifted = evidently_report(window(3000, 1), window(2000, 2, shift=1.0), tests=TESTS, first=["score"])
    assert {name for name, entry in shifted.items() if entry["drifted"]} == {"watch_s", "score"}
    assert next(iter(shifted)) == "score"
    assert "<body>" in page


def test_what_cannot_be_compared_is_left_out():
    reference, current = window(3000, 1), window(2000, 2).drop("language")
    current = current.with_columns(region=pl.lit(None, dtype=pl.Int64), tags=pl.lit([], dtype=pl.List(pl.String)))
    assert set(evidently_report(reference, current, tests=TESTS)[1]) == {"watch_s", "score"}
    assert evidently_report(reference, current.clear(), tests=TESTS) is None
    assert evidently_report(reference.clear(), current, tests=TESTS) is None


def test_one_category_has_no_score_and_many_rare_ones_do_not_look_like_drift():
    generator = np.random.default_rng(3)
    names = np.array([f"creator {i}" for i in range(4000)])
    before, now = (
        pl.DataFrame({"creator": names[generator.integers(0, 4000, 5000)], "device": ["ios"] * 5000}) for _ in range(2)
    )
    _, found = evidently_report(before, now, tests={"creator": "auto", "device": "chisquare"})
    assert (found["creator"]["drifted"], found["device"]["score"]) == (False, None)


def test_wrong_tests_are_named():
    with pytest.raises(ValueError, match=r"'watch_s': drift test is 'kolmogorov', expected one of auto"):
        evidently_report(window(10, 1), window(10, 2), tests={"watch_s": "kolmogorov"})
    with pytest.raises(ValueError, match=r"'language'.* 'wasserstein'.* numerical"):
        evidently_report(window(10, 1), window(10, 2), tests={"language": "wasserstein"})

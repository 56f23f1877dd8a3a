"""Curves by hand and against scikit-learn; calibration from rows to a folder and back; reliability by bin and slice."""

import math
from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from watchnext import metrics
from watchnext.ranking.analysis.report_plots import reliability_plot
from watchnext.ranking.calibration.calibration import Calibration, Curve
from watchnext.ranking.calibration.curves import (
    FLATTEST,
    MARGIN,
    MOST_SCORES,
    TILT,
    fit_calibration,
    fit_isotonic,
    fit_platt,
    isotonic_blocks,
)
from watchnext.ranking.calibration.reliability import VIDEO_AGE_H, buckets, by_slice, in_order, reliability, usual_slices
from watchnext.types import TARGETS


def drawn(rows: int, seed: int, *, slope: float = 0.5, intercept: float = -1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, overconfident probabilities of them, and the true ones."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2.0, size=rows)
    true = 1 / (1 + np.exp(-(slope * logits + intercept)))
    return (random.random(rows) < true).astype(float), 1 / (1 + np.exp(-logits)), true


def test_blocks_by_hand():
    """0.2 and 0.3 violate the order and are pooled, as are the equal scores."""
    places, values = isotonic_blocks(np.array([0.0, 1.0, 0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.2, 0.3, 0.9, 0.9, 0.95]))
    assert places.tolist() == pytest.approx([0.1, (0.2 + 0.3 + 0.9 + 0.9) / 4, 0.95])
    assert values.tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_blocks_are_those_of_the_min_max_formula():
    random = np.random.default_rng(0)
    scores, targets = random.integers(0, 30, 400) / 30, random.random(400)
    targets = np.where(random.random(400) < scores, targets, 0.0)
    distinct = np.unique(scores)

    def mean(first, last):
        return targets[(scores >= first) & (scores <= last)].mean()

    fitted = [max(min(mean(low, high) for high in distinct if high >= at) for low in distinct if low <= at) for at in distinct]
    places, values = isotonic_blocks(targets, scores)
    assert values == pytest.approx(np.unique(np.round(fitted, 12)))
    assert (np.diff(values) > 0).all()
    assert (np.diff(places) > 0).all()


def test_an_isotonic_curve_by_hand():
    curve = fit_isotonic(np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.2, 0.3, 0.5, 0.6]))
    squeezed = [MARGIN + value * (1 - 2 * MARGIN) for value in (0.0, 0.5, 1.0)]
    assert curve.scores.tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 1.0])
    assert curve.values[1:4].tolist() == pytest.approx(squeezed)
    assert curve.values[4] == pytest.approx(squeezed[2] + TILT * (1 - squeezed[2]))
    assert curve(np.array([0.3, 0.5])) == pytest.approx([0.25, 0.75], abs=1e-5)


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
def test_calibration_repairs_and_keeps_the_order(fit):
    labels, probabilities, true = drawn(20_000, seed=0)
    curve = fit(labels, probabilities)
    labels, probabilities, true = drawn(20_000, seed=1)
    found = curve(probabilities)
    assert metrics.ece(labels, probabilities) > 0.15
    assert metrics.ece(labels, found) < 0.015
    assert np.abs(found - true).mean() < 0.015
    assert metrics.auc(labels, found) == pytest.approx(metrics.auc(labels, probabilities), abs=1e-12)
    assert len(curve.scores) < 700


@pytest.mark.parametrize("fit", [fit_isotonic, fit_platt])
def test_every_two_scores_stay_in_order(fit):
    """Also in flat stretches, and beyond the last row that the fit has seen."""
    labels, probabilities, _ = drawn(300, seed=2)
    scores = np.linspace(0.0005, 0.9995, 2000)
    assert (np.diff(fit(labels, probabilities)(scores)) > 0).all()


def test_platt_is_the_logistic_regression_that_scikit_learn_finds():
    labels, probabilities, _ = drawn(5000, seed=3)
    logits = np.log(probabilities / (1 - probabilities))
    expected = LogisticRegression(C=np.inf).fit(logits[:, None], labels).predict_proba(logits[:, None])[:, 1]
    assert fit_platt(labels, probabilities)(probabilities) == pytest.approx(expected, abs=2e-3)


def test_platt_of_one_label_or_of_a_head_that_is_wrong_has_an_answer():
    probabilities = np.linspace(0.1, 0.9, 50)
    none = fit_platt(np.zeros(50), probabilities)(probabilities)
    assert none.max() < 0.1
    backwards = fit_platt((probabilities < 0.5).astype(float), probabilities)(probabilities)
    assert (np.diff(backwards) > 0).all()
    assert backwards == pytest.approx(0.5, abs=2 * FLATTEST)
    assert fit_platt(np.array([1.0]), np.array([1.0]))(np.array([1.0])).item() < 1.0


@pytest.mark.parametrize("scores", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.4, 0.4]])
@pytest.mark.parametrize("targets", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
def test_isotonic_at_the_ends_of_the_scale(targets, scores):
    found = fit_isotonic(np.array(targets), np.array(scores))(np.array(scores))
    assert found.mean() == pytest.approx(np.mean(targets), abs=TILT)
    assert ((found > 0) & (found < 1)).all()


def test_seconds_are_calibrated_to_their_mean():
    random = np.random.default_rng(4)
    true = random.exponential(30, 20_000)
    watched, predicted = random.exponential(true), 0.6 * true
    curve = fit_isotonic(watched[:10_000], predicted[:10_000], highest=86400.0)
    assert curve(predicted[10_000:]).mean() == pytest.approx(true[10_000:].mean(), rel=0.04)
    assert curve(np.array([400.0, 4000.0])) == pytest.approx(watched.max(), rel=0.9)


def test_wrong_rows_are_named():
    with pytest.raises(ValueError, match=r"score is nan, expected a value in \[0, 1\]"):
        fit_isotonic(np.array([1.0]), np.array([np.nan]))
    with pytest.raises(ValueError, match=r"target is 2, expected a value in \[0, 1\]"):
        fit_platt(np.array([2.0]), np.array([0.5]))
    with pytest.raises(ValueError, match=r"targets are \(0,\)"):
        fit_isotonic(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="not strictly ascending; fit the calibration again"):
        Curve(np.array([0.0, 1.0]), np.array([1.0, 0.0]))


def rows_of_heads() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    columns = [drawn(3000, seed=place)[:2] for place in range(len(TARGETS) - 1)]
    seconds = random.exponential(20, 3000)
    targets = np.stack([labels for labels, _ in columns] + [random.exponential(seconds)], 1)
    return np.stack([scores for _, scores in columns] + [0.5 * seconds], 1).astype(np.float32), targets.astype(np.float32)


def test_a_calibration_is_saved_without_pickle_and_applied_head_by_head(tmp_path):
    predictions, targets = rows_of_heads()
    methods = {"long_view": "isotonic", "like": "platt", "watch_s": "isotonic"}
    calibration = fit_calibration(predictions, targets, methods=methods)
    calibration.save(tmp_path / "calibration")
    found = Calibration.load(tmp_path / "calibration")(predictions)
    assert np.array_equal(found, calibration(predictions))
    assert found.dtype == predictions.dtype
    assert np.array_equal(found[:, 0], predictions[:, 0])
    for place, name in enumerate(TARGETS[1:], 1):
        assert found[:, place].mean() == pytest.approx(targets[:, place].mean(), rel=0.05), name
        assert (np.diff(found[np.argsort(predictions[:, place]), place]) >= 0).all()  # float32 may round to ties
    assert {path.suffix for path in tmp_path.rglob("*.*")} == {".npy"}
    assert np.array_equal(Calibration.load(tmp_path / "nothing")(predictions), predictions)


def test_a_candidate_without_a_score_still_has_none():
    predictions, targets = rows_of_heads()
    calibration = fit_calibration(predictions, targets, methods={"click": "isotonic"})
    assert math.isnan(calibration(np.full((1, len(TARGETS)), np.nan))[0, 0])
    assert calibration(predictions[:0]).shape == (0, len(TARGETS))


def test_wrong_settings_are_named():
    predictions, targets = rows_of_heads()
    for methods, message in (
        ({"longview": "platt"}, "'longview' by 'platt': expected one of click"),
        ({"click": "spline"}, "by 'spline': expected one of .* by isotonic, platt"),
        ({"watch_s": "platt"}, "seconds are not a probability, expected isotonic"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_calibration(predictions, targets, methods=methods)


def test_reliability_against_a_slow_loop():
    labels, probabilities, _ = drawn(1000, seed=6)
    probabilities = probabilities.round(2)
    found = reliability(labels, probabilities, bins=7)
    assert found.rows.sum() == 1000
    ends = np.append(0, np.cumsum(found.rows))
    order = np.argsort(probabilities, kind="stable")
    for place, (start, end) in enumerate(pairwise(ends)):
        mine = order[start:end]
        assert found.predicted[place] == pytest.approx(probabilities[mine].mean())
        assert found.observed[place] == pytest.approx(labels[mine].mean())
        assert end == 1000 or probabilities[mine].max() < probabilities[order[end]]
    assert len(reliability(np.empty(0), np.empty(0)).rows) == 0
    assert reliability(np.ones(4), np.full(4, 0.3)).rows.tolist() == [4]


def test_slices_by_hand():
    assert buckets(np.array([0.0, 7.0, 14.9, 200.0, np.nan]), (7.0, 15.0), "s").tolist() == [
        "under 7 s",
        "7 to 15 s",
        "7 to 15 s",
        "15 s and more",
        "unknown",
    ]
    hours = buckets(np.array([np.nan, 800.0, 30.0, 0.5, 5.0, 30.0]), VIDEO_AGE_H, "h")
    assert in_order(hours) == ["under 1 h", "1 to 24 h", "24 to 72 h", "720 h and more", "unknown"]
    assert in_order(np.array(["search", "home", "home"])) == ["home", "search"]
    slices = usual_slices(
        surface=np.array(["home", "home", "search"]),
        duration_s=np.array([5.0, 300.0, 20.0]),
        video_age_h=np.array([0.5, np.nan, 30.0]),
        impressions=np.array([0, 3, 500]),
    )
    table = by_slice(np.array([1, 0, 1]), np.array([0.9, 0.4, 0.7]), slices)
    assert table[0]["slice"] == "all"
    assert table[0]["rows"] == 3
    assert table[0]["auc"] == 1.0
    home = next(row for row in table if row["value"] == "home")
    assert home["rows"] == 2
    assert home["predicted"] == pytest.approx(0.65)
    assert home["observed"] == 0.5
    assert home["ece"] == metrics.ece([1, 0], [0.9, 0.4])
    assert {row["slice"] for row in table} == {"all", "surface", "duration", "video_age", "activity"}
    assert sum(row["rows"] for row in table if row["slice"] == "activity") == 3
    assert by_slice(np.empty(0), np.empty(0), {"surface": np.empty(0)}) == []
    with pytest.raises(ValueError, match="slice 'surface' has 1 rows, expected the 2"):
        by_slice(np.array([1, 0]), np.array([0.5, 0.5]), {"surface": np.array(["home"])})


def test_the_plot_has_the_same_bytes_for_the_same_numbers(tmp_path):
    labels, probabilities, true = drawn(2000, seed=7)
    panels = {
        "long_view": {"raw": reliability(labels, probabilities), "calibrated": reliability(labels, true)},
        "like": {"nobody": reliability(np.empty(0), np.empty(0))},
    }
    for name in ("a.png", "b.png"):
        reliability_plot(panels, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_many_scores_make_a_bounded_and_gentle_curve():
    labels, probabilities, _ = drawn(20_000, seed=9)
    curve = fit_isotonic(labels, probabilities)
    assert len(curve.scores) <= MOST_SCORES + 2
    inside = slice(1, -1)
    assert (np.diff(curve.values[inside]) / np.diff(curve.scores[inside])).max() < 50
    assert curve(probabilities).mean() == pytest.approx(labels.mean(), abs=2e-3)

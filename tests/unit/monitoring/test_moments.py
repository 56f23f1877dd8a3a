"""Bins and moments by hand, and the test of two windows on draws without drift."""

import numpy as np
import polars as pl
import pytest

from watchnext.monitoring.sketch.bins import LEVELS, NameBins, NumberBins, bins_from
from watchnext.monitoring.sketch.moments import Moments, damped, p_of_means, p_of_shares, stability


def test_numbers_fall_between_quantiles_and_rounding_moves_none():
    values = pl.Series(np.repeat([0.0, 1.0, 2.0, 4.0], [40, 20, 20, 20]))
    bins = NumberBins.of(values)
    np.testing.assert_allclose(bins.edges, [-0.04, 0.5, 1.5, 3.0, 4.04])
    assert bins.codes(pl.Series([None, np.nan, np.inf, -1.0, -1e-9, 0.0, 1.0 + 1e-9, 4.01, 5.0])).tolist() == [
        0, 0, 0, 1, 2, 2, 3, 5, 6,
    ]  # fmt: skip
    assert bins.size == len(bins.labels) == 7
    assert bins.odd == (0, 1, 6)
    assert bins_from(bins.to_json()).codes(values).tolist() == bins.codes(values).tolist()


def test_many_numbers_have_equal_shares_and_none_or_one_number_have_a_bin():
    random = np.random.default_rng(0)
    values = pl.Series(random.normal(size=16_000))
    counts = np.bincount(NumberBins.of(values).codes(values))
    assert len(counts) == LEVELS + 2
    assert abs(counts[2:] - 1000).max() <= 1
    assert NumberBins.of(pl.Series([None, None], dtype=pl.Float32)).codes(pl.Series([None, 3.0])).tolist() == [0, 1]
    assert NumberBins.of(pl.Series([7.0, 7.0])).codes(pl.Series([7.0, 8.0, 6.0])).tolist() == [2, 3, 1]


def test_categories_are_named_rare_new_or_missing():
    bins = NameBins.of(pl.Series([f"n{i}" for i in range(50) for _ in range(60 - i)]))
    assert bins.labels[:4] == ("missing", "new", "rare", "n0")
    assert bins.codes(pl.Series(["n0", "n39", "n40", "n49", "other", None])).tolist() == [3, 42, 2, 2, 1, 0]
    assert bins_from(bins.to_json()).labels == bins.labels
    assert NameBins.of(pl.Series([None], dtype=pl.String)).codes(pl.Series(["a", None])).tolist() == [1, 0]


def test_shares_and_their_variance_by_hand():
    """Viewer 0 has rows in bins 0 and 1, viewer 1 two rows in bin 1: weights of a row are 1 / 1.1, so that they cancel out."""
    moments = Moments.of_codes(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(moments.mean, [0.25, 0.75])
    np.testing.assert_allclose(moments.covariance, np.array([[1, -1], [-1, 1]]) * 0.5 / 16 * 2)
    assert (moments.seen.tolist(), moments.rows, moments.viewers) == ([1, 2], 4, 2)
    assert damped(np.array([1, 11, 10_000])) * [1, 11, 10_000] == pytest.approx([1, 5.5, 10], rel=1e-2)
    assert np.isnan(Moments.of_codes(np.array([0, 1]), np.array([0, 0]), 2).mean).all()


def test_the_stability_index_by_hand():
    before, now = (Moments(np.array(mean), np.eye(2), np.ones(2), 9, 9.0) for mean in ([0.5, 0.5], [0.6, 0.4]))
    assert stability(before, now) == pytest.approx(0.1 * np.log(0.6 / 0.5) - 0.1 * np.log(0.4 / 0.5))


def drawn(random: np.random.Generator, viewers: int, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes of viewers whose rows are alike: a share of the variance is of the viewer."""
    owner = np.repeat(np.arange(viewers), np.minimum(1 + random.pareto(1.5, viewers) * 6, 100).astype(int))
    values = np.sqrt(alike) * random.normal(size=viewers)[owner] + np.sqrt(1 - alike) * random.normal(size=len(owner))
    return np.digitize(values, [-3, -1, 0, 1, 3]), owner


def p_values(alike: float, *, by_viewer: bool = True, shift: int = 0) -> np.ndarray:
    random, found = np.random.default_rng(5), []
    for _ in range(300):
        sides = []
        for viewers, moved in ((200, 0), (120, shift)):
            codes, owner = drawn(random, viewers, alike)
            owner = owner if by_viewer else np.arange(len(owner))
            sides.append(Moments.of_codes(np.minimum(codes + moved, 5), owner, 6))
        found.append(p_of_shares(*sides, ordered=True, odd=(0,)))
    return np.array(found)


@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_without_drift_small_p_values_are_as_rare_as_they_say_though_rows_of_a_viewer_are_alike(alike):
    found = p_values(alike)
    assert (found < 0.05).mean() <= 0.08  # of 300 draws, two errors above .05
    assert (found < 0.001).mean() <= 0.01


def test_rows_taken_for_viewers_would_cry_wolf_and_a_shift_is_seen():
    assert (p_values(0.5, by_viewer=False) < 0.05).mean() > 0.3
    assert (p_values(0.5, shift=1) < 0.001).mean() > 0.95


def test_a_new_bin_needs_few_viewers():
    """All six viewers with a new category are among the eleventh of viewers that the window has."""
    before = Moments.of_codes(np.full(2000, 2), np.arange(2000), 3)
    now = Moments.of_codes(np.where(np.arange(200) < 6, 1, 2), np.arange(200), 3)
    assert p_of_shares(before, now, ordered=False, odd=(0, 1)) == pytest.approx(2 * 2 * (1 / 11) ** 6)


def test_means_that_do_not_vary_are_equal_or_surely_not():
    one = Moments.of_sums(np.full((5, 1), 2.0), np.ones(5))
    other = Moments.of_sums(np.full((5, 1), 3.0), np.ones(5))
    assert (p_of_means(one, one), p_of_means(one, other)) == (1.0, 0.0)

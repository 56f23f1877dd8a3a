import math

import numpy as np
import pytest

from watchnext.data.card.distribution import Distribution, gini, quantiles, top_share


def test_a_quantile_is_the_smallest_value_that_enough_do_not_exceed():
    values, counts = np.array([1.0, 5.0, 9.0]), np.array([2, 1, 1])  # 1 1 5 9
    assert quantiles(values, counts, (0.0, 0.25, 0.5, 0.51, 0.75, 0.76, 1.0)).tolist() == [1, 1, 1, 5, 5, 9, 9]
    assert np.isnan(quantiles(values[:0], counts[:0], (0.5, 1.0))).all()


def test_quantiles_of_counts_are_those_of_the_values_written_out():
    random = np.random.default_rng(0)
    values, counts = np.unique(random.integers(0, 40, 500)), random.integers(1, 9, 40)
    written = np.repeat(values, counts[: len(values)])
    levels = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    expected = np.quantile(written, levels, method="inverted_cdf")
    assert quantiles(values, counts[: len(values)], levels).tolist() == expected.tolist()


@pytest.mark.parametrize(("counts", "expected"), [([3, 3, 3], 0), ([0, 0, 0, 4], 0.75), ([1, 3], 0.25), ([7], 0)])
def test_gini_by_hand(counts, expected):
    assert gini(np.array(counts)) == pytest.approx(expected)


def test_gini_is_half_the_mean_difference_over_the_mean():
    counts = np.random.default_rng(1).integers(1, 100, 50)
    mean_difference = np.abs(counts[:, None] - counts[None, :]).mean()
    assert gini(counts) == pytest.approx(mean_difference / (2 * counts.mean()))


def test_the_top_is_at_least_one():
    assert top_share(np.array([1, 6, 3]), 0.01) == 0.6
    assert top_share(np.array([1, 6, 3]), 0.4) == 0.9
    assert top_share(np.array([1, 6, 3]), 1.0) == 1.0


def test_nobody_has_no_tail():
    nobody = np.zeros(0, np.int64)
    assert math.isnan(gini(nobody))
    assert math.isnan(top_share(nobody, 0.1))
    assert np.isnan(Distribution(nobody).quantiles).all()
    assert [part.tolist() for part in Distribution(nobody).at_least()] == [[], []]


def test_a_tail_counts_those_with_at_least_so_many():
    values, at_least = Distribution(np.array([5, 1, 1, 2])).at_least()
    assert values.tolist() == [1, 2, 5]
    assert at_least.tolist() == [1.0, 0.5, 0.25]

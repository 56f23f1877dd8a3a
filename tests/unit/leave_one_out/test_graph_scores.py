"""Scores of the whole catalogue by the graph, and the start from its spectrum, against dense matrices."""

import numpy as np
import pytest
from benchmarks.leave_one_out.graph import GraphSource
from benchmarks.leave_one_out.protocol import Sequences
from benchmarks.leave_one_out.spectral import SpectralStart, _degrees, _times, leading_vectors

from graphs import VIDEOS, dense, random_viewers
from watchnext.retrieval.sources.graph import co_watches

CHOICES = {"window": 3, "distance_power": 0.5, "backward": 0.2, "source_power": 0.4, "target_power": 0.1,
           "neighbours": 100, "last": 3, "decay": 0.7}  # fmt: skip


@pytest.fixture
def viewers() -> list[list[int]]:
    return random_viewers()


def test_scores_are_the_decayed_sum_over_the_last_watches(viewers):
    histories, some = Sequences.of(viewers, VIDEOS), np.array([5, 0, 3])
    source = GraphSource(**CHOICES).fit(histories)
    edges = dense(source.edges)
    for rows in viewers:
        wanted = sum((0.7**j * edges[row] for j, row in enumerate(rows[::-1][:3])), np.zeros(VIDEOS))
        np.testing.assert_allclose(source.scores(np.array(rows, np.int64)), wanted, rtol=1e-9)
    np.testing.assert_array_equal(source.many(histories, some), [source.scores(np.array(viewers[i], np.int64)) for i in some])


def test_a_graph_that_was_not_fitted_says_so():
    with pytest.raises(ValueError, match=r"call fit\(\)"):
        GraphSource(**CHOICES).scores(np.array([1]))


def test_leading_vectors_span_those_of_a_full_decomposition(viewers):
    """The scaled matrix that a start multiplies by, written out here."""
    histories, scales = Sequences.of(viewers, VIDEOS), np.random.default_rng(1).random(VIDEOS)
    matrix = scales[:, None] * dense(co_watches(histories, window=3, distance_power=0.5, backward=1.0)) * scales
    log = histories.rows, histories.starts, np.array([0.0, 1.0, 2**-0.5, 3**-0.5])
    found = leading_vectors(lambda v: _times(*log, scales, v), size=VIDEOS, dimension=3, rounds=300, seed=0)
    values, exact = np.linalg.eigh(matrix)
    wanted = exact[:, np.argsort(-np.abs(values))[:3]]
    np.testing.assert_allclose(np.abs(found.T @ wanted), np.eye(3), atol=1e-6)
    degree = np.zeros(VIDEOS)
    _degrees(*log, degree)
    np.testing.assert_allclose(scales * degree * scales, (matrix / scales).sum(1) * scales, rtol=1e-9)


def test_a_start_has_unit_length_on_average_and_noise_for_the_unwatched(viewers):
    choices = {"window": 3, "distance_power": 0.5, "degree_power": 0.35, "shift": 5.0, "rounds": 3, "seed": 0}
    histories = Sequences.of(viewers, VIDEOS)
    plain = SpectralStart(**choices, noise=0.0).vectors(histories, 4)
    assert (plain**2).sum(1).mean() == pytest.approx(1.0, rel=1e-5)
    assert not plain[VIDEOS - 1].any()
    noisy = SpectralStart(**choices, noise=0.05).vectors(histories, 4)
    assert 0 < np.linalg.norm(noisy[VIDEOS - 1]) < 0.2
    np.testing.assert_array_equal(noisy, SpectralStart(**choices, noise=0.05).vectors(histories, 4))
    assert SpectralStart(**choices, noise=0.0).vectors(histories, 40).shape == (VIDEOS, 40)  # wider than the catalogue

"""The graph against brute force over lists."""

import numpy as np
import pytest

from watchnext.retrieval.sources.graph import Edges, GraphSource, co_watches, linked
from watchnext.retrieval.towers.sequences.leave_one_out import Histories
from watchnext.retrieval.towers.spectral import SpectralStart, _degrees, _times, leading_vectors

VIDEOS = 12
CHOICES = {"window": 3, "distance_power": 0.5, "backward": 0.2, "source_power": 0.4, "target_power": 0.1,
           "neighbours": 100, "last": 3, "decay": 0.7}  # fmt: skip


@pytest.fixture
def viewers() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, VIDEOS - 1, size).tolist() for size in (0, 1, 2, 7, 9, 20)]  # the last row is never watched


def dense(edges: Edges) -> np.ndarray:
    found = np.zeros((len(edges), len(edges)))
    found[edges.sources, edges.neighbours] = edges.weights
    return found


def by_hand(viewers, window, distance_power, backward) -> np.ndarray:
    found = np.zeros((VIDEOS, VIDEOS))
    for rows in viewers:
        for i, earlier in enumerate(rows):
            for j, later in enumerate(rows):
                if 0 < j - i <= window and earlier != later:
                    found[earlier, later] += (j - i) ** -distance_power
                    found[later, earlier] += backward * (j - i) ** -distance_power
    return found


@pytest.mark.parametrize(("window", "distance_power", "backward"), [(1, 0.0, 0.0), (3, 0.5, 0.2), (50, 1.0, 1.0)])
def test_co_watches_against_all_pairs(viewers, window, distance_power, backward):
    edges = co_watches(Histories.of(viewers, VIDEOS), window=window, distance_power=distance_power, backward=backward)
    wanted = by_hand(viewers, window, distance_power, backward)
    np.testing.assert_allclose(dense(edges), wanted, rtol=1e-12)
    assert len(edges.weights) == np.count_nonzero(wanted)


def test_scores_are_the_decayed_sum_over_the_last_watches(viewers):
    source = GraphSource(**CHOICES).fit(Histories.of(viewers, VIDEOS))
    raw = by_hand(viewers, 3, 0.5, 0.2)
    out, into = raw.sum(1, keepdims=True), raw.sum(0, keepdims=True)
    edges = np.divide(raw, np.maximum(out, 1e-9) ** 0.4 * np.maximum(into, 1e-9) ** 0.1)
    for rows in viewers:
        wanted = sum((0.7**j * edges[row] for j, row in enumerate(rows[::-1][:3])), np.zeros(VIDEOS))
        np.testing.assert_allclose(source.scores(np.array(rows, np.int64)), wanted, rtol=1e-9)
    histories = Histories.of(viewers, VIDEOS)
    some = np.array([5, 0, 3])
    np.testing.assert_array_equal(source.many(histories, some), [source.scores(np.array(viewers[i], np.int64)) for i in some])


@pytest.mark.parametrize("room", [1, 7, 30, 10**9])
def test_a_graph_in_parts_is_the_graph_in_one(viewers, room):
    histories = Histories.of(viewers, VIDEOS)
    chosen = {"window": 3, "distance_power": 0.5, "backward": 0.2, "source_power": 0.4, "target_power": 0.1}
    raw = by_hand(viewers, 3, 0.5, 0.2)
    out, into = raw.sum(1, keepdims=True), raw.sum(0, keepdims=True)
    wanted = np.divide(raw, np.maximum(out, 1e-9) ** 0.4 * np.maximum(into, 1e-9) ** 0.1)
    found = linked(histories, **chosen, neighbours=4, room=room)
    for row in range(VIDEOS):
        best = np.sort(wanted[row][wanted[row] > 0])[::-1][:4]
        mine = slice(found.starts[row], found.starts[row + 1])
        np.testing.assert_allclose(np.sort(found.weights[mine])[::-1], best, rtol=1e-9)
        np.testing.assert_allclose(wanted[row, found.neighbours[mine]], found.weights[mine], rtol=1e-9)
    assert linked(Histories.of([[], [3]], VIDEOS), **chosen, neighbours=4, room=room).starts.tolist() == [0] * (VIDEOS + 1)


def test_only_the_strongest_edges_stay():
    edges = Edges.summed(np.array([0, 0, 0, 1, 0]), np.array([1, 2, 3, 0, 3]), np.array([2.0, 2.0, 1.0, 5.0, 0.5]), 4)
    kept = edges.strongest(2)
    assert kept.starts.tolist() == [0, 2, 3, 3, 3]
    assert kept.neighbours.tolist() == [1, 2, 0]
    assert kept.weights.tolist() == [2.0, 2.0, 5.0]


def test_a_graph_that_was_not_fitted_says_so():
    with pytest.raises(ValueError, match=r"call fit\(\)"):
        GraphSource(**CHOICES).scores(np.array([1]))


def test_leading_vectors_span_those_of_a_full_decomposition(viewers):
    """Of the scaled matrix that a start multiplies by, written out here."""
    histories, scales = Histories.of(viewers, VIDEOS), np.random.default_rng(1).random(VIDEOS)
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
    histories = Histories.of(viewers, VIDEOS)
    plain = SpectralStart(**choices, noise=0.0).vectors(histories, 4)
    assert (plain**2).sum(1).mean() == pytest.approx(1.0, rel=1e-5)
    assert not plain[VIDEOS - 1].any()
    noisy = SpectralStart(**choices, noise=0.05).vectors(histories, 4)
    assert 0 < np.linalg.norm(noisy[VIDEOS - 1]) < 0.2
    np.testing.assert_array_equal(noisy, SpectralStart(**choices, noise=0.05).vectors(histories, 4))
    assert SpectralStart(**choices, noise=0.0).vectors(histories, 40).shape == (VIDEOS, 40)  # wider than the catalogue

"""The graph against brute force over lists."""

import numpy as np
import pytest
from benchmarks.leave_one_out.protocol import Sequences

from graphs import VIDEOS, dense, random_viewers
from watchnext.retrieval.sources.graph import Edges, co_watches, linked


@pytest.fixture
def viewers() -> list[list[int]]:
    return random_viewers()


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
    edges = co_watches(Sequences.of(viewers, VIDEOS), window=window, distance_power=distance_power, backward=backward)
    wanted = by_hand(viewers, window, distance_power, backward)
    np.testing.assert_allclose(dense(edges), wanted, rtol=1e-12)
    assert len(edges.weights) == np.count_nonzero(wanted)


@pytest.mark.parametrize("room", [1, 7, 30, 10**9])
def test_a_graph_in_parts_is_the_graph_in_one(viewers, room):
    histories = Sequences.of(viewers, VIDEOS)
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
    assert linked(Sequences.of([[], [3]], VIDEOS), **chosen, neighbours=4, room=room).starts.tolist() == [0] * (VIDEOS + 1)


def test_only_the_strongest_edges_stay():
    edges = Edges.summed(np.array([0, 0, 0, 1, 0]), np.array([1, 2, 3, 0, 3]), np.array([2.0, 2.0, 1.0, 5.0, 0.5]), 4)
    kept = edges.strongest(2)
    assert kept.starts.tolist() == [0, 2, 3, 3, 3]
    assert kept.neighbours.tolist() == [1, 2, 0]
    assert kept.weights.tolist() == [2.0, 2.0, 5.0]

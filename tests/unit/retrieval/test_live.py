"""An index that changes while it answers, against brute force over what should count, one thread and many."""

import threading
import time

import numpy as np
import pytest
from index_data import QUERIES, RECIPES, VECTORS, brute, clustered

from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError

NEW = clustered(5, 600)


def live(recipe=None) -> LiveIndex:
    return LiveIndex(VideoIndex.build(VECTORS, recipe=recipe, towers="abc"))


def found(index: LiveIndex, query: np.ndarray, k: int, allowed: PreFilter | None = None) -> list[int]:
    rows = index.search(query[None], k, allowed)[0][0]
    return rows[rows >= 0].tolist()


def test_a_vector_is_the_built_one_or_the_one_added_since():
    index = live(RECIPES["ivf_sq8"])
    np.testing.assert_array_equal(index.vector(7), VECTORS[[7]])
    index.add(np.array([7, 3_001]), NEW[:2])
    np.testing.assert_array_equal(np.vstack([index.vector(7), index.vector(3_001)]), NEW[:2])
    assert index.vector(8_000).shape == index.vector(3_000).shape == (0, VECTORS.shape[1])


def test_an_added_video_is_found_and_a_removed_one_is_not():
    index, vectors, there = live(), np.vstack([VECTORS, NEW]), np.ones(3_600, bool)
    index.add(np.arange(3_000, 3_600), NEW)
    assert len(index) == 3_600
    gone = np.random.default_rng(4).permutation(3_600)[:900]
    index.remove(gone)
    there[gone] = False
    assert len(index) == 2_700
    for query in QUERIES:
        rows, scores = index.search(query[None], 60)
        assert rows[0].tolist() == brute(vectors, query, 60, there)
        np.testing.assert_allclose(scores[0], vectors[rows[0]] @ query, rtol=1e-4, atol=1e-6)


def test_filters_hold_for_what_is_fresh_too():
    index, vectors = live(), np.vstack([VECTORS, NEW])
    index.add(np.arange(3_000, 3_600), NEW)
    mask, hidden = np.random.default_rng(6).random(3_500) < 0.5, np.arange(2_900, 3_100)
    allowed = mask.copy()
    allowed[hidden] = False
    allowed = np.append(allowed, np.zeros(100, bool))  # nobody knows anything about the last ones
    for query in QUERIES[:10]:
        assert found(index, query, 80, PreFilter(StaticMask(mask), hidden)) == brute(vectors, query, 80, allowed)


def test_a_row_that_is_added_again_has_its_new_vector_alone():
    index, vectors = live(), VECTORS.copy()
    for at, rows in enumerate((np.array([7, 90, 2_000]), np.array([90, 8]))):  # built ones, then one of those again
        index.add(rows, NEW[at * 10 : at * 10 + len(rows)])
        vectors[rows] = NEW[at * 10 : at * 10 + len(rows)]
        assert len(index) == 3_000
        for query in (*vectors[rows], *QUERIES[:5]):
            assert found(index, query, 30) == brute(vectors, query, 30)


def test_a_removed_row_comes_back_when_it_is_added_and_removing_nothing_is_nothing():
    index = live()
    index.remove(np.array([5, 5, 10**6]))
    assert 5 not in found(index, VECTORS[5], 3_000)
    index.remove(np.array([5]))
    assert len(index) == 2_999
    index.add(np.array([5]), VECTORS[5:6])
    assert found(index, VECTORS[5], 1) == [5]
    assert len(index) == 3_000


def test_an_index_may_begin_with_nothing():
    index = LiveIndex(VideoIndex.build(VECTORS[:0], recipe=RECIPES["ivf_sq8"]))
    assert found(index, QUERIES[0], 5) == []
    index.add(np.arange(100), VECTORS[:100])
    assert found(index, QUERIES[0], 5) == brute(VECTORS[:100], QUERIES[0], 5)
    index.remove(np.arange(100))
    assert found(index, QUERIES[0], 5) == []


@pytest.mark.parametrize(
    ("rows", "vectors", "message"),
    [
        ([1, 1], NEW[:2], "expected different rows"),
        ([-1], NEW[:1], "from 0 up"),
        ([1], NEW[:2], "as many vectors of 16 numbers"),
        ([1, 2], NEW[:2, :8], "as many vectors of 16 numbers"),
        ([4, 9], np.full((2, 16), np.nan), "the vector of video 4 holds nan"),
    ],
)
def test_a_vector_that_cannot_be_added_is_refused_and_changes_nothing(rows, vectors, message):
    index = live()
    with pytest.raises(VideoIndexError, match=message):
        index.add(np.array(rows), vectors)
    assert found(index, QUERIES[0], 20) == brute(VECTORS, QUERIES[0], 20)


def test_threads_see_whole_changes():
    """Readers run beside a writer. A pair of rows with one vector is added and removed together, so a search that finds one
    finds the other; a row that was removed before a search began is not found, one that was added is."""
    index, stop, wrong = live(RECIPES["ivf_sq8"]), threading.Event(), []
    pairs = [(4_000 + 2 * i, 4_001 + 2 * i) for i in range(200)]
    state = dict.fromkeys(range(200), False)  # whether a pair is there, as of the last change that returned

    def read(seed: int) -> None:
        random = np.random.default_rng(seed)
        while not stop.is_set():
            i = int(random.integers(200))
            before = state[i]
            rows = set(found(index, 2 * NEW[i], 5))
            after = state[i]
            both = set(pairs[i]) & rows
            if len(both) == 1 or (before == after and before is not None and bool(both) != before):
                wrong.append((i, before, after, rows))

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    random = np.random.default_rng(0)
    for _ in range(500):
        i = int(random.integers(200))
        there, state[i] = state[i], None  # between: either is right
        if there:
            index.remove(np.array(pairs[i]))
        else:
            index.add(np.array(pairs[i]), np.vstack([2 * NEW[i]] * 2))
        state[i] = not there
        time.sleep(0.001)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert len(index) == 3_000 + 2 * sum(state.values())

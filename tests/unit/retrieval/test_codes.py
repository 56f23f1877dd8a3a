import numpy as np
import pytest
from index_data import VECTORS, unit

from watchnext.retrieval.index.codes import BLOCK, Codes, best


@pytest.mark.parametrize("dimension", [1, 16, 64, 100])
def test_scores_are_inner_products_within_the_stated_error(dimension):
    vectors, queries = 3 * unit(4, 700, dimension) ** 3, unit(5, 20, dimension)
    codes, places = Codes.of(vectors, chunk=64), np.random.default_rng(6).permutation(700)[:300].astype(np.int32)
    assert codes.values.shape == (700, -(-dimension // BLOCK) * BLOCK)
    for query in queries:
        scores, margin = codes.scores(query, places)
        weighted = query * codes.scale
        step = np.abs(weighted).max() / 8191
        whole = np.round(weighted / step).astype(int)
        assert scores.tolist() == (codes.values[places, :dimension].astype(int) @ whole).tolist()
        off = np.abs(scores * step - vectors[places].astype(np.float64) @ query)
        assert 0 < off.max() <= margin / 2 * step * (1 + 1e-5)


def test_zeros_and_nothing_at_all_have_codes():
    codes = Codes.of(np.zeros((3, 4), np.float32))
    assert codes.scores(np.zeros(4, np.float32), np.arange(3))[0].tolist() == [0, 0, 0]
    assert len(Codes.of(np.zeros((0, 4), np.float32)).values) == 0


@pytest.mark.parametrize("k", [1, 7, 500, 2_999])
def test_the_best_hold_all_that_the_margin_leaves_open(k):
    random = np.random.default_rng(k)
    for scores in (random.integers(-(2**31), 2**31, 3_000), random.integers(-3, 3, 3_000), np.zeros(3_000)):
        scores = scores.astype(np.int32)
        least = np.sort(scores)[::-1][k - 1]
        for margin in (0.0, 2.5):
            found = best(scores, k, margin)
            assert set(np.flatnonzero(scores >= least - margin)) <= set(found.tolist())
            assert (np.diff(found) > 0).all()
    spread = random.permutation(4_000_000)[:3_000].astype(np.int32)
    assert len(best(spread, k, 0.0)) <= k + 8  # what shares the last bin
    assert best(spread[:5], 9, 0.0).tolist() == [0, 1, 2, 3, 4]


def test_vectors_of_the_world_lose_little():
    codes = Codes.of(VECTORS)
    assert codes.residual < 0.03

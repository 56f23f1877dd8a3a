from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.reranking.diversity import Diversity, Similarity, scaled
from watchnext.reranking.value import RerankingError


def facts(vectors, creators=None, tags=None):
    n = len(vectors)
    return SimpleNamespace(
        vectors=np.array(vectors, np.float32),
        creator_rows=np.array(creators if creators is not None else [-1] * n),
        tag_rows=np.array(tags if tags is not None else [[-1] * 4] * n),
    )


def test_cosine_by_hand():
    similarity = Similarity.of(np.arange(3), facts([[2, 0], [3, 3], [0, 5]]))
    np.testing.assert_allclose(similarity.to(0), [1, np.sqrt(0.5), 0], atol=1e-6)


def test_a_missing_vector_falls_back_to_creator_and_tags():
    tags = [[1, 2, -1, -1], [2, 3, -1, -1], [1, 2, -1, -1], [-1] * 4]
    similarity = Similarity.of(np.arange(4), facts([[0, 0], [1, 0], [np.nan, 0], [1, 0]], [5, 5, 6, -1], tags))
    np.testing.assert_allclose(similarity.to(0), [1.0, 0.5 + 0.5 / 3, 0.5, 0.0])
    np.testing.assert_allclose(similarity.to(3), [0.0, 1.0, 0.0, 1.0])  # to 1 by cosine; without a creator none is shared


def test_an_opposite_vector_is_not_similar():
    assert Similarity.of(np.arange(2), facts([[1, 0], [-1, 0]])).to(0).tolist() == [1.0, 0.0]


def test_the_determinant_counts_a_cosine_from_0_to_1():
    tags = [[1, 2, -1, -1], [2, 3, -1, -1], [1, 2, -1, -1], [-1] * 4]
    similarity = Similarity.of(np.arange(4), facts([[1, 0], [0, 1], [-1, 0], [0, 0]], [5, 5, 6, 5], tags))
    np.testing.assert_allclose(similarity.to(0, shifted=True), [1.0, 0.5, 0.0, 0.5])


def test_nothing_is_known_of_nothing():
    assert Similarity.nothing(2).to(0).tolist() == [0.0, 0.0]


def test_a_wrong_method_is_refused():
    with pytest.raises(RerankingError, match="method"):
        Diversity(method="mrr")


def test_scaling_of_degenerate_values():
    assert scaled(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert scaled(np.array([1.0, 3.0, -np.inf])).tolist() == [0.0, 1.0, -np.inf]
    assert scaled(np.zeros(0)).tolist() == []
    assert scaled(np.array([-np.inf])).tolist() == [-np.inf]


@pytest.mark.parametrize("trade_off", [-0.1, 1.1, float("nan"), "0.5"])
def test_the_trade_off_is_a_ratio(trade_off):
    with pytest.raises(RerankingError, match=r"diversity\.trade_off"):
        Diversity(trade_off=trade_off)

from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.reranking.diversity import Similarity
from watchnext.reranking.greedy import Caps, fill


def vectors(units):
    n = len(units)
    facts = SimpleNamespace(vectors=np.array(units, np.float32), creator_rows=np.full(n, -1), tag_rows=np.full((n, 1), -1))
    return Similarity.of(np.arange(n), facts)


def capped(*caps, candidates):
    """Join caps of (keys, most)."""
    return Caps.joined([np.array(keys) for keys, _ in caps], [most for _, most in caps], candidates)


def filled(relevance, slots, *, similarity=None, trade_off=1.0, caps=(), epsilon=0.0):
    relevance = np.array(relevance, float)
    return fill(relevance, similarity, trade_off, capped(*caps, candidates=len(relevance)), epsilon, np.full((slots, 2), 0.999))


def test_similar_candidates_give_way_to_others():
    similarity = vectors([[1, 0], [1, 0], [0, 1], [-1, 0]])
    assert filled([1.0, 0.9, 0.5, 0.1], 4).picked.tolist() == [0, 1, 2, 3]
    assert filled([1.0, 0.9, 0.5, 0.1], 4, similarity=similarity, trade_off=0.5).picked.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("trade_off", [0.0, 0.5, 1.0])
def test_a_sunk_value_comes_last_at_every_trade_off(trade_off):
    similarity = vectors([[1, 0], [1, 0], [0, 1]])
    assert filled([1.0, 0.5, -np.inf], 3, similarity=similarity, trade_off=trade_off).picked.tolist() == [0, 1, 2]


def test_a_cap_bars_a_key_that_is_used_up_and_never_what_has_none():
    keys = [[4], [4], [-1], [4], [-1]]
    slate = filled([5, 4, 3, 2, 1], 4, caps=[(keys, 2)])
    assert slate.picked.tolist() == [0, 1, 2, 4]
    assert slate.barred.tolist() == [[True, True, False, True, False]]


def test_a_repeated_key_of_one_video_counts_once():
    keys = [[1, 1], [2, 1], [2, 3], [-1, -1], [3, -1]]
    assert filled([5, 4, 3, 2, 1], 3, caps=[(keys, 2)]).picked.tolist() == [0, 1, 2]
    assert not filled([5, 4, 3, 2, 1], 2, caps=[(keys, 2)]).barred.any()  # one is counted before the second slot


def test_the_last_cap_is_dropped_first_and_for_good():
    one, two = [[1], [1], [2], [2]], [[7], [8], [7], [9]]
    slate = filled([4, 3, 2, 1], 4, caps=[(one, 1), (two, 1)])
    assert slate.picked.tolist() == [0, 3, 1, 2]  # 3 is under both caps; then neither leaves any
    assert slate.held == 0


def test_exploring_draws_among_the_eligible_with_their_probability():
    slate = filled([3, 2, 1], 2, caps=[([[1], [1], [2]], 1)], epsilon=1.0)
    assert slate.picked.tolist() == [2, 1]  # the last of those eligible
    assert slate.propensities.tolist() == [1 / 3, 1 / 2]


def test_no_candidates_fill_no_slot():
    assert len(filled([], 0).picked) == 0

from types import SimpleNamespace

import numpy as np
import pytest

from watchnext.reranking.diversity import Diversity, Similarity
from watchnext.reranking.greedy import fill
from watchnext.reranking.limits import FOREVER, NEVER_NEAR, SlateLimits


def vectors(units):
    n = len(units)
    facts = SimpleNamespace(vectors=np.array(units, np.float32), creator_rows=np.full(n, -1), tag_rows=np.full((n, 1), -1))
    return Similarity.of(np.arange(n), facts)


def limited(candidates, *rules, hard=0):
    """Join rules, each with some of keys, most, slots, cosine, group and least; the first `hard` never bend."""
    none = np.zeros((candidates, 0), np.int64)
    keys = [np.array(rule.get("keys", none), np.int64) for rule in rules]
    ends = np.cumsum([each.shape[1] for each in keys], dtype=np.int64)
    return SlateLimits(
        keys=np.concatenate([none, *keys], axis=1),
        columns=np.array([(end - each.shape[1], end) for each, end in zip(keys, ends, strict=True)], np.int64).reshape(-1, 2),
        most=np.array([rule.get("most", FOREVER) for rule in rules], np.int64),
        window=np.array([rule.get("slots", FOREVER) for rule in rules], np.int64),
        cosine=np.array([rule.get("cosine", NEVER_NEAR) for rule in rules], np.float64),
        least=np.array([rule.get("least", 0) for rule in rules], np.int64),
        groups=np.array([rule.get("group", np.zeros(candidates)) for rule in rules], bool).reshape(len(rules), candidates),
        hard=hard,
    )


def filled(relevance, slots, *rules, similarity=None, trade_off=1.0, epsilon=0.0, hard=0, method="mmr"):
    relevance = np.array(relevance, float)
    diversity = Diversity(trade_off=trade_off, method=method)
    limits, draws = limited(len(relevance), *rules, hard=hard), np.full((slots, 2), 0.999)
    return fill(relevance, similarity, diversity, limits, epsilon, draws, slots=slots)


def test_similar_candidates_give_way_to_others():
    similarity = vectors([[1, 0], [1, 0], [0, 1], [-1, 0]])
    assert filled([1.0, 0.9, 0.5, 0.1], 4).picked.tolist() == [0, 1, 2, 3]
    assert filled([1.0, 0.9, 0.5, 0.1], 4, similarity=similarity, trade_off=0.5).picked.tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("method", ["mmr", "dpp"])
@pytest.mark.parametrize("trade_off", [0.0, 0.5, 1.0])
def test_a_sunk_value_comes_last_at_every_trade_off(trade_off, method):
    similarity = vectors([[1, 0], [1, 0], [0, 1]])
    slate = filled([1.0, 0.5, -np.inf], 3, similarity=similarity, trade_off=trade_off, method=method)
    assert slate.picked.tolist() == [0, 1, 2]


def test_a_cap_bars_a_key_that_is_used_up_and_never_what_has_none():
    keys = [[4], [4], [-1], [4], [-1]]
    slate = filled([5, 4, 3, 2, 1], 4, {"keys": keys, "most": 2})
    assert slate.picked.tolist() == [0, 1, 2, 4]
    assert slate.barred_by.tolist() == [-1, -1, -1, 0, -1]
    assert not slate.bent.any()


def test_a_repeated_key_of_one_video_counts_once():
    keys = [[1, 1], [2, 1], [2, 3], [-1, -1], [3, -1]]
    assert filled([5, 4, 3, 2, 1], 3, {"keys": keys, "most": 2}).picked.tolist() == [0, 1, 2]
    assert (filled([5, 4, 3, 2, 1], 2, {"keys": keys, "most": 2}).barred_by[2:] == 1).all()  # one is counted yet


def test_the_last_cap_bends_first_and_is_named():
    one, two = {"keys": [[1], [1], [2], [2]], "most": 1}, {"keys": [[7], [8], [7], [9]], "most": 1}
    slate = filled([4, 3, 2, 1], 4, one, two)
    assert slate.picked.tolist() == [0, 3, 1, 2]  # 3 is under both caps; then neither leaves any
    assert slate.bent.tolist() == [True, True]
    assert filled([4, 3, 2, 1], 2, one, two).bent.tolist() == [False, False]


def test_a_window_lets_a_key_in_again_when_its_video_has_left():
    keys = [[1], [1], [1], [2], [-1], [2]]
    assert filled([6, 5, 4, 3, 2, 1], 6, {"keys": keys, "most": 1, "slots": 2}).picked.tolist() == [0, 3, 1, 4, 2, 5]
    slate = filled([6, 5, 4, 3, 2, 1], 5, {"keys": keys, "most": 1, "slots": 3})
    assert slate.picked.tolist() == [0, 3, 4, 1, 5]
    assert slate.barred_by[2] == 0
    assert filled([6, 5, 4, 3, 2, 1], 4, {"keys": keys, "most": 2, "slots": 3}).picked.tolist() == [0, 1, 3, 2]


def test_near_copies_are_kept_apart_even_where_similarity_has_no_weight():
    similarity = vectors([[1, 0], [1, 0.1], [0, 1], [0, 0], [0, 0]])
    near = {"similarity": similarity, "trade_off": 1.0}
    slate = filled([5, 4, 3, 2, 1], 4, {"cosine": 0.99}, **near)
    assert slate.picked.tolist() == [0, 2, 3, 4]  # without a vector nothing is near
    assert slate.barred_by[1] == 0
    assert filled([5, 4, 3, 2, 1], 5, {"cosine": 0.99}, **near).bent.tolist() == [True]
    assert filled([5, 4, 3, 2, 1], 2, {"cosine": 0.999}, **near).picked.tolist() == [0, 1]


def test_a_floor_takes_the_last_slots_and_says_where_it_is_not_reached():
    floor = {"group": [0, 0, 0, 1, 1], "least": 2}
    assert filled([5, 4, 3, 2, 1], 4, floor).picked.tolist() == [0, 1, 3, 4]
    assert filled([5, 4, 3, 2, 1], 1, floor).picked.tolist() == [3]  # a slate of 1 has one at least
    assert not filled([5, 4, 3, 2, 1], 4, floor).bent.any()
    slate = filled([5, 4, 3, 2, 1], 3, {"group": [0, 0, 0, 0, 1], "least": 2})
    assert (slate.picked.tolist(), slate.bent.tolist()) == ([0, 1, 4], [True])


def test_two_floors_share_the_slots_and_the_last_bends_first():
    one, two = {"group": [0, 0, 0, 1, 1, 0], "least": 2}, {"group": [0, 0, 1, 0, 0, 1], "least": 1}
    assert filled([6, 5, 4, 3, 2, 1], 4, one, two).picked.tolist() == [0, 2, 3, 4]
    slate = filled([6, 5, 4, 3, 2, 1], 2, one, two)
    assert (slate.picked.tolist(), slate.bent.tolist()) == ([3, 4], [False, True])


def test_a_hard_limit_rather_leaves_slots_empty():
    keys = [[0], [0], [-1], [0]]
    slate = filled([4, 3, 2, 1], 4, {"keys": keys, "most": 1}, {"keys": [[1], [1], [1], [1]], "most": 1}, hard=1)
    assert slate.picked.tolist() == [0, 2]
    assert len(slate.propensities) == 2
    assert slate.barred_by.tolist() == [-1, 0, -1, 0]
    assert slate.bent.tolist() == [False, True]


def test_exploring_draws_among_the_eligible_with_their_probability():
    slate = filled([3, 2, 1], 2, {"keys": [[1], [1], [2]], "most": 1}, epsilon=1.0)
    assert slate.picked.tolist() == [2, 1]  # the last of those eligible
    assert slate.propensities.tolist() == [1 / 3, 1 / 2]


def test_no_candidates_fill_no_slot():
    assert len(filled([], 0).picked) == 0

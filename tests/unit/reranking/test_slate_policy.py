"""The distribution of a slate, against the frequencies of the slates that the re-ranker draws."""

from collections import Counter

import numpy as np
import pytest

from queries import query_of
from random_slates import BITS, VIDEOS, world
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate import Reranker


def reranker(epsilon: float) -> Reranker:
    return Reranker.from_config(
        {
            "value": {"weights": {"click": 0.25, "long_view": 1.0}},
            "rules": {name: {} for name in ("duplicate", "safety", "region", "seen")}
            | {"creator_cap": {"most": 1}, "tag_cap": {"most": 2}},
            "diversity": {"trade_off": 0.7},
            "exploration": {"epsilon": epsilon},
        }
    )


def drawn(ranker: Reranker, asked: tuple, request_id: str, k: int):
    ranked, viewer, facts, unavailable = asked
    query = query_of(request_id=request_id, k=k, **viewer)
    asked = ranked, query.request, RuleContext.of(query, facts=facts, region_bits=BITS, unavailable=unavailable)
    return ranker.rerank(*asked), lambda shown: ranker.policy(*asked, np.array(shown))


@pytest.mark.parametrize("seed", range(12))
def test_the_probabilities_of_a_drawn_slate_are_its_propensities(seed):
    ranker, asked = reranker(0.5), world(seed)
    rows = asked[0].candidates.rows
    for number in range(10):
        slate, policy_of = drawn(ranker, asked, f"{seed}-{number}", 6)
        policy = policy_of(rows[slate.picked])
        assert policy.outside == 0
        given = [int(np.flatnonzero(policy.rows == row)[0]) for row in rows[slate.picked]]
        for slot, position in enumerate(given):
            chances = policy.following(np.array(given[:slot], np.int64))
            assert chances[position] == pytest.approx(slate.propensities[slot], abs=1e-12)
            assert chances.sum() == pytest.approx(1.0)


def test_the_probabilities_are_the_frequencies_of_the_draws():
    ranker, asked, runs = reranker(0.6), world(3), 6000
    rows, counts = asked[0].candidates.rows, Counter()
    for number in range(runs):
        slate, policy_of = drawn(ranker, asked, str(number), 2)
        counts.update([tuple(rows[slate.picked].tolist())])
    policy = policy_of(rows[:0])
    for first, second in counts:
        at, then = (int(np.flatnonzero(policy.rows == row)[0]) for row in (first, second))
        probability = policy.following(np.array([], np.int64))[at] * policy.following(np.array([at]))[then]
        assert abs(counts[first, second] / runs - probability) < 5 * np.sqrt(probability / runs)


def test_a_video_that_is_no_candidate_is_never_picked_but_counts_above():
    """Its creator's other videos are capped, and the others keep probabilities that sum to 1."""
    ranker, asked = reranker(0.5), world(3)
    facts, rows = asked[2], asked[0].candidates.rows
    _, policy_of = drawn(ranker, asked, "0", 3)
    eligible = policy_of(rows[:0]).rows
    shared = [
        (out, int(each)) for out in range(VIDEOS) if out not in eligible for each in eligible
        if facts.creator_rows[out] == facts.creator_rows[each] >= 0
    ]  # fmt: skip
    out, capped = shared[0]
    policy = policy_of([out])
    assert policy.rows[-1] == out
    assert policy.outside == 1
    chances = policy.following(np.array([len(policy.rows) - 1]))
    assert policy.following(np.array([], np.int64))[-1] == chances[-1] == chances[policy.rows == capped][0] == 0
    assert chances.sum() == pytest.approx(1.0)


def test_where_no_video_is_left_every_probability_is_0():
    ranker, asked = reranker(0.5), world(3)
    policy = drawn(ranker, asked, "0", 3)[1](np.array([], np.int64))
    assert policy.following(np.arange(len(policy.rows))).tolist() == [0.0] * len(policy.rows)

from types import SimpleNamespace

import numpy as np
import pytest

from queries import query_of
from watchnext.reranking.rules.copies import DuplicateFilter
from watchnext.reranking.rules.filters import RegionFilter, SeenFilter, UnavailableFilter
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.rules.safety import SafetyFilter
from watchnext.serving.funnel.candidates.rule_prefilter import Copies, RulePreFilter

RANDOM = np.random.default_rng(5)
FACTS = SimpleNamespace(
    regions=np.where(RANDOM.random(400) < 0.6, RANDOM.integers(0, 4, 400), 0).astype(np.uint64),
    safety=RANDOM.integers(0, 3, 400).astype(np.uint8),
    fingerprints=np.where(RANDOM.random(400) < 0.5, RANDOM.integers(1, 60, 400), 0),
    upload_ms=np.where(RANDOM.random(400) < 0.1, np.nan, RANDOM.integers(0, 100, 400).astype(float)),
)
BITS, EVERY = {"de": 0, "fr": 1}, np.arange(400)
UNAVAILABLE = RANDOM.random(400) < 0.1
RULES = [UnavailableFilter(), SafetyFilter(highest="mature"), RegionFilter(), SeenFilter(), DuplicateFilter()]


@pytest.mark.parametrize("region", ["de", "fr", "??", None])
@pytest.mark.parametrize("left_out", [None, *range(5)])
def test_the_pre_filter_allows_the_videos_that_every_rule_passes(region, left_out):
    rules = [rule for place, rule in enumerate(RULES) if place != left_out]
    query = query_of(seen=np.sort(RANDOM.choice(400, 20, replace=False)), region=region, as_of_ms=50)
    situation = RuleContext(seen=query.seen, region=region, facts=FACTS, region_bits=BITS, unavailable=UNAVAILABLE)
    out = [rule.removes(EVERY, situation) for rule in rules if not isinstance(rule, DuplicateFilter)]
    # One at a time, so that a copy is one of something seen.
    out += [
        np.array([rule.removes(EVERY[[row]], situation)[0] for row in EVERY])
        for rule in rules
        if isinstance(rule, DuplicateFilter)
    ]
    out.append(FACTS.upload_ms > 50)  # an unknown time is no reason
    allowed = RulePreFilter(rules, FACTS, BITS).of(query, unavailable=UNAVAILABLE)
    np.testing.assert_array_equal(allowed.of(EVERY), ~np.any(out, axis=0))


def test_one_region_is_asked_of_the_rules_once():
    prefilter, query = RulePreFilter(RULES, FACTS, BITS), query_of(region="de")
    first, again = (prefilter.of(query, unavailable=UNAVAILABLE) for _ in range(2))
    assert first.static_mask is again.static_mask
    nowhere = [prefilter.of(query_of(region=region), unavailable=UNAVAILABLE) for region in ("??", "!!", None)]
    assert len({each.static_mask for each in nowhere}) == 1  # made-up regions take no memory


def test_copies_by_hand():
    copies = Copies(np.array([7, 0, 7, 9, 0, 9, 7, 5]))
    assert sorted(copies.of(np.array([2, 4, 7])).tolist()) == [0, 2, 6, 7]
    assert sorted(copies.of(np.array([3, 0])).tolist()) == [0, 2, 3, 5, 6]
    assert copies.of(np.zeros(0, np.int64)).tolist() == []
    assert copies.first(np.array([4, 6, 5, 1, 0, 3, 7])).tolist() == [0, 1, 2, 3, 6]
    assert Copies(np.zeros(0, np.int64)).first(np.array([3, 3])).tolist() == [0, 1]


def test_what_is_not_uploaded_yet_is_marked_now_and_then_and_only_the_next_minutes_are_hidden_one_by_one():
    facts = SimpleNamespace(**{**vars(FACTS), "upload_ms": 100_000.0 * FACTS.upload_ms})  # within 2.8 hours
    prefilter = RulePreFilter([], facts, BITS)
    for as_of_ms in (0.0, 1e5, 3.9e5, 4e5, 3.99e5, 5e6, 2e6, 1e7, 1e8):  # forward, and back
        allowed = prefilter.of(query_of(as_of_ms=as_of_ms), unavailable=UNAVAILABLE)
        np.testing.assert_array_equal(allowed.of(EVERY), ~(facts.upload_ms > as_of_ms))
        assert len(allowed.hidden) <= 4 * 8  # uploads of 300 s, of 4 videos each 100 s
    first = prefilter.refresh(5e6)
    assert prefilter.of(query_of(as_of_ms=5.2e6), unavailable=UNAVAILABLE).also is first.also

"""Properties of slates under all rules at once, over random catalogues, against rules that are counted in plain Python."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries import query_of
from random_slates import BITS, VIDEOS, scored, world
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.rules.rule import Filter, RuleContext
from watchnext.reranking.slate import Reranker

HARD = ("unavailable", "safety", "region", "seen", "duplicate")
POLICY = [{"ages": ["18-24"], "mature": "limit"}, {"ages": ["25-34"], "mature": "allow"}]
HOUR_MS = 3.6e6


def drawn(seed: int) -> tuple[Reranker, tuple, dict, dict]:
    """All rules in a random order and with random settings, over a random catalogue and viewer."""
    rng = np.random.default_rng([seed, 2])
    soft = {
        "hidden": {"weight": float(rng.choice([0.0, 0.5]))},
        "near_duplicate": {"cosine": float(rng.choice([0.9, 1.0 - 1e-6]))},
        "creator_cap": {"most": int(rng.integers(1, 4))},
        "tag_cap": {"most": int(rng.integers(1, 5))},
        "creator_window": {"most": 1, "slots": int(rng.integers(2, 6))},
        "tag_window": {"most": int(rng.integers(1, 3)), "slots": int(rng.integers(2, 6))},
        "language": {"most": int(rng.integers(1, 5))},
        "freshness": {"least": int(rng.integers(1, 5)), "younger_h": float(rng.integers(4, 40))},
        "new_creators": {"least": int(rng.integers(1, 4)), "younger_days": float(rng.uniform(2, 3))},
    }
    hard = {name: {} for name in HARD} | {"safety": {"highest": "mature", "policy": POLICY, "most": 1}}
    kept = {name: options for name, options in soft.items() if rng.random() < 0.6}
    names = [*hard, *kept]
    rules = {names[at]: (hard | kept)[names[at]] for at in rng.permutation(len(names))}
    reranker = Reranker.from_config(
        {
            "value": {"weights": {"click": 0.25, "long_view": 1.0}},
            "rules": rules,
            "diversity": {"trade_off": float(rng.choice([0.3, 0.8, 1.0])), "method": str(rng.choice(["mmr", "dpp"]))},
            "exploration": {"epsilon": float(rng.choice([0.0, 0.5, 1.0]))},
        }
    )
    ranked, viewer, facts, unavailable = world(seed)
    viewer |= {"age": [None, "18-24", "25-34", "35+"][rng.integers(4)], "language": [None, "de", "en"][rng.integers(3)]}
    viewer |= {"history_rows": viewer["seen"][:3], "bits": np.full(len(viewer["seen"][:3]), OUTCOME_BITS["hide"])}
    return reranker, ranked, viewer, {"facts": facts, "region_bits": BITS, "unavailable": unavailable}


def slate_of(reranker, ranked, viewer, inputs, k, seed):
    query = query_of(request_id=str(seed), k=k, **viewer)
    return reranker.rerank(ranked, query.request, RuleContext.of(query, **inputs))


class Slow:
    """The rules of a re-ranker, counted one video and one slot at a time."""

    def __init__(self, reranker, viewer, facts, eligible, slots):
        self.viewer, self.facts, self.slots = viewer, facts, slots
        self.rules = [each for each in reranker.rules if hasattr(each, "keys") or not isinstance(each, Filter)]
        self.rules.sort(key=lambda each: each.name != "safety")
        self.need = {each.name: min(each.least, slots, sum(self.of_group(each, row) for row in eligible))
                     for each in self.rules if hasattr(each, "least")}  # fmt: skip

    def of_group(self, rule, row):
        if rule.name == "freshness":
            return self.facts.upload_ms[row] >= -rule.younger_h * HOUR_MS
        creator = self.facts.creator_rows[row]
        return creator >= 0 and self.facts.first_upload_ms[creator] >= -rule.younger_days * 24 * HOUR_MS

    def keys(self, rule, row):
        """The keys of a video under a cap."""
        if rule.name == "safety":
            return {0} if self.viewer["age"] == "18-24" and self.facts.safety[row] == 1 else set()
        if rule.name == "language":
            own, code = self.facts.languages.get(self.viewer["language"], 0), self.facts.language_codes(np.array([row]))[0]
            return {0} if own and code and own != code else set()
        keys = [self.facts.creator_rows[row]] if "creator" in rule.name else self.facts.tag_rows[row]
        return {int(key) for key in keys if key >= 0}

    def near(self, rule, one, other):
        u, v = (self.facts.vectors[row].astype(float) for row in (one, other))
        return u.any() and v.any() and u @ v / np.sqrt((u @ u) * (v @ v)) >= rule.cosine - 1e-7

    def breaks(self, row, slate):
        """The rules that a video breaks behind `slate`, by position."""
        broken, total, wanted = [], 0, False
        for at, rule in enumerate(self.rules):
            if rule.name in self.need:
                left = max(self.need[rule.name] - sum(self.of_group(rule, each) for each in slate), 0)
                total, wanted = total + left, wanted or (left > 0 and self.of_group(rule, row))
                broken += [at] * bool(left and total >= self.slots - len(slate) and not wanted)
            elif rule.name == "near_duplicate":
                broken += [at] * any(self.near(rule, row, each) for each in slate)
            elif rule.name != "hidden":
                window = slate[-(rule.slots - 1) :] if rule.slots else slate
                counts = Counter(key for each in window for key in self.keys(rule, each))
                broken += [at] * any(counts[key] >= rule.most for key in self.keys(rule, row))
        return broken


def check(seed: int, k: int) -> None:
    reranker, ranked, viewer, inputs = drawn(seed)
    slate, rows, facts = slate_of(reranker, ranked, viewer, inputs, k, seed), ranked.candidates.rows, inputs["facts"]
    context = RuleContext.of(query_of(**viewer), **inputs)
    ordered = rows[np.lexsort((rows, -reranker.value.of(ranked.predictions)))]
    eligible = ordered
    for each in sorted(
        (each for each in reranker.rules if isinstance(each, Filter)), key=lambda each: each.name == "duplicate"
    ):
        eligible = eligible[~each.removes(eligible, context)]
    eligible = eligible.tolist()
    chosen, slow = rows[slate.picked].tolist(), Slow(reranker, viewer, facts, eligible, min(k, len(eligible)))
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= set(eligible)
    broken, left = set(), eligible
    for slot, row in enumerate(chosen):
        left = [each for each in eligible if each not in chosen[:slot]]
        by_row = {each: slow.breaks(each, chosen[:slot]) for each in left}
        firsts = {each: min(by_row[each], default=len(slow.rules)) for each in left}
        assert firsts[row] == max(firsts.values())  # no other candidate keeps more rules, in their order
        assert slow.rules[firsts[row]].name != "safety" if firsts[row] < len(slow.rules) else True
        broken |= {slow.rules[at].name for at in by_row[row] if slow.rules[at].name not in slow.need}
    short = [name for name in slow.need if sum(slow.of_group(rule_of(slow, name), row) for row in chosen)
             < min(rule_of(slow, name).least, slow.slots)]  # fmt: skip
    assert set(slate.bent) == broken | set(short)
    if len(chosen) < slow.slots:  # only a hard limit leaves a slot empty
        left = [each for each in eligible if each not in chosen]
        assert all(slow.rules[min(slow.breaks(each, chosen))].name == "safety" for each in left)
    mature = [row for row in chosen if facts.safety[row]]
    assert len(mature) <= {"18-24": 1, "25-34": k}.get(viewer["age"], 0)
    taken = np.concatenate([slate.picked, *slate.removed.values()])
    assert len(np.unique(taken)) == len(taken)
    assert [*slate.removed] == [each.name for each in reranker.rules]
    assert {*rows.tolist()} - {*rows[taken].tolist()} <= {*eligible}


def rule_of(slow, name):
    return next(each for each in slow.rules if each.name == name)


seeds, lengths = st.integers(0, 2**32 - 1), st.integers(0, 25)


@settings(max_examples=150, deadline=None)
@given(seeds, lengths)
def test_a_slate_is_full_breaks_as_few_rules_as_it_can_and_names_them(seed, k):
    check(seed, k)


@pytest.mark.full
@settings(max_examples=5000, deadline=None)
@given(seeds, lengths)
def test_thousands_of_slates_are_full_and_break_as_few_rules_as_they_can(seed, k):
    check(seed, k)


@settings(max_examples=100, deadline=None)
@given(seeds, lengths)
def test_the_order_of_the_candidates_changes_nothing_under_any_rule(seed, k):
    reranker, ranked, viewer, inputs = drawn(seed)
    order = np.random.default_rng(seed).permutation(VIDEOS)
    other = scored(ranked.candidates.rows[order], ranked.predictions[order])
    one, two = (slate_of(reranker, each, viewer, inputs, k, seed) for each in (ranked, other))
    assert ranked.candidates.rows[one.picked].tolist() == other.candidates.rows[two.picked].tolist()
    assert (one.propensities.tolist(), one.bent) == (two.propensities.tolist(), two.bent)
    for name, taken in one.removed.items():
        assert {*ranked.candidates.rows[taken].tolist()} == {*other.candidates.rows[two.removed[name]].tolist()}

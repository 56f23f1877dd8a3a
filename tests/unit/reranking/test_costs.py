"""The costs of rules, diversity and exploration, and how near the greedy slate is to the best one, by trying all."""

from itertools import permutations, product
from types import SimpleNamespace

import numpy as np
import pytest

from queries import query_of
from random_slates import BITS, scored, world
from watchnext.reranking.diversity import RIDGE, SCALE, Diversity, Similarity
from watchnext.reranking.greedy import fill
from watchnext.reranking.limits import SlateRules
from watchnext.reranking.rules.registry import rule
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate import Reranker

CAPS = {"creator_cap": {"most": 1}, "tag_cap": {"most": 2}, "creator_window": {"most": 1, "slots": 2}}


def reranker(rules, *, trade_off=0.7, epsilon=0.0, **value):
    return Reranker.from_config(
        {
            "value": {"weights": {"long_view": 1.0}, **value},
            "rules": rules,
            "diversity": {"trade_off": trade_off},
            "exploration": {"epsilon": epsilon},
        }
    )


def costs(by, asked, k):
    ranked, viewer, facts, unavailable = asked
    query = query_of(k=k, **viewer)
    asked = ranked, query.request, RuleContext.of(query, facts=facts, region_bits=BITS, unavailable=unavailable)
    slate = by.rerank(*asked)
    return by.costs(*asked, slate), slate


def by_hand():
    """Five videos of values .9, .7, .5, .3, .1: the first is unsafe, and the next two are of one creator."""
    facts = SimpleNamespace(
        safety=np.array([2, 0, 0, 0, 0], np.uint8), creator_rows=np.array([-1, 1, 1, -1, 2]), tag_rows=np.full((5, 1), -1),
        vectors=np.array([[1, 0], [1, 0], [0, 1], [1, 0], [0, 1]], np.float32),
    )  # fmt: skip
    predictions = np.tile(np.array([0.9, 0.7, 0.5, 0.3, 0.1])[:, None], (1, 4))
    return scored(np.arange(5), predictions), {}, facts, np.zeros(5, bool)


def test_costs_by_hand():
    rules = {"safety": {}, "creator_cap": {"most": 1}}
    lost, slate = costs(reranker(rules, trade_off=0.3), by_hand(), 2)
    assert slate.picked.tolist() == [1, 4]  # 3 is nearer in value, but just like 1
    # .9 + .7, then .7 + .5, then .7 + .3, then .7 + .1
    assert lost == pytest.approx({"safety": 0.4, "creator_cap": 0.2, "diversity": 0.2, "exploration": 0.0})
    lost, _ = costs(reranker(rules, trade_off=0.3, continuation=0.5), by_hand(), 2)
    assert lost == pytest.approx({"safety": 0.3, "creator_cap": 0.1, "diversity": 0.1, "exploration": 0.0})


@pytest.mark.parametrize("seed", range(30))
def test_all_costs_sum_to_the_difference_between_the_best_slate_by_value_and_the_one_shown(seed):
    rules = {name: {} for name in ("unavailable", "region", "seen", "duplicate")} | CAPS
    rules |= {"safety": {"highest": "mature", "policy": [{"mature": "limit"}], "most": 1}, "freshness": {"least": 3}}
    by, asked = reranker(rules, epsilon=0.3, continuation=0.9), world(seed)
    lost, slate = costs(by, asked, 8)
    assert {*lost} == {*rules, "diversity", "exploration"}
    values = by.value.of(asked[0].predictions)
    values = np.where(np.isfinite(values), values, values[np.isfinite(values)].min())
    reach = 0.9 ** np.arange(8)
    best, shown = np.sort(values)[::-1][:8] @ reach, values[slate.picked] @ reach[: len(slate.picked)]
    assert sum(lost.values()) == pytest.approx(best - shown)


# ---- against the best of all slates ----------------------------------------------------------------------------------


def drawn(seed: int, n: int):
    """Candidates with the watch time of an average session as value, creators and tags that repeat, and content vectors."""
    rng = np.random.default_rng([seed, 4])
    facts = SimpleNamespace(
        creator_rows=rng.integers(0, 5, n),
        tag_rows=rng.integers(-1, 4, (n, 2)),
        vectors=rng.normal(size=(n, 8)).astype(np.float32),
    )
    seconds = np.sort(rng.lognormal(3.0, 0.8, n))[::-1]
    return seconds, facts, RuleContext(seen=np.zeros(0, np.int64), region=None, facts=facts, region_bits={})


def kept(slate, facts) -> bool:
    """Tell slates that keep all of CAPS."""
    creators, tags = facts.creator_rows[list(slate)].tolist(), facts.tag_rows[list(slate)].tolist()
    every = [tag for each in tags for tag in {*each} if tag >= 0]
    return len({*creators}) == len(creators) and all(every.count(tag) <= 2 for tag in every)


def slate_of(values, facts, context, diversity, slots, rules=CAPS):
    limits = SlateRules([rule(name, options) for name, options in rules.items()]).limits(np.arange(len(values)), context)
    similarity = Similarity.of(np.arange(len(values)), facts)
    return fill(values, similarity, diversity, limits, 0.0, np.ones((slots, 2)), slots=slots), similarity


def test_under_caps_the_seconds_watched_are_at_least_99_of_100_of_the_best():
    got, best, reach = [], [], 0.9 ** np.arange(4)
    for seed in range(60):
        seconds, facts, context = drawn(seed, 9)
        slate, _ = slate_of(seconds, facts, context, Diversity(trade_off=1.0), 4)
        if not slate.bent.any():
            got.append(seconds[slate.picked] @ reach)
            best.append(max(seconds[list(each)] @ reach for each in permutations(range(9), 4) if kept(each, facts)))
    assert len(got) > 30
    assert all(one <= most + 1e-9 for one, most in zip(got, best, strict=True))
    assert np.mean(got) >= 0.99 * np.mean(best)


@pytest.mark.parametrize(("method", "least"), [("mmr", 0.99), ("dpp", 0.99)])
def test_the_gain_of_a_slate_is_a_large_share_of_the_best(method, least):
    """Try all slates of 4 out of 8 candidates, in every order."""
    got, best, diversity = [], [], Diversity(trade_off=0.8, method=method)
    for seed in range(30):
        seconds, facts, context = drawn(seed, 8)
        values = (seconds - seconds.min()) / np.ptp(seconds)
        slate, similarity = slate_of(values, facts, context, diversity, 4, rules={})
        alike = np.array([similarity.to(i, shifted=method == "dpp") for i in range(8)])
        utilities = {each: worth(each, values, alike, diversity) for each in permutations(range(8), 4)}
        got.append(utilities[tuple(slate.picked.tolist())])
        best.append(max(utilities.values()))
    assert np.mean(got) >= least * np.mean(best)


def worth(slate, values, alike, diversity) -> float:
    """The sum that a method makes as large as it can with every slot."""
    order, share = list(slate), diversity.trade_off
    among = alike[np.ix_(order, order)]
    if diversity.method == "dpp":
        kernel = (1 - RIDGE) * among + RIDGE * np.eye(len(order))
        return share * values[order].sum() + (1 - share) * SCALE * np.linalg.slogdet(kernel)[1]
    nearest = [max(among[slot, :slot], default=0.0) for slot in range(len(order))]
    return share * values[order].sum() - (1 - share) * sum(nearest)


@pytest.mark.parametrize("seed", range(5))
def test_the_determinant_grows_by_what_the_pass_adds(seed):
    """Slot by slot, the greedy pass takes the candidate that adds most to the determinant, computed anew."""
    seconds, facts, context = drawn(seed, 12)
    diversity = Diversity(trade_off=0.5, method="dpp")
    values = (seconds - seconds.min()) / np.ptp(seconds)
    slate, similarity = slate_of(values, facts, context, diversity, 10, rules={})
    alike = np.array([similarity.to(i, shifted=True) for i in range(12)])
    for slot, row in enumerate(slate.picked.tolist()):
        above = slate.picked[:slot].tolist()
        gains = {each: worth([*above, each], values, alike, diversity) for each in range(12) if each not in above}
        assert gains[row] == pytest.approx(max(gains.values()), abs=1e-6)


# ---- propensities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mmr", "dpp"])
@pytest.mark.parametrize("seed", range(3))
def test_the_propensities_of_every_slate_are_its_share_of_all_draws(method, seed):
    """Every way to draw two slots of five candidates is enumerated: to explore or not, and each of 60 equal parts of a draw."""
    seconds, facts, context = drawn(seed, 5)
    facts.upload_ms = np.array([-1.0, -1.0, -1.0, 0.0, 0.0])
    rules = CAPS | {"freshness": {"least": 1, "younger_h": 0.0}, "near_duplicate": {"cosine": 0.3}}
    limits = SlateRules([rule(name, options) for name, options in rules.items()]).limits(np.arange(5), context)
    values, epsilon, parts = (seconds - seconds.min()) / np.ptp(seconds), 0.3, (np.arange(60) + 0.5) / 60
    similarity, share, logged = Similarity.of(np.arange(5), facts), {}, {}
    ways = [(1.0, 0.0, 1 - epsilon), *((0.0, part, epsilon / 60) for part in parts)]
    for first, second in product(ways, ways):
        draws = np.array([first[:2], second[:2]])
        slate = fill(values, similarity, Diversity(trade_off=0.5, method=method), limits, epsilon, draws, slots=2)
        key = tuple(slate.picked.tolist())
        share[key] = share.get(key, 0.0) + first[2] * second[2]
        assert logged.setdefault(key, slate.propensities.prod()) == slate.propensities.prod()
    assert sum(logged.values()) == pytest.approx(1.0)
    assert share == pytest.approx(logged)

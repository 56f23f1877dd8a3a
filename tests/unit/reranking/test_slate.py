"""Properties of whole slates over random catalogues, against a slow re-ranker that says the same in plain Python."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from queries import query_of
from random_slates import BITS, VIDEOS, scored, world
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.reranking.value import RerankingError

FILTERS = ("unavailable", "safety", "region", "seen", "duplicate")


def config(*, trade_off=0.7, epsilon=0.0, creator=2, tag=3):
    caps = {"creator_cap": {"most": creator}, "tag_cap": {"most": tag}}
    return {
        "value": {"weights": {"click": 0.25, "long_view": 1.0}},
        "rules": {name: {} for name in ("duplicate", "unavailable", "safety", "region", "seen")}
        | caps,  # copies first, on purpose
        "diversity": {"trade_off": trade_off},
        "exploration": {"epsilon": epsilon},
    }


def slate_of(reranker, asked, k, seed=0):
    ranked, viewer, facts, unavailable = asked
    query = query_of(request_id=str(seed), k=k, **viewer)
    context = RuleContext.of(query, facts=facts, region_bits=BITS, unavailable=unavailable)
    return reranker.rerank(ranked, query.request, context)


def allowed(row, viewer, facts, unavailable):
    here = 1 << BITS[viewer["region"]] if viewer["region"] in BITS else 0
    in_region = facts.regions[row] == 0 or int(facts.regions[row]) & here
    return facts.safety[row] == 0 and in_region and row not in set(viewer["seen"].tolist()) and not unavailable[row]


def slow_similarity(a, b, facts):
    u, v = (facts.vectors[row].astype(float) for row in (a, b))
    if u.any() and v.any():
        return u @ v / np.sqrt((u @ u) * (v @ v))
    s, t = ({tag for tag in facts.tag_rows[row].tolist() if tag >= 0} for row in (a, b))
    return 0.5 * (facts.creator_rows[a] == facts.creator_rows[b] >= 0) + 0.5 * len(s & t) / max(len(s | t), 1)


def slow_eligible(asked, values):
    """Rows that pass every filter, best first."""
    _, viewer, facts, unavailable = asked
    fine, prints = [], {int(facts.fingerprints[row]) for row in viewer["seen"]}
    for row in sorted(values, key=lambda row: (-values[row], row)):
        print_ = int(facts.fingerprints[row])
        if allowed(row, viewer, facts, unavailable) and (print_ == 0 or print_ not in prints):
            fine.append(row)
            prints.add(print_)
    return fine


def over(row, slate, facts, most):
    """Names of the caps that this row would break."""
    creators = Counter(int(facts.creator_rows[r]) for r in slate)
    tags = Counter(tag for r in slate for tag in facts.tag_rows[r].tolist())
    broken = ["creator_cap"] if facts.creator_rows[row] >= 0 and creators[int(facts.creator_rows[row])] >= most[0] else []
    return broken + ["tag_cap"] * any(tag >= 0 and tags[tag] >= most[1] for tag in facts.tag_rows[row].tolist())


def values_of(reranker, asked):
    return dict(zip(asked[0].candidates.rows.tolist(), reranker.value.of(asked[0].predictions).tolist(), strict=True))


def caps_left(free, slate, facts, most):
    """The caps still in force: the last named is dropped first where nothing is left under all."""
    for caps in ({"creator_cap", "tag_cap"}, {"creator_cap"}, set()):
        if under := [row for row in free if not caps & set(over(row, slate, facts, most))]:
            return under
    return []


settle = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@settle
@given(seeds, st.integers(0, VIDEOS + 5), st.floats(0, 1), st.sampled_from([0.0, 0.3, 1.0]))
def test_filters_caps_length_and_accounting(seed, k, trade_off, epsilon):
    asked, reranker = world(seed), Reranker.from_config(config(trade_off=trade_off, epsilon=epsilon))
    slate = slate_of(reranker, asked, k, seed)
    rows, facts = asked[0].candidates.rows, asked[2]
    chosen = rows[slate.picked].tolist()
    eligible = slow_eligible(asked, values_of(reranker, asked))
    assert len(chosen) == len(set(chosen)) == min(k, len(eligible))
    assert set(chosen) <= set(eligible)
    for slot, row in enumerate(chosen):
        assert row in caps_left([r for r in eligible if r not in chosen[:slot]], chosen[:slot], facts, (2, 3))
    taken = np.concatenate(list(slate.removed.values()))
    assert list(slate.removed) == [rule.name for rule in reranker.rules]
    assert len(set(taken.tolist())) == len(taken)
    assert not set(taken.tolist()) & set(slate.picked.tolist())
    by_filter = set(rows[np.concatenate([slate.removed[name] for name in FILTERS])].tolist())
    assert by_filter == set(rows.tolist()) - set(eligible)
    assert ((slate.propensities > 0) & (slate.propensities <= 1)).all()


@settle
@given(seeds, st.integers(0, 30), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_greedy_agrees_with_the_slow_one(seed, k, trade_off):
    asked, reranker = world(seed), Reranker.from_config(config(trade_off=trade_off))
    slate = slate_of(reranker, asked, k)
    facts, values = asked[2], values_of(reranker, asked)
    free, chosen = slow_eligible(asked, values), []
    finite = [values[row] for row in free if np.isfinite(values[row])] or [0.0]
    spread = (max(finite) - min(finite)) or 1.0

    def adds(row):
        nearest = max([0.0, *(slow_similarity(row, other, facts) for other in chosen)])
        value = (values[row] - min(finite)) / spread
        return trade_off * value - (1 - trade_off) * nearest if np.isfinite(value) else -np.inf

    for row in asked[0].candidates.rows[slate.picked].tolist():
        under = caps_left(free, chosen, facts, (2, 3))
        assert row in under
        assert adds(row) >= max(map(adds, under)) - 1e-6 or adds(row) == max(map(adds, under))  # cosines are float32
        chosen.append(row)
        free.remove(row)


@settle
@given(seeds, st.sampled_from([0.0, 0.5]))
def test_the_order_of_the_candidates_changes_nothing(seed, epsilon):
    asked, reranker = world(seed, candidates=30), Reranker.from_config(config(epsilon=epsilon))
    shuffled = np.random.default_rng(seed).permutation(30)
    ranked = asked[0]
    other = scored(ranked.candidates.rows[shuffled], ranked.predictions[shuffled])
    one, two = slate_of(reranker, asked, 10, seed), slate_of(reranker, (other, *asked[1:]), 10, seed)
    assert ranked.candidates.rows[one.picked].tolist() == other.candidates.rows[two.picked].tolist()
    assert one.values.tolist() == two.values.tolist()
    assert one.propensities.tolist() == two.propensities.tolist()
    for name, taken in one.removed.items():
        assert set(ranked.candidates.rows[taken].tolist()) == set(other.candidates.rows[two.removed[name]].tolist())


@settle
@given(seeds)
def test_value_alone_sorts_by_value_then_row(seed):
    asked, reranker = world(seed), Reranker.from_config(config(trade_off=1.0, creator=99, tag=99))
    slate = slate_of(reranker, asked, VIDEOS)
    assert asked[0].candidates.rows[slate.picked].tolist() == slow_eligible(asked, values_of(reranker, asked))
    assert (slate.propensities == 1).all()


def plain(n, creators=None):
    facts = SimpleNamespace(
        creator_rows=np.array(creators if creators is not None else [-1] * n, np.int64),
        tag_rows=np.full((n, 4), -1),
        regions=np.zeros(n, np.uint64),
        safety=np.zeros(n, np.uint8),
        fingerprints=np.zeros(n, np.int64),
        vectors=np.zeros((n, 2), np.float32),
        upload_ms=np.zeros(n, np.int64),
    )
    predictions = np.tile(np.linspace(0.9, 0.1, n)[:, None], (1, 4))
    return scored(np.arange(n), predictions), {}, facts, np.zeros(n, bool)


def test_propensities_of_four_candidates_are_the_frequencies():
    asked, reranker = plain(4), Reranker.from_config(config(epsilon=0.4))
    drawn, told, runs = Counter(), {}, 8000
    for seed in range(runs):
        slate = slate_of(reranker, asked, 2, seed)
        drawn[key := tuple(slate.picked.tolist())] += 1
        told[key] = slate.propensities.prod()
    best, first_other, second_other = 0.6 + 0.1, 0.1, 0.4 / 3
    assert told[0, 1] == pytest.approx(best * (0.6 + 0.4 / 3))
    assert told[0, 2] == pytest.approx(best * second_other)
    assert told[3, 0] == pytest.approx(first_other * (0.6 + 0.4 / 3))
    assert len(told) == 12
    assert sum(told.values()) == pytest.approx(1)
    for key, probability in told.items():
        assert abs(drawn[key] / runs - probability) < 5 * np.sqrt(probability / runs)


def test_propensity_counts_only_what_the_caps_leave():
    asked, reranker = plain(4, creators=[1, 1, 1, -1]), Reranker.from_config(config(epsilon=0.5, creator=1))
    for seed in range(50):
        slate = slate_of(reranker, asked, 2, seed)
        if slate.picked[0] == 0:
            assert slate.picked[1] == 3
            assert slate.propensities.tolist() == [0.5 + 0.125, 1.0]
            assert slate.removed["creator_cap"].tolist() == [1, 2]


def test_caps_give_way_from_the_last_one_rather_than_shorten_a_slate():
    asked = plain(5, creators=[1, 1, 1, 2, 2])
    asked[2].tag_rows[:, 0] = [7, 8, 8, 7, 9]
    slate = slate_of(Reranker.from_config(config(trade_off=1.0, creator=1, tag=1)), asked, 2)
    assert slate.picked.tolist() == [0, 4]
    assert {name: taken.tolist() for name, taken in slate.removed.items() if len(taken)} == {
        "creator_cap": [1, 2],
        "tag_cap": [3],
    }
    asked[2].tag_rows[4, 0] = 7
    assert slate_of(Reranker.from_config(config(trade_off=1.0, creator=1, tag=1)), asked, 2).picked.tolist() == [0, 3]
    assert slate_of(Reranker.from_config(config(trade_off=1.0, creator=1, tag=1)), asked, 9).picked.tolist() == [0, 3, 1, 2, 4]


def test_the_safe_copy_is_kept_where_the_better_one_is_unsafe():
    asked = plain(3)
    asked[2].fingerprints[:], asked[2].safety[0] = 7, 2
    slate = slate_of(Reranker.from_config(config()), asked, 3)
    assert slate.picked.tolist() == [1]
    assert slate.removed["safety"].tolist() == [0]
    assert slate.removed["duplicate"].tolist() == [2]


def test_a_non_finite_candidate_comes_last_and_is_not_lost():
    asked = plain(3)
    asked[0].predictions[0] = np.nan
    slate = slate_of(Reranker.from_config(config()), asked, 3)
    assert slate.picked.tolist() == [1, 2, 0]
    assert slate.values[2] == -np.inf


@pytest.mark.parametrize(("n", "k"), [(0, 5), (3, 0), (0, 0)])
def test_empty_slates(n, k):
    slate = slate_of(Reranker.from_config(config()), plain(n), k)
    assert len(slate.picked) == len(slate.values) == len(slate.propensities) == 0


def test_a_negative_k_is_refused():
    with pytest.raises(RerankingError, match="k is -1"):
        slate_of(Reranker.from_config(config()), plain(3), -1)


def test_a_config_survives_the_round_trip():
    shipped = yaml.safe_load((Path(__file__).parents[3] / "conf/config.yaml").read_text())["reranking"]
    reranker = Reranker.from_config(shipped)
    assert reranker.to_config() == shipped
    assert list(Reranker.from_config(reranker.to_config()).to_config()["rules"]) == list(shipped["rules"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diversty": {}}, "'diversty'.*'diversity'"),
        ({"diversity": {"tradeoff": 1}}, "'tradeoff'.*'trade_off'"),
        ({"diversity": {"trade_off": 2}}, "trade_off is 2"),
        ({"exploration": {"epsilon": -1}}, "epsilon is -1"),
        ({"rules": {"sen": {}}}, "'sen'.*'seen'"),
        ({"rules": {"seen": None}}, "rules.seen is None"),
        ({"rules": None}, "rules is None"),
        ({"value": {}}, "lacks 'weights'"),
        ({"value": {"weights": {"clik": 1}}}, "'clik'.*'click'"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change, message):
    with pytest.raises(RerankingError, match=message):
        Reranker.from_config(config() | change)


def test_a_rule_stands_once():
    built = Reranker.from_config(config())
    with pytest.raises(RerankingError, match="seen twice"):
        Reranker(
            value=built.value, rules=[*built.rules, built.rules[4]], diversity=built.diversity, exploration=built.exploration
        )

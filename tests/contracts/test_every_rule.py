"""A rule of re-ranking keeps these promises, found through its class and its line in conf/reranking, over random candidates."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from queries import query_of
from random_slates import BITS, VIDEOS, scored, world
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.rules.copies import NearDuplicateRule
from watchnext.reranking.rules.registry import RULES, rule
from watchnext.reranking.rules.rule import Cap, Demotion, Filter, Floor, RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.reranking.value import RerankingError
from watchnext.serving.funnel.candidates.rule_prefilter import RulePreFilter
from watchnext.types import SOURCES

CONF = Path(__file__).resolve().parents[2] / "conf"
TEXT = (CONF / "config.yaml").read_text()
SETTINGS = yaml.safe_load(TEXT)["reranking"]
OFF = yaml.safe_load("\n".join(re.findall(r"^    # (\w+: \{.*\})", TEXT.split("# Off by default")[1], re.MULTILINE)))
OPTIONS = SETTINGS["rules"] | OFF
FILTERS = [name for name, kind in RULES.items() if issubclass(kind, Filter)]
CAPS = [name for name, kind in RULES.items() if issubclass(kind, Cap) and not issubclass(kind, Filter)]
STRICT = {"window": {"most": 1, "slots": 3}, "cap": {"most": 1}, "language": {"most": 1}}  # of a cap, by the end of its name
SEEDS = range(25)
CONTINUED = np.uint16(1 << SOURCES.index("continue"))


def concrete(kind: type) -> set[type]:
    """Every class below `kind` that can be made."""
    below = {kind for child in kind.__subclasses__() for kind in (child, *concrete(child))}
    return {each for each in below if not inspect.isabstract(each)}


def strict(name: str) -> dict:
    return STRICT[name.rpartition("_")[2]] if name in CAPS else OPTIONS[name]


def reranker(*names: str, epsilon: float = 0.0) -> Reranker:
    """The shipped settings, with these rules alone and no limit of a cap but 1."""
    rules = {name: strict(name) for name in names}
    return Reranker.from_config({**SETTINGS, "rules": rules, "exploration": {"epsilon": epsilon}})


def situation(seed: int):
    """Scored candidates, the query, and the other inputs of `rerank`; some of the seen were proposed to go on watching."""
    ranked, viewer, facts, unavailable = world(seed)
    seen = np.sort(viewer["seen"]).astype(np.int64)
    sources = np.where(np.isin(ranked.candidates.rows, seen[::2]), CONTINUED, np.uint16(1)).astype(np.uint16)
    ranked = replace(ranked, candidates=replace(ranked.candidates, sources=sources))
    known = {"language": ["de", "en", None][seed % 3], "age": ["18-24", None][seed % 2]}
    history = {"history_rows": seen[::3], "bits": np.full(len(seen[::3]), OUTCOME_BITS["hide"])}
    query = query_of(request_id=str(seed), k=VIDEOS, region=viewer["region"], seen=seen, **known, **history)
    return ranked, query, {"facts": facts, "region_bits": BITS, "unavailable": unavailable}


def context_of(ranked, query, inputs) -> RuleContext:
    continued = ranked.candidates.rows[ranked.candidates.named_by("continue")]
    return RuleContext.of(query, continued=continued, **inputs)


def asked(ranked, query, inputs) -> tuple:
    return ranked, query.request, RuleContext.of(query, **inputs)


def shown_k(query, k: int):
    return replace(query, request=replace(query.request, k=k))


# ---- found ------------------------------------------------------------------------------------------------------------


def test_every_rule_class_can_be_configured_and_is():
    kinds = concrete(Filter) | concrete(Cap) | concrete(Floor) | concrete(Demotion) | {NearDuplicateRule}
    assert {*RULES.values()} == kinds
    assert {name: kind.name for name, kind in RULES.items()} == {name: name for name in RULES}
    assert sorted(OPTIONS) == sorted(RULES)
    assert Reranker.from_config({**SETTINGS, "rules": OPTIONS}).to_config()["rules"] == OPTIONS


@pytest.mark.parametrize("name", RULES)
def test_a_misspelt_option_is_refused_by_name(name):
    with pytest.raises(RerankingError, match=f"rules.{name} has the unknown key 'mots'"):
        rule(name, {"mots": 1})


# ---- every rule, alone in a slate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_every_candidate_is_picked_or_removed_under_the_rules_name(name):
    """All are asked for, so a cap gives way in the end and has removed nobody."""
    removed = 0
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        slate = reranker(name).rerank(*asked(ranked, query, inputs))
        assert [*slate.removed] == [name]
        accounted = np.concatenate([slate.picked, slate.removed[name]])
        assert sorted(accounted.tolist()) == list(range(len(ranked)))
        removed += len(slate.removed[name])
    assert (removed > 0) == (name in FILTERS)


@pytest.mark.parametrize("name", RULES)
def test_the_order_of_the_candidates_changes_nothing(name):
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        order = np.random.default_rng(seed).permutation(len(ranked))
        candidates = ranked.candidates
        shuffled = scored(candidates.rows[order], ranked.predictions[order])
        shuffled = replace(shuffled, candidates=replace(shuffled.candidates, sources=candidates.sources[order]))
        one, two = (reranker(name, epsilon=0.5).rerank(*asked(each, shown_k(query, 8), inputs)) for each in (ranked, shuffled))
        assert candidates.rows[one.picked].tolist() == shuffled.candidates.rows[two.picked].tolist()
        assert one.propensities.tolist() == two.propensities.tolist()
        rows = [set(each.candidates.rows[slate.removed[name]].tolist()) for each, slate in ((ranked, one), (shuffled, two))]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("name", RULES)
def test_no_candidates_give_an_empty_slate(name):
    ranked, query, inputs = situation(0)
    nothing = scored(ranked.candidates.rows[:0], ranked.predictions[:0])
    slate = reranker(name).rerank(*asked(nothing, query, inputs))
    assert (len(slate.picked), len(slate.removed[name])) == (0, 0)


# ---- filters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_marks_every_row_and_changes_none(name):
    marks = []
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        rows = ranked.candidates.rows
        before, context = rows.copy(), context_of(ranked, query, inputs)
        out = rule(name, {}).removes(rows, context)
        assert (out.dtype, out.shape) == (np.bool_, rows.shape)
        assert rows.tolist() == before.tolist()
        assert rule(name, {}).removes(rows[:0], context).shape == (0,)
        assert rule(name, {}).removes(rows[::-1], context).sum() == out.sum()  # of copies another one stays, as many go
        marks += out.tolist()
    assert 0 < sum(marks) < len(marks)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_never_relaxed(name):
    """However short the slate and however much is explored, what it lets through passes it again, and what it forbids alone it
    forbids among others."""
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        context, rows = context_of(ranked, query, inputs), ranked.candidates.rows
        slate = reranker(*OPTIONS, epsilon=1.0).rerank(*asked(ranked, query, inputs))
        picked = slate.picked[np.lexsort((rows[slate.picked], -slate.values))]
        assert not rule(name, {}).removes(rows[picked], context).any()
        alone = [row for row in rows if rule(name, {}).removes(np.array([row]), context)[0]]
        assert not np.isin(rows[slate.picked], alone).any()


@pytest.mark.parametrize("name", FILTERS)
def test_the_pre_filter_of_the_vector_search_allows_what_a_filter_passes_alone(name):
    """So that no candidate of the search is lost behind it; a video to go on watching comes from its own source."""
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        context, every = replace(context_of(ranked, query, inputs), continued=query.seen[:0]), np.arange(VIDEOS)
        passes = [not rule(name, {}).removes(np.array([row]), context)[0] for row in every]
        prefilter = RulePreFilter([rule(name, {})], inputs["facts"], BITS)
        assert prefilter.of(query, unavailable=inputs["unavailable"]).of(every).tolist() == passes


# ---- caps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAPS)
def test_a_cap_holds_until_nothing_else_is_left_and_names_what_it_barred(name):
    barred = 0
    for seed in SEEDS:
        ranked, query, inputs = situation(seed)
        cap, rows = rule(name, strict(name)), ranked.candidates.rows
        slate = reranker(name).rerank(*asked(ranked, shown_k(query, 4), inputs))
        keys = cap.keys(rows, context_of(ranked, query, inputs))
        above = slate.picked[:-1][-(cap.slots - 1) :] if cap.slots else slate.picked[:-1]
        exhausted = np.isin(keys, keys[above][keys[above] >= 0]).any(axis=1)
        assert not exhausted[slate.picked[-1]]
        free = ~np.isin(np.arange(len(rows)), slate.picked)
        assert slate.removed[name].tolist() == np.flatnonzero(free & exhausted).tolist()
        barred += len(slate.removed[name])
    assert barred > 0

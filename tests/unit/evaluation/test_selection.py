"""Selection on made-up requests: what carries signal is found, what carries none changes nothing, a loss is named."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from queries import query_of
from watchnext.evaluation.selection import selection
from watchnext.evaluation.selection.selection import HeldOut, Selection, Served, beside_baselines, recalls_of, select, weighted
from watchnext.reranking.slate import Reranker
from watchnext.serving.release.surfaces import Surfaces
from watchnext.types import SOURCES, TARGETS

VIDEOS, REQUESTS, WATCHED = 120, 80, 5
MERGE = {"constant": 60.0, "most": 100, "weights": dict.fromkeys(SOURCES, 1.0)}
RERANKER = Reranker.from_config(
    {
        "value": {"weights": {"long_view": 1.0}},
        "rules": {},
        "diversity": {"trade_off": 1.0},
        "exploration": {"epsilon": 0.0},
    }
)
FACTS = SimpleNamespace(region_bits={})
HINT = 3  # the column of `values` that may say what is watched
GOOD = SOURCES.index("trending")


def request(number, *, hint, listed, predicted):
    """A request that watches five videos; the hint, the list of one source and the predictions know them, or do not."""
    random = np.random.default_rng(number)
    watched = np.sort(random.choice(VIDEOS, WATCHED, replace=False))
    is_watched = np.isin(np.arange(VIDEOS), watched)

    def noisy(known):
        return random.random(VIDEOS) + known * is_watched

    ranks = np.stack([np.argsort(np.argsort(-noisy(listed * (column == GOOD)))) + 1 for column in range(len(SOURCES))], axis=1)
    values = random.random((VIDEOS, 6)).astype(np.float32)
    values[:, HINT] = noisy(hint)
    predictions = np.full((VIDEOS, len(TARGETS)), 0.5, np.float32)
    predictions[:, TARGETS.index("long_view")] = 0.01 + 0.4 * noisy(predicted) / (1 + predicted)
    query = query_of(request_id=str(number), k=20)
    return HeldOut(
        query=replace(query, request=replace(query.request, user_id=number)),
        watched=watched,
        long_view=np.ones(WATCHED, bool),
        weights=np.full(WATCHED, np.nan),
        baselines={"oracle": watched, "random": random.permutation(VIDEOS)[:20]},
        rows=np.arange(VIDEOS),
        ranks=ranks.astype(np.uint16),
        values=values,
        predictions=predictions,
    )


def selected(**known):
    requests = [request(number, **known) for number in range(REQUESTS)]
    return requests, select(requests, Selection.start(MERGE, RERANKER), reranker=RERANKER, facts=FACTS, seed=0)


def test_the_merge_finds_the_source_that_knows():
    _, chosen = selected(hint=0, listed=1, predicted=0)
    recall = chosen.report["merge"]
    assert recall["chosen"] >= max(recall["trending"], recall["start"])
    assert max(chosen.merge["weights"], key=chosen.merge["weights"].get) == "trending"


def test_without_a_gain_for_viewers_of_the_other_half_the_configured_weights_stay():
    """On the requests themselves a search always finds one."""
    _, chosen = selected(hint=0, listed=0, predicted=0)
    assert chosen.merge == MERGE
    _, found = selected(hint=0, listed=1, predicted=0)
    assert found.merge["weights"] != MERGE["weights"]


def test_trees_find_evidence_that_neither_merge_nor_ranker_has():
    _, chosen = selected(hint=1, listed=0, predicted=0)
    recall = {name: np.mean([*entry.values()]) for name, entry in chosen.report["orders"].items()}
    assert chosen.value.engage > 0
    assert recall[f"engage {chosen.value.engage:g}"] > 2 * max(recall["merge"], recall["engage 0"])


def test_where_the_value_of_an_impression_is_enough_the_trees_are_for_dials_alone():
    _, chosen = selected(hint=0, listed=0, predicted=1)
    assert (chosen.value.engage, chosen.value.source) == (0.0, None)
    assert chosen.trees is not None


def test_no_order_is_chosen_that_finds_less_than_the_merge(monkeypatch):
    monkeypatch.setattr(selection, "ENOUGH", 0.0)
    _, chosen = selected(hint=0, listed=1, predicted=0)
    recall = {name: np.mean([*entry.values()]) for name, entry in chosen.report["orders"].items()}
    assert recall[chosen.value.source or f"engage {chosen.value.engage:g}"] >= recall["merge"] > recall["engage 0"]


def test_trees_are_judged_by_viewers_they_were_not_fitted_on():
    """Without any signal, trees fitted on a request would order it well."""
    _, chosen = selected(hint=0, listed=0, predicted=0)
    by_chance = np.mean([[depth / VIDEOS for depth in (10, 20)]])
    tried = [np.mean([*entry.values()]) for name, entry in chosen.report["orders"].items() if name.startswith("engage")]
    assert max(tried) < 2 * by_chance


def test_too_few_watches_leave_the_order_to_value_and_merge():
    requests = [request(number, hint=1, listed=0, predicted=0) for number in range(4)]
    chosen = select(requests, Selection.start(MERGE, RERANKER), reranker=RERANKER, facts=FACTS, seed=0)
    assert (chosen.value.engage, chosen.trees) == (0.0, None)
    assert [name for name in chosen.report["orders"] if name.startswith("engage")] == ["engage 0"]


def test_one_viewer_leaves_the_configured_weights():
    alone = request(0, hint=0, listed=1, predicted=0)
    chosen = select([alone, alone], Selection.start(MERGE, RERANKER), reranker=RERANKER, facts=FACTS, seed=0)
    assert chosen.merge == MERGE


def test_nothing_to_choose_on_leaves_the_settings():
    start = Selection.start(MERGE, RERANKER)
    assert select([], start, reranker=RERANKER, facts=FACTS, seed=0) is start


def test_a_loss_beyond_the_interval_is_named_with_its_depths():
    requests = weighted([request(number, hint=0, listed=0, predicted=0) for number in range(REQUESTS)])
    worst = [np.setdiff1d(np.arange(VIDEOS), each.watched)[:20] for each in requests]
    against = beside_baselines(requests, worst, seed=0)
    assert against["slate"] == {"recall@10": 0.0, "recall@20": 0.0}
    assert against["oracle"]["gain"]["recall@10"] == [-1.0, -1.0, -1.0]
    assert Served(RERANKER.value, 1.0, against).verdict["oracle"] == "recall@10, recall@20"
    best = beside_baselines(requests, [each.watched for each in requests], seed=0)
    assert Served(RERANKER.value, 1.0, best).verdict == {}


def test_where_the_chosen_order_loses_the_list_of_a_source_serves(monkeypatch):
    nothing_known = property(lambda orders: orders.values["engage 0"])  # the value of an impression
    monkeypatch.setattr(selection.Orders, "chosen", nothing_known)
    requests = [request(number, hint=0, listed=0, predicted=0) for number in range(REQUESTS)]
    for each in requests:
        each.ranks[:, GOOD] = np.argsort(np.argsort(~np.isin(each.rows, each.watched), kind="stable"), kind="stable") + 1
    chosen = select(requests, Selection.start(MERGE, RERANKER), reranker=RERANKER, facts=FACTS, seed=0)
    assert chosen.value.source in ("trending", "merge")
    assert chosen.report["verdict"] == {}
    assert chosen.report["slate"]["slate"]["recall@10"] == 1.0


def test_relevant_are_long_views_or_else_all_watches():
    short = replace(request(0, hint=0, listed=0, predicted=0), long_view=np.zeros(WATCHED, bool))
    np.testing.assert_array_equal(short.relevant, short.watched)
    one = replace(short, long_view=np.arange(WATCHED) == 2)
    np.testing.assert_array_equal(one.relevant, short.watched[2:3])
    np.testing.assert_array_equal(recalls_of([one.watched], weighted([one])), [[1.0, 1.0]])


def test_watches_count_their_inverse_propensities_clipped_at_medians():
    first, second = (replace(request(number, hint=0, listed=0, predicted=0), weights=np.array(weights))
                     for number, weights in ((0, [1.0, 2, 2, np.nan, np.inf]), (1, [2.0, 2, 2, 1000, 2])))  # fmt: skip
    counted = weighted([first, second])
    np.testing.assert_allclose([each.weights for each in counted], [[0.5, 1, 1, 1, 10], [1, 1, 1, 10, 1]])
    found = [first.watched[4:], second.watched[:1]]
    recalls = recalls_of(found, counted)
    np.testing.assert_allclose(recalls[:, 0], [10 / 13.75, 1 / 13.75])  # 13.5 and 14 are there to be found, 13.75 a request
    assert counted[0].weight_of(np.array([first.watched[0], 10**6])).tolist() == [0.5, 0.0]


def test_of_weighed_watches_what_is_within_noise_is_enough():
    plain = weighted([request(number, hint=0, listed=0, predicted=0) for number in range(REQUESTS)])
    weighed = [replace(each, weights=np.full(WATCHED, 2.0)) for each in plain]
    best = np.ones((REQUESTS, 2))
    lower = best - 0.1 + np.tile([[1.0], [-1.0]], (REQUESTS // 2, 1))
    assert lower.mean() < selection.ENOUGH * best.mean()
    assert not selection._has_enough(lower, best, plain, seed=0)
    assert selection._has_enough(lower, best, weighed, seed=0)
    assert not selection._has_enough(best - 0.3, best, weighed, seed=0)


def test_an_order_is_judged_by_what_was_seldom_shown_where_propensities_say_so():
    """The predictions know one watch of five."""
    requests = []
    for number in range(REQUESTS):
        each = request(number, hint=0, listed=0, predicted=0)
        each.predictions[:, TARGETS.index("long_view")] = 0.1 + 0.5 * (each.rows == each.watched[4])
        requests.append(each)
    by = {"reranker": RERANKER, "facts": FACTS, "seed": 0}
    likely = [replace(each, weights=np.array([1.0, 1, 1, 1, 1_000])) for each in requests]
    orders = [select(given, Selection.start(MERGE, RERANKER), **by).report["orders"] for given in (requests, likely)]
    plain, counted = (each["engage 0"]["recall@10"] for each in orders)
    assert counted > 2 * plain > 0  # 1/5 and 10/14, but for what the merge loses and chance finds


def test_a_saved_selection_is_loaded_with_equal_scores(tmp_path):
    _, chosen = selected(hint=1, listed=0, predicted=0)
    chosen.save(tmp_path)
    loaded = Selection.load(tmp_path)
    assert (loaded.merge, loaded.value, loaded.trade_off) == (chosen.merge, chosen.value, chosen.trade_off)
    columns = np.random.default_rng(0).random((len(SOURCES) + 11, 50)).astype(np.float32)
    np.testing.assert_array_equal(loaded.trees(columns), chosen.trees(columns))
    with pytest.raises(FileNotFoundError, match="dvc repro selection"):
        Selection.load(tmp_path / "none")


def on_surface(request, surface):
    return replace(request, query=replace(request.query, request=replace(request.query.request, surface=surface)))


def test_a_request_is_answered_with_the_settings_of_its_surface_and_does_not_choose_what_it_overrides():
    own = [request(number, hint=0.0, listed=2.0, predicted=2.0) for number in range(REQUESTS)]
    noise = [on_surface(request(number, hint=0.0, listed=-2.0, predicted=2.0), "home") for number in range(REQUESTS)]
    chosen_for, start = {"reranker": RERANKER, "facts": FACTS, "seed": 0}, Selection.start(MERGE, RERANKER)
    home = {"retrieval": {"merge": {"weights": dict.fromkeys(SOURCES, 2.0)}}, "reranking": {"value": {"source": SOURCES[GOOD]}}}
    alone = select(own, start, **chosen_for)
    both = select([*own, *noise], start, **chosen_for, surfaces=Surfaces({"home": home}))
    assert alone.merge["weights"] != MERGE["weights"]
    assert both.merge == alone.merge
    plain = select([*own, *noise], start, **chosen_for)
    assert plain.merge != alone.merge
    assert both.report["slate"]["slate"]["recall@10"] < plain.report["slate"]["slate"]["recall@10"]  # by a list that misleads

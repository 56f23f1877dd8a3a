from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import lmdb
import numpy as np
import polars as pl
import pytest

from watchnext.data.tables import known_at
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.rules.copies import DuplicateFilter
from watchnext.reranking.rules.rule import Filter, RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.retrieval.index.vectors import exact
from watchnext.schema import Feature
from watchnext.serving.funnel.answer import INDEX_FAILED, RANKER_FAILED, RANKER_LATE, SOURCES_LATE, STORE_DOWN
from watchnext.serving.funnel.query import ContextError, _number, features_by_name
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import ReleaseError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import SOURCES, TARGETS, Candidates, Request


@pytest.fixture
def recommender(release, store):
    return Recommender(release, store)


def ask(release, **fields) -> Request:
    return Request(
        **{"request_id": "q1", "user_id": 105, "k": 10, "as_of_ms": release.as_of_ms + 1, "surface": "home", **fields}
    )


def raising(*_):
    raise RuntimeError("a broken graph")


def test_a_slate_obeys_its_rules_and_says_where_it_comes_from(recommender, release):
    answer = recommender.recommend(ask(release))
    assert len(answer.ids) == len(set(answer.ids)) == 10
    assert not answer.degraded
    assert [release.video_ids.value(row) for row in answer.rows] == answer.ids
    assert (release.catalogue.safety[answer.rows] == 0).all()
    assert not np.isin(answer.rows, recommender.query(ask(release)).seen).any()
    assert (release.catalogue.upload_ms[answer.rows] <= release.as_of_ms + 1).all()
    assert all(sentences for sentences in answer.explanations)
    assert all(set(names) <= set(SOURCES) and names for names in answer.sources)
    assert answer.predictions.shape == (10, len(TARGETS))
    assert answer.funnel["slate"] == 10 < answer.funnel["retrieved"]
    assert list(answer.timings_ms) == ["state", "retrieval", "ranking", "reranking", "answer"]


def test_the_same_request_has_the_same_answer_and_another_id_may_explore_otherwise(recommender, release):
    first, again = (recommender.recommend(ask(release)) for _ in range(2))
    assert first.ids == again.ids
    np.testing.assert_array_equal(first.predictions, again.predictions)
    assert len({tuple(recommender.recommend(ask(release, request_id=str(i))).ids) for i in range(30)}) > 1


def test_stages_one_by_one_are_the_funnel(recommender, release):
    request = ask(release)
    candidates = recommender.retrieve(request)
    scored = recommender.rank(recommender.query(request), candidates)
    answer = recommender.recommend(request)
    np.testing.assert_array_equal(recommender.score(request, candidates.rows), answer.scored.predictions)
    np.testing.assert_array_equal(scored.engage, answer.scored.engage)
    np.testing.assert_array_equal(recommender.rerank(recommender.query(request), scored).picked, answer.slate.picked)


def test_engage_of_a_candidate_does_not_depend_on_the_others(recommender, release):
    request = ask(release)
    candidates, query = recommender.retrieve(request), recommender.query(request)
    whole = recommender.rank(query, candidates).engage
    assert np.ptp(whole) > 0
    for part in (slice(3, 4), slice(None, None, -1), slice(0, 20)):
        some = Candidates(*(getattr(candidates, name)[part] for name in ("rows", "sources", "scores", "ranks")))
        np.testing.assert_allclose(recommender.rank(query, some).engage, whole[part], rtol=1e-5)


def test_the_order_of_a_source_serves_without_a_ranker(release, store):
    reranking = release.reranker.to_config()
    reranking |= {"value": reranking["value"] | {"source": "popular"}, "diversity": {"trade_off": 1.0}}
    reranking |= {"exploration": {"epsilon": 0.0}, "rules": {}}
    served = Recommender(replace(release, reranker=Reranker.from_config(reranking), ranker=None), store)
    request = ask(release, k=5)
    assert served.recommend(request).rows.tolist() == served.by_source(request)["popular"][:5].tolist()


def test_serving_scores_the_inputs_that_training_saw(built, release, tmp_path):
    """Skew: held-out impressions, scored by the store at their time and from the feature stage's own columns."""
    features = FeatureSet.load(built[0])
    impressions = built[1].impressions
    row = int(features.rows("test")[0])  # the state in the release ends here
    batch = {name: values.numpy() for name, values in features.batch(np.array([row])).items()}
    shown = impressions.row(row, named=True)
    store = Store.open(tmp_path / "store", release, durable=False)
    recommender = Recommender(release, store)
    request = ask(release, user_id=shown["user_id"], as_of_ms=shown["time_ms"], surface=shown["surface"])
    query = recommender.query(request)
    served = {**query.inputs, **recommender.ranking.encode(query, batch["video_rows"])}
    assert shown["time_ms"] == release.as_of_ms
    for name, values in served.items():
        np.testing.assert_array_equal(values, batch[name], err_msg=name)
    expected = release.calibration(release.ranker(batch))
    np.testing.assert_allclose(recommender.score(request, batch["video_rows"]), expected, rtol=1e-6)
    for name, values in features_by_name(release.pipeline, batch).items():
        np.testing.assert_array_equal(features_by_name(release.pipeline, served)[name], values, err_msg=name)
    store.close()


def test_candidate_order_changes_no_score(recommender, release):
    rows = np.arange(30)
    order = np.random.default_rng(0).permutation(30)
    scores = recommender.score(ask(release), rows)
    np.testing.assert_allclose(recommender.score(ask(release), rows[order]), scores[order], rtol=1e-5)
    np.testing.assert_allclose(recommender.score(ask(release), rows[:1]), scores[:1], rtol=1e-5)
    assert recommender.score(ask(release), rows[:0]).shape == (0, len(TARGETS))


def usable(recommender, query) -> np.ndarray:
    """Rows that every filter of the re-ranking lets through by itself, copies of each other aside, asked one rule at a time."""
    release, rows = recommender.release, np.arange(len(recommender.release.catalogue))
    situation = RuleContext(seen=query.seen, region=query.region, facts=release.catalogue, region_bits=release.region_bits,
                            unavailable=recommender.store.unavailable)  # fmt: skip
    out = [rule.removes(rows, situation) for rule in release.reranker.rules if isinstance(rule, Filter)
           and not isinstance(rule, DuplicateFilter)]  # fmt: skip
    of_seen = release.catalogue.fingerprints[query.seen]
    out.append(np.isin(release.catalogue.fingerprints, of_seen[of_seen != 0]))
    out.append(release.catalogue.upload_ms > query.request.as_of_ms)
    return rows[~np.any(out, axis=0)]


def first_of_copies(release, rows):
    prints, found = set(), []
    for row in rows.tolist():
        if (mark := int(release.catalogue.fingerprints[row])) not in prints or not mark:
            found.append(row)
            prints.add(mark)
    return found


@pytest.mark.parametrize("user_id", [100, 105, 112, 999_999])
@pytest.mark.parametrize("region", ["de", "nowhere"])
def test_two_tower_candidates_are_the_exact_nearest_of_what_the_rules_let_through(recommender, release, store, user_id, region):
    store.apply(
        [Event(kind="withdrawn", user_id="", video_id=each, known_at=release.as_of_ms) for each in ("v003", "v050", "v101")]
    )
    query = recommender.query(ask(release, user_id=user_id, region=region))
    vector = release.query_tower(query.inputs)
    rows, vectors = usable(recommender, query), release.index.vectors
    assert 3 < len(rows) < len(vectors) - 3
    nearest = rows[exact(vectors[rows], vector, len(rows))[0][0]]
    wanted = first_of_copies(release, nearest)
    for k in (1, 20, 500):
        found, scores = recommender.retrieval.sources["two_tower"].nearest(query, k)
        assert found.tolist() == wanted[:k]
        np.testing.assert_allclose(scores, vectors[found] @ vector[0], rtol=1e-5)


def test_several_query_vectors_keep_each_videos_best_score(release, store):
    recommender = Recommender(release, store)
    query = recommender.query(ask(release))
    vectors = np.vstack([release.query_tower(query.inputs), -np.eye(8, dtype=np.float32)[:2]])
    several = Recommender(replace(release, query_tower=lambda _: vectors), store)
    rows = usable(recommender, query)
    best = (release.index.vectors[rows] @ vectors.T).max(1)
    wanted = first_of_copies(release, rows[np.argsort(-best, kind="stable")])
    found, scores = several.retrieval.sources["two_tower"].nearest(query, 30)
    assert found.tolist() == wanted[:30]
    np.testing.assert_allclose(scores, best[np.searchsorted(rows, found)], rtol=1e-5)


def test_a_video_that_no_rule_forbids_is_not_hidden(release, store):
    lenient = replace(release, reranker=Reranker.from_config(
        {**release.reranker.to_config(), "rules": {"creator_cap": {"most": 2}}}))  # fmt: skip
    recommender = Recommender(lenient, store)
    found, _ = recommender.retrieval.sources["two_tower"].nearest(recommender.query(ask(release)), 500)
    uploaded = np.flatnonzero(~(release.catalogue.upload_ms > release.as_of_ms + 1))
    assert sorted(found.tolist()) == uploaded.tolist()


def test_the_merge_takes_the_lists_of_the_sources(recommender, release):
    early = ask(release, as_of_ms=int(np.median(release.catalogue.upload_ms)))  # half of the catalogue is yet to come
    for request in (ask(release), early):
        found, candidates = recommender.by_source(request), recommender.retrieve(request)
        quotas = release.retrieval["quotas"]
        assert set(found) == set(quotas)
        for bit, name in enumerate(SOURCES):
            named = candidates.rows[(candidates.sources & 1 << bit) > 0]
            assert set(named) == set(found[name])
            assert len(named) <= quotas[name]
    assert (release.catalogue.upload_ms[np.concatenate(list(found.values()))] <= early.as_of_ms).all()


def test_sources_can_be_asked_for_more_than_their_quotas(recommender, release):
    few, many = recommender.by_source(ask(release)), recommender.by_source(ask(release), 100)
    for name, rows in few.items():
        assert len(rows) <= len(many[name]) <= 100
        assert many[name][: len(rows)].tolist() == rows.tolist()
    assert len(few["trending"]) < len(many["trending"])
    best = recommender.retrieve(ask(release), 100).rows
    every = np.unique(np.concatenate(list(many.values())))
    assert np.isin(best, every).all()
    assert len(best) == min(100, len(every))


@pytest.mark.parametrize("user_id", [999_999, "somebody"])
def test_an_unknown_viewer_gets_a_full_slate(recommender, release, user_id):
    answer = recommender.recommend(ask(release, user_id=user_id, surface=None))
    assert len(answer.ids) == 10
    assert not answer.degraded
    assert any("chosen for new viewers" in sentences for sentences in answer.explanations)
    assert not any("you " in sentence or sentence.endswith("you") for each in answer.explanations for sentence in each)


def test_a_watched_video_is_not_shown_again_and_is_told_in_explanations(recommender, release, store):
    first = recommender.recommend(ask(release, user_id=7))
    known_at = release.as_of_ms + 2
    store.apply(
        [
            Event(kind="outcome", user_id=7, video_id=each, known_at=known_at, watch_ms=61_500, long_view=True)
            for each in first.ids
        ]
    )
    again = ask(release, user_id=7, as_of_ms=known_at + 1, k=30)
    later = recommender.recommend(again)
    assert not set(first.ids) & set(later.ids)
    assert not np.isin(first.rows, recommender.retrieve(again).rows).any()  # nor does a source waste its quota on them
    watched = set(release.catalogue.creator_rows[first.rows]) - {-1}
    for row, sentences in zip(later.rows, later.explanations, strict=True):
        assert ("from a creator you watch" in sentences) == (release.catalogue.creator_rows[row] in watched)
    query = recommender.query(ask(release, user_id=7, as_of_ms=known_at + 1_000))
    assert query.history_rows[:3].tolist() == first.rows[::-1][:3].tolist()
    assert (query.ago_s[0], query.watch_s[0], query.bits[0]) == (1.0, 61.5, OUTCOME_BITS["long_view"])


def test_the_requests_region_overrides_the_viewers_own(recommender, release):
    for region, allowed in (("de", True), ("fr", False), ("nowhere", False)):
        answer = recommender.recommend(ask(release, region=region, k=100))
        assert (release.catalogue.regions[answer.rows] != 0).any() == allowed


def test_a_withdrawn_video_is_gone_at_once(recommender, release, store):
    first = recommender.recommend(ask(release)).ids[0]
    store.apply([Event(kind="withdrawn", user_id="", video_id=first, known_at=release.as_of_ms)])
    answer = recommender.recommend(ask(release))
    assert first not in answer.ids
    assert release.video_ids.rows([first])[0] not in recommender.by_source(ask(release))["two_tower"]


def test_an_excluded_video_is_proposed_by_no_source_and_others_fill_its_place(recommender, release, store):
    left_midway(store, release, 105, *recommender.recommend(ask(release)).rows[:2])
    request = ask(release, as_of_ms=release.as_of_ms + 2)
    before = recommender.by_source(request)
    assert len(before["continue"])
    exclude = tuple(np.unique(np.concatenate([rows[:1] for rows in before.values()])).tolist())
    after = recommender.by_source(replace(request, exclude=exclude))
    for name, rows in after.items():
        assert not np.isin(rows, exclude).any()
        others = [row for row in before[name] if row not in exclude]
        assert rows[: len(others)].tolist() == others
    assert len(after["two_tower"]) == len(before["two_tower"]) == release.retrieval["quotas"]["two_tower"]
    assert len(recommender.recommend(replace(request, exclude=exclude)).ids) == request.k


def test_a_broken_ranker_costs_order_and_not_the_slate(release, store):
    answer = Recommender(replace(release, ranker=raising), store).recommend(ask(release))
    assert answer.degradations == (RANKER_FAILED,)
    assert len(answer.ids) == 10
    assert np.isnan(answer.predictions).all()
    assert answer.slate.picked[0] in range(10)
    assert (release.catalogue.safety[answer.rows] == 0).all()
    with pytest.raises(RuntimeError, match="broken"):
        Recommender(replace(release, ranker=raising), store).score(ask(release), np.arange(3))


def test_broken_evidence_of_engagement_costs_order_and_not_the_slate(release, store):
    answer = Recommender(replace(release, engage=raising), store).recommend(ask(release))
    assert answer.degradations == (RANKER_FAILED,)
    assert len(answer.ids) == 10
    assert answer.slate.picked[0] in range(10)


def test_a_ranker_of_nan_is_a_broken_one(release, store):
    def nan(inputs):
        return np.full((len(inputs["video_codes"]), len(TARGETS)), np.nan, np.float32)

    answer = Recommender(replace(release, ranker=nan), store).recommend(ask(release))
    assert answer.degraded
    assert len(answer.ids) == 10


def test_every_source_is_found_and_merged_with_its_name(recommender, release, store):
    user = max(store.viewer_ids(30), key=lambda each: store.viewer(each)[release.layout.at_history])
    request = ask(release, user_id=user)
    found, candidates = recommender.by_source(request), recommender.retrieve(request)
    quotas, seen = release.retrieval["quotas"], recommender.query(request).seen
    assert set(found) == set(SOURCES)
    for name, rows in found.items():
        assert len(set(rows.tolist())) == len(rows) <= quotas[name]
        assert (release.catalogue.upload_ms[rows] <= request.as_of_ms).all()
        assert np.isin(rows, seen).all() if name == "continue" else not np.isin(rows, seen).any()
        assert set(candidates.rows[candidates.named_by(name)]) == set(rows)
    assert sum(len(rows) > 0 for rows in found.values()) >= 6
    assert (np.diff(candidates.scores) <= 0).all()


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "two_tower"])
def test_one_source_that_fails_is_named_and_the_others_answer(recommender, release, name, monkeypatch):
    monkeypatch.setattr(recommender.retrieval.sources[name], "candidates", raising)
    answer = recommender.recommend(ask(release))
    assert [each.code for each in answer.degradations] == ["index_failed" if name == "two_tower" else "source_failed"]
    assert name == "two_tower" or f"the source {name} failed" in answer.degradations[0].text
    assert len(answer.ids) == 10
    assert not any(name in names for names in answer.sources)
    assert name not in recommender.by_source(ask(release))


def test_an_unknown_surface_and_region_are_answered_as_everywhere(recommender, release):
    nowhere = recommender.by_source(ask(release, surface="moon", region="mars"))["trending"]
    anywhere = recommender.by_source(ask(release, user_id="somebody", surface=None))["trending"]
    assert len(nowhere) > 10
    seen = recommender.query(ask(release)).seen
    assert [row for row in nowhere if row in anywhere] == [row for row in anywhere if row not in seen]


def test_a_newcomer_is_named_nothing_by_sources_of_the_past(recommender, release):
    found = recommender.by_source(ask(release, user_id="somebody"))
    popular = {"popular", "popular_recently", "popular_now"}
    assert {name for name, rows in found.items() if len(rows)} == {"two_tower", "trending", "fresh"} | popular


def test_a_slate_that_is_not_personalised_is_that_of_a_new_viewer_and_reads_no_state(recommender, release, store, monkeypatch):
    """The viewer with the longest past gets the slate of a stranger, bit for bit; the store is not asked for either."""
    user = max(store.viewer_ids(30), key=lambda each: store.viewer(each)[release.layout.at_history])
    request = ask(release, user_id=user, k=30, region="de")
    own, stranger = (recommender.recommend(replace(request, user_id=each)) for each in (user, 999_999))
    assert own.ids != stranger.ids

    def unread(*_):
        raise AssertionError("the store was asked for a viewer")

    for name in ("viewer", "seen", "viewer_ids"):
        monkeypatch.setattr(store, name, unread)
    monkeypatch.setattr(store._engine, "get", unread)
    answer = recommender.recommend(replace(request, personalised=False))
    assert (answer.mode, answer.degradations, answer.ids) == ("not_personalised", (), stranger.ids)
    np.testing.assert_array_equal(answer.scored.candidates.rows, stranger.scored.candidates.rows)
    np.testing.assert_array_equal(answer.predictions, stranger.predictions)
    np.testing.assert_array_equal(answer.slate.propensities, stranger.slate.propensities)
    for name, values in answer.features.items():
        np.testing.assert_array_equal(values, stranger.features[name], err_msg=name)
    sentences = {sentence for each in answer.explanations for sentence in each}
    assert "chosen for new viewers" in sentences
    assert not [sentence for sentence in sentences if "you " in sentence or sentence.endswith("you")]


def test_surface_region_and_context_count_without_a_viewer(recommender, release):
    base = ask(release, k=100, personalised=False)
    own = str(release.user_regions[release.user_ids.rows([105])[0]])
    assert recommender.query(replace(base, region=None)).region is None != own
    limited = release.catalogue.regions != 0
    assert limited[recommender.recommend(replace(base, region="de")).rows].any()
    assert not limited[recommender.recommend(replace(base, region=None)).rows].any()
    rows = np.arange(4)
    assert (recommender.score(base, rows) != recommender.score(replace(base, surface="next"), rows)).any()


def test_candidates_of_the_caller_are_valued_as_those_of_a_slate(recommender, release):
    request = ask(release, k=5)
    answer = recommender.recommend(request)
    everything = recommender.rank_given(request, np.sort(answer.scored.candidates.rows))
    values = dict(zip(everything.rows.tolist(), everything.slate.values.tolist(), strict=True))
    assert [values[row] for row in answer.rows] == pytest.approx(answer.slate.values)
    assert (np.diff(everything.slate.values) <= 0).all()
    at = [everything.rows.tolist().index(row) for row in answer.rows]
    np.testing.assert_allclose(everything.predictions[at], answer.predictions, rtol=1e-5)
    assert [everything.sources[each] for each in at] == answer.sources
    few = recommender.rank_given(request, np.sort(answer.rows))  # a value does not depend on the other candidates
    assert few.rows.tolist() == sorted(answer.rows, key=lambda row: (-values[row], row))
    np.testing.assert_allclose(few.slate.values, [values[row] for row in few.rows], rtol=1e-5)


def test_a_given_video_that_no_source_lists_is_valued_as_the_last_of_the_merge(recommender, release):
    request = ask(release)
    listed = recommender.retrieve(request)
    other = np.setdiff1d(np.arange(len(release.catalogue)), np.concatenate(list(recommender.by_source(request).values())))
    given = recommender.retrieval.given(recommender.query(request), np.sort(np.append(other, listed.rows[:3])), [])
    assert given.rows.tolist() == [*listed.rows[:3], *other]
    np.testing.assert_array_equal(given.scores, [*listed.scores[:3], *[listed.scores[-1]] * len(other)])
    assert (given.ranks[3:] == 0).all()
    assert [names for names in recommender.rank_given(request, other).sources if names] == []


def test_given_videos_are_answered_where_nothing_can_be_ranked_or_retrieved(release, store, monkeypatch):
    request, rows = ask(release), np.flatnonzero((release.catalogue.safety == 0) & (release.catalogue.regions == 0))[:9]
    whole = Recommender(release, store)
    broken = Recommender(replace(release, ranker=raising), store)
    answer = broken.rank_given(request, rows)
    assert answer.degradations == (RANKER_FAILED,)
    assert answer.rows.tolist() == whole.retrieval.given(whole.query(request), rows, []).rows.tolist()
    for source in whole.retrieval.sources.values():
        monkeypatch.setattr(source, "candidates", raising)
    answer = whole.rank_given(request, rows)
    assert len(answer.degradations) == len(SOURCES)
    assert sorted(answer.rows) == rows.tolist()
    assert np.isfinite(answer.slate.values).all()


@pytest.mark.parametrize("region", ["de", None])
@pytest.mark.parametrize("seed", [0, 17, 63, 119])
def test_similar_videos_are_those_near_the_seed_and_those_watched_with_it(recommender, release, store, seed, region):
    """Both lists by brute force, and the sum of their reciprocal ranks."""
    k = 8
    request = Request("similar", "", k, release.as_of_ms + 1, region=region, personalised=False)
    withdrawn = [release.video_ids.value(row) for row in (5, 50, 100)]
    store.apply([Event(kind="withdrawn", user_id="", video_id=each, known_at=release.as_of_ms) for each in withdrawn])
    allowed = np.setdiff1d(usable(recommender, recommender.query(request)), [seed])
    vectors, edges = release.index.vectors, release.co_watches["related"]
    nearest = first_of_copies(release, allowed[np.argsort(-(vectors[allowed] @ vectors[seed]), kind="stable")])[: 2 * k]
    of_seed = slice(edges.starts[seed], edges.starts[seed + 1])
    weights = dict(zip(edges.neighbours[of_seed].tolist(), edges.weights[of_seed].tolist(), strict=True))
    related = [row for row in sorted(weights, key=lambda row: (-weights[row], row)) if row in allowed]
    scores = dict.fromkeys([*nearest, *related], 0.0)
    for rows in (nearest, related):
        for rank, row in enumerate(rows, 1):
            scores[row] += 1 / (release.retrieval["merge"]["constant"] + rank)
    wanted = first_of_copies(release, np.array([seed, *sorted(scores, key=lambda row: (-scores[row], row))]))[1 : k + 1]
    found = recommender.similar(request, seed)
    assert found.rows.tolist() == wanted
    np.testing.assert_allclose(found.scores, [scores[row] for row in wanted], rtol=1e-6)
    assert found.named_by("related").tolist() == [row in related for row in wanted]


def test_a_video_without_a_vector_is_similar_to_what_is_watched_with_it(recommender, release, monkeypatch):
    monkeypatch.setattr(recommender.catalogue.index, "vector", lambda row: np.zeros((0, release.index.dimension), np.float32))
    seed = int(np.argmax(np.diff(release.co_watches["related"].starts)))
    found = recommender.similar(Request("similar", "", 8, release.as_of_ms + 1, personalised=False), seed)
    assert len(found)
    assert found.named_by("related").all()


def test_trending_is_the_list_of_the_source_under_the_rules(recommender, release, store):
    request = Request("trending", "", 100, release.as_of_ms + 1, "home", "de", personalised=False)
    query = recommender.query(request)
    every = recommender.retrieval.sources["trending"].candidates(query, 2_000)
    store.apply([Event(kind="withdrawn", user_id="", video_id=release.video_ids.value(every[0]), known_at=release.as_of_ms)])
    allowed = usable(recommender, query)
    wanted = first_of_copies(release, np.array([row for row in every if row in allowed]))
    assert 10 < len(wanted) < len(every) - 1
    assert recommender.trending(request).tolist() == wanted
    assert recommender.trending(replace(request, k=3)).tolist() == wanted[:3]


def left_midway(store, release, user_id: int, *rows: int) -> None:
    about = {"kind": "outcome", "user_id": user_id, "known_at": release.as_of_ms + 1, "watch_ms": 5_000}
    store.apply([Event(video_id=release.video_ids.value(row), **about) for row in rows])


def test_videos_left_midway_come_back_a_few_a_slate(recommender, release, store):
    catalogue = release.catalogue
    allowed = (catalogue.safety == 0) & (catalogue.regions == 0) & (catalogue.fingerprints == 0)
    midway = np.flatnonzero(allowed & (catalogue.duration_ms > 20_000) & (catalogue.upload_ms < release.as_of_ms))[:3]
    left_midway(store, release, 7, *midway)
    request = ask(release, user_id=7, as_of_ms=release.as_of_ms + 2, k=80)
    assert recommender.by_source(request)["continue"].tolist() == midway[::-1].tolist()
    answer = recommender.recommend(request)
    again = [place for place, names in enumerate(answer.sources) if "continue" in names]
    assert len(again) == 2 == np.isin(answer.rows, midway).sum()
    assert answer.removed["seen"] == 1
    assert all("you left it midway" in answer.explanations[place] for place in again)


def test_a_video_hidden_unwatched_is_out_of_the_next_slate(recommender, release, store):
    before = recommender.recommend(ask(release))
    hidden = {"kind": "outcome", "user_id": 105, "known_at": release.as_of_ms + 1, "hide": True}
    store.apply([Event(video_id=video, **hidden) for video in before.ids[:3]])
    after = recommender.recommend(ask(release, as_of_ms=release.as_of_ms + 2, k=80))
    assert len(after.ids) > 40
    assert not set(before.ids[:3]) & set(after.ids)


def test_a_video_left_midway_and_then_hidden_is_not_watched_on(recommender, release, store):
    midway = np.flatnonzero((release.catalogue.duration_ms > 20_000) & (release.catalogue.upload_ms < release.as_of_ms))[:2]
    left_midway(store, release, 7, *midway)
    about = {"kind": "outcome", "user_id": 7, "known_at": release.as_of_ms + 2}
    store.apply([Event(video_id=release.video_ids.value(midway[0]), hide=True, **about)])
    store.apply([Event(video_id=release.video_ids.value(midway[1]), like=True, **about)])
    request = ask(release, user_id=7, as_of_ms=release.as_of_ms + 3, k=80)
    assert recommender.by_source(request)["continue"].tolist() == [midway[1]]
    assert midway[0] not in recommender.recommend(request).rows


def test_a_video_hidden_unwatched_in_the_log_is_in_nobodys_slate_again(built, recommender, release):
    known = built[1].impressions.filter((pl.col("watch_ms") == 0) & pl.col("hide") & (known_at() < release.as_of_ms))
    assert len(known) > 20
    for (user_id,), rows in known.group_by("user_id"):
        answer = recommender.recommend(ask(release, user_id=user_id, k=80))
        assert not set(answer.ids) & set(rows["video_id"])


def test_a_quota_without_a_weight_or_of_an_unknown_source_is_refused_by_name(release, store):
    for quotas in ({"fresh": 3}, release.retrieval["quotas"] | {"likely": 3}):
        with pytest.raises(ReleaseError, match="likely" if "likely" in quotas else "continue, followed"):
            Recommender(replace(release, retrieval={**release.retrieval, "quotas": quotas}), store)


def test_a_broken_query_tower_leaves_the_other_sources(release, store):
    answer = Recommender(replace(release, query_tower=raising), store).recommend(ask(release))
    assert answer.degradations == (INDEX_FAILED,)
    assert answer.ids
    assert not any("two_tower" in names for names in answer.sources)


def test_an_unreadable_store_answers_as_for_a_new_viewer(release, store, monkeypatch):
    newcomer = Recommender(release, store).recommend(ask(release, user_id=555_555))

    def unreadable(*_, **__):
        raise lmdb.Error("gone")

    monkeypatch.setattr(store._engine, "_env", type("Gone", (), {"begin": unreadable, "sync": print, "close": print})())
    answer = Recommender(release, store).recommend(ask(release, user_id=555_555))
    assert answer.degradations == (STORE_DOWN,)
    assert answer.ids == newcomer.ids


def test_without_time_left_the_ranker_is_passed_over(release, store):
    ticks = iter(np.arange(0.0, 100.0, 0.3))
    answer = Recommender(release, store, timer=lambda: float(next(ticks)), budget_ms=500).recommend(ask(release))
    assert answer.degradations == (SOURCES_LATE, RANKER_LATE)
    assert {name for names in answer.sources for name in names} == {"trending", "fresh"}
    assert len(answer.ids) == 10


@pytest.mark.parametrize(("bounds", "value", "passes"), [((0, 1), 1.0, True), ((0, 1), 1.5, False), ((0, None), -1, False)])
def test_a_number_in_the_context_has_the_bounds_of_a_log(bounds, value, passes):
    battery = Feature(name="battery", kind="numerical", entity="context", bounds=bounds)
    with (
        nullcontext() if passes else pytest.raises(ContextError, match=rf"context.battery is {value}, expected a number within")
    ):
        assert _number(battery, value) == value


def test_an_undeclared_context_is_refused_by_name(recommender, release):
    with pytest.raises(ContextError, match=r"'moon'.*surface"):
        recommender.recommend(ask(release, context={"moon": "full"}))
    with_context = recommender.score(ask(release, surface=None, context={"surface": "next"}), np.arange(4))
    np.testing.assert_array_equal(with_context, recommender.score(ask(release, surface="next"), np.arange(4)))
    assert (with_context != recommender.score(ask(release, surface="home"), np.arange(4))).any()


def test_before_anything_was_uploaded_there_is_nothing_to_show(recommender):
    answer = recommender.recommend(Request("q", 105, 10, 1))
    assert answer.ids == []
    assert answer.funnel == {"retrieved": 0, "ranked": 0, "slate": 0}


def test_warming_changes_no_state(recommender, store):
    before = store.position, store.videos.copy()
    recommender.warm()
    assert store.position == before[0]
    np.testing.assert_array_equal(store.videos, before[1])


def test_warming_takes_the_time_it_needs(release, store):
    recommender = Recommender(release, store, budget_ms=0)
    assert recommender.warm().degradations == ()
    assert recommender.recommend(ask(release)).degradations


def test_threads_get_the_answers_that_one_thread_gets(recommender, release):
    requests = [ask(release, request_id=str(i), user_id=100 + i % 25) for i in range(60)]
    alone = [recommender.recommend(request).ids for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = [answer.ids for answer in pool.map(recommender.recommend, requests)]
    assert together == alone

"""Settings of a surface: overrides of the release's own by name, read by re-ranking, retrieval and the stated parameters."""

import json
from dataclasses import replace

import numpy as np
import pytest
from api import Api, app_over

import small_release
from batches import precompute
from watchnext.reranking.value import RerankingError
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.release.surfaces import Surfaces
from watchnext.types import Request

HOME = {
    "reranking": {
        "value": {"weights": {"like": 3.0, "long_view": 0.0}, "engage": 0.0},
        "rules": {"creator_cap": {"most": 1}},
        "diversity": {"trade_off": 1.0},
        "exploration": {"epsilon": 0.0},
    },
    "retrieval": {"quotas": {"trending": 0, "two_tower": 15}, "merge": {"most": 60, "weights": {"fresh": 5.0}}},
}


@pytest.fixture
def on_home(release) -> Release:
    return replace(release, surfaces=Surfaces({"home": HOME}))


def asked(release, surface, **fields) -> Request:
    return Request("q", 105, 10, release.as_of_ms + 1, surface, **fields)


def test_a_surface_has_its_overrides_and_all_else_of_the_release(on_home):
    own, home = on_home.reranker.to_config(), on_home.reranker_of("home").to_config()
    assert home["value"]["weights"] == {**own["value"]["weights"], "like": 3.0, "long_view": 0.0}
    assert home["value"]["watch_half_s"] == own["value"]["watch_half_s"]
    assert list(home["rules"]) == list(own["rules"])
    assert home["rules"] == {**own["rules"], "creator_cap": {"most": 1}}
    assert on_home.retrieval_of("home")["quotas"] == {**on_home.retrieval["quotas"], "trending": 0, "two_tower": 15}
    assert on_home.retrieval_of("home")["trending"] == on_home.retrieval["trending"]
    for other in (None, "profile"):
        assert on_home.reranker_of(other) is on_home.reranker
        assert on_home.retrieval_of(other) is on_home.retrieval


def test_slates_of_a_surface_are_those_of_a_release_with_its_settings(release, on_home, store):
    whole = replace(release, reranker=on_home.reranker_of("home"), retrieval=on_home.retrieval_of("home"))
    of_surface, of_whole = Recommender(on_home, store), Recommender(whole, store)
    answer, expected = (each.recommend(asked(release, "home")) for each in (of_surface, of_whole))
    assert answer.ids == expected.ids
    np.testing.assert_array_equal(answer.scored.candidates.rows, expected.scored.candidates.rows)
    assert not answer.scored.candidates.named_by("trending").any()
    assert len(np.unique(release.catalogue.creator_rows[answer.rows])) == len(answer.rows)
    elsewhere, plain = (each.recommend(asked(release, "profile")) for each in (of_surface, Recommender(release, store)))
    assert elsewhere.ids == plain.ids != answer.ids


def test_rankings_and_explored_slots_of_a_surface_are_its_own(release, on_home, store):
    rows = np.arange(40)
    answer = Recommender(on_home, store).rank_given(asked(release, "home"), rows)
    weights = on_home.reranker_of("home").value.weights
    click, _, like, watch_s = answer.predictions.T
    watch = weights["watch_s"] * watch_s / (watch_s + 30.0)
    np.testing.assert_allclose(answer.slate.values, weights["click"] * click + 3.0 * like + watch, rtol=1e-5)
    slate = Recommender(on_home, store).recommend(asked(release, "home"))
    assert "explored at random" not in {text for texts in slate.explanations for text in texts}


def test_a_stored_slate_does_not_answer_a_surface_with_settings_of_its_own(release, on_home, store, viewer):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    request = Request("q", viewer, 5, release.as_of_ms + 1, "profile")
    assert precomputed(Recommender(on_home, store), request)
    assert precomputed(Recommender(release, store), replace(request, surface="home"))
    assert precomputed(Recommender(on_home, store), replace(request, surface="home")) is None


def test_the_parameters_of_a_surface_are_stated(on_home, store, served):
    app = app_over(Recommender(on_home, store), store, served, timeout_s=20.0)
    own, home, other = (Api(app)("GET", f"/v1/parameters{at}").json() for at in ("", "?surface=home", "?surface=profile"))
    app.state.close()
    assert own == other
    assert (own["surface"], home["surface"], own["surfaces"]) == (None, "home", ["home"])
    assert own["value"]["weights"]["long_view"] == 1.0
    assert (home["value"]["weights"]["like"], home["candidates"], home["exploration"]["share"]) == (3.0, 60, 0.0)
    assert {each["name"]: each["quota"] for each in home["sources"]}["trending"] == 0


@pytest.mark.parametrize(
    ("surfaces", "message"),
    [
        ({"home": {"rerankin": {}}}, r"surfaces\.home has the unknown key 'rerankin'. Did you mean 'reranking'"),
        ({"home": 3}, r"surfaces\.home is 3, expected a mapping"),
        ({"home": {"reranking": {"value": {"weights": {"likes": 1.0}}}}}, r"surfaces\.home\.reranking: .*'likes'"),
        ({"home": {"reranking": {"value": 1.0}}}, r"surfaces\.home\.reranking.*value is 1\.0, expected a mapping"),
        (
            {"home": {"reranking": {"rules": {"safety": {"highest": "mature"}}}}},
            r"reranking\.rules has 'safety', expected none of",
        ),
        ({"home": {"reranking": {"rules": {"creator_cap": {"mots": 2}}}}}, r"surfaces\.home\.reranking: .*'mots'"),
        ({"home": {"retrieval": {"quotas": {"trendin": 5}}}}, r"retrieval\.quotas has the unknown key 'trendin'.*'trending'"),
        ({"home": {"retrieval": {"quotas": {"trending": 5.5}}}}, r"quotas\.trending is 5\.5, expected a whole number"),
        ({"home": {"retrieval": {"merge": {"weights": {"fresh": -1}}}}}, r"weights\.fresh is -1, expected a finite number"),
        ({"home": {"retrieval": {"trending": {"prior": 1.0}}}}, r"surfaces\.home\.retrieval has the unknown key 'trending'"),
    ],
)
def test_a_wrong_override_is_named(release, surfaces, message):
    with pytest.raises(RerankingError, match=message):
        Surfaces(surfaces).require(release.reranker, release.retrieval)


def test_a_release_carries_its_surfaces_and_is_refused_with_wrong_ones(built, exported, tmp_path, monkeypatch):
    assemble = small_release.assemble
    for name, surfaces in (("good", {"home": HOME}), ("bad", {"home": {"reranking": {"rule": {}}}})):
        monkeypatch.setattr(small_release, "assemble", lambda *a, by=surfaces, **k: assemble(*a, **{**k, "surfaces": by}))
        (tmp_path / name).mkdir()
        if name == "bad":
            with pytest.raises(RerankingError, match="'rule'"):
                small_release.make_release(built, exported, tmp_path / name)
            continue
        loaded = Release.load(small_release.make_release(built, exported, tmp_path / name))
        assert loaded.surfaces == Surfaces(json.loads(json.dumps({"home": HOME})))
        assert loaded.reranker_of("home").value.weights["like"] == 3.0

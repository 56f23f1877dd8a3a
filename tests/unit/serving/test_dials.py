"""Dials of one request, and the parameters that they start from."""

from dataclasses import replace

import orjson
import polars as pl
import pytest
from api import Api, app_over

from watchnext.reranking.rules.registry import RULES
from watchnext.reranking.slate import Reranker
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import TARGETS, Dials, Request


def scores(slate) -> list:
    return [item["score"] for item in slate["items"]]


def test_a_weight_alone_orders_by_its_prediction(api, viewer):
    slate = api.slate(viewer, dials={"weights": {"like": 2.0}, "engage": 0.0, "diversity": 0.0})
    assert scores(slate) == pytest.approx([2.0 * item["predictions"]["like"] for item in slate["items"]])


@pytest.mark.parametrize("dials", [Dials(engage=5.0), Dials(diversity=1.0), Dials(weights={"like": 1.0})])
def test_dials_hold_for_their_request_alone(release, store, dials):
    recommender, request = Recommender(release, store), Request("q1", 105, 20, release.as_of_ms + 1)
    before, turned, after = (recommender.recommend(each) for each in (request, replace(request, dials=dials), request))
    assert before.ids == after.ids != turned.ids
    assert not turned.degraded


def test_a_dial_of_engage_acts_where_the_release_leaves_it_out(release, store):
    settings = release.reranker.to_config()
    left_out = Reranker.from_config(settings | {"value": settings["value"] | {"engage": 0.0}})
    recommender, request = Recommender(replace(release, reranker=left_out), store), Request("q1", 105, 20, release.as_of_ms + 1)
    plain, turned = (recommender.recommend(each) for each in (request, replace(request, dials=Dials(engage=5.0))))
    assert plain.scored.engage is None
    assert turned.ids == Recommender(release, store).recommend(replace(request, dials=Dials(engage=5.0))).ids != plain.ids


def test_a_dial_of_engage_is_refused_by_a_release_that_cannot_tell_it(release, store, served, viewer):
    api = Api(app_over(Recommender(replace(release, engage=None), store), store, served, timeout_s=20.0))
    assert api("GET", "/v1/parameters").json()["value"]["engage"] is None
    assert api.slate(viewer, dials={"engage": 0.0})["items"]
    refused = api("POST", "/v1/recommend", body={"user_id": viewer, "dials": {"engage": 1.0}})
    assert refused.status_code == 422
    assert "dials.engage is 1" in refused.json()["error"]["message"]
    api.app.state.close()


def test_the_stated_parameters_are_dials_that_change_nothing(api, release):
    stated = api("GET", "/v1/parameters").json()
    dials = Dials(weights=stated["value"]["weights"], engage=stated["value"]["engage"], diversity=stated["diversity"]["dial"])
    turned = release.reranker.turned(dials)
    assert (turned.value, turned.diversity.trade_off) == (release.reranker.value, release.reranker.diversity.trade_off)


def test_dials_reach_the_served_log_and_pass_the_precomputed_slate_by(api, served, tmp_path, viewer):
    api.slate(viewer, dials={"weights": {"click": 1.0}, "diversity": 0.5}, surface="home", mode="auto")
    api.slate(viewer)
    served.close()
    asked = [orjson.loads(each) for each in pl.read_parquet(tmp_path / "served" / "*" / "*.parquet")["asked"]]
    assert asked == [
        {"surface": "home", "dials": {"weights": {"click": 1.0}, "diversity": 0.5, "engage": None}},
        {},
    ]


@pytest.mark.parametrize(
    ("dials", "where"),
    [
        ({"weights": {}}, "dials.weights"),
        ({"weights": {"like": 0.0}}, "dials.weights"),
        ({"weights": {"likes": 1.0}}, "dials.weights.likes"),
        ({"weights": {"like": 101}}, "dials.weights.like"),
        ({"diversity": 1.1}, "dials.diversity"),
        ({"engage": -1}, "dials.engage"),
        ({"trade_off": 1}, "dials.trade_off"),
    ],
)
def test_a_bad_dial_is_refused_by_name(api, viewer, dials, where):
    answer = api("POST", "/v1/recommend", body={"user_id": viewer, "dials": dials})
    assert answer.status_code == 422
    assert where in answer.json()["error"]["details"][0]["where"]


def test_parameters_are_those_of_the_release(api, release):
    stated = api("GET", "/v1/parameters").json()
    assert stated["release"] == release.id
    assert stated["value"]["weights"] == release.reranker.value.weights
    assert stated["value"]["formula"] == "(0.2 × click + 1 × long_view + 0.3 × watch_s / (watch_s + 30)) × engage^0.5"
    assert {each["name"]: (each["weight"], each["quota"]) for each in stated["sources"]} == {
        name: (release.retrieval["merge"]["weights"][name], quota) for name, quota in release.retrieval["quotas"].items()
    }
    assert [each["name"] for each in stated["rules"]] == [rule.name for rule in release.reranker.rules]
    assert {*stated["value"]["weights"]} <= {*TARGETS}
    for each in (*stated["sources"], *stated["rules"], stated["value"], stated["diversity"], stated["exploration"]):
        assert len(each["about"]) > 20
    about = {each["name"]: each["about"] for each in stated["rules"]}
    assert about["safety"] == "Remove videos above the `highest` allowed level."
    assert {*about} <= {*RULES}

import json

import api as calls
import pytest

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.access.direct_route import DirectRoute
from watchnext.serving.http.api.errors import JsonRoute

JSON = {"content-type": "application/json"}


@pytest.fixture
def routed(release, store, served):
    """An app whose bodies all go through FastAPI."""
    app = calls.app_over(Recommender(release, store), store, served)
    direct = [route for route in app.router.routes if isinstance(route, DirectRoute)]
    assert [route.path for route in direct] == ["/v1/recommend", "/v1/events"]
    app.router.routes = [route for route in app.router.routes if route not in direct]
    yield calls.Api(app)
    app.state.close()


def refuse(*_):
    raise AssertionError("not the direct way")


def test_valid_bodies_reach_the_endpoint_directly(api, viewer, monkeypatch):
    monkeypatch.setattr(JsonRoute, "handle", refuse)
    slate = api.slate(viewer)
    assert api.outcome(viewer, slate["items"][0]["video_id"], "k").json()["accepted"] == 1
    assert 'watchnext_requests_total{route="/v1/recommend",status="200"} 1.0' in api("GET", "/metrics").text


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/events"])
@pytest.mark.parametrize(
    ("content", "headers", "query"),
    [
        (b"", JSON, ""),
        (b"{", JSON, ""),
        (b"[1]", JSON, ""),
        (b"null", JSON, ""),
        (b'{"k": NaN}', JSON, ""),
        (json.dumps({"user_id": True, "k": 0, "events": [{"type": "none"}], "x": 1}).encode(), JSON, ""),
        (b"[" + b"1," * 60_000 + b"1]", JSON, ""),
        (b"{}", JSON, "?x=1"),
        (b"{}", {"content-type": "text/plain"}, ""),
        (b"{}", {}, ""),
    ],
)
def test_what_is_not_valid_is_answered_as_by_every_route(api, routed, path, content, headers, query):
    answers = [each("POST", path + query, content=content, headers=headers) for each in (api, routed)]
    assert answers[0].status_code == answers[1].status_code >= 400
    assert answers[0].json() == answers[1].json()


def test_other_media_types_of_json_and_other_methods_are_answered_as_before(api, routed, viewer):
    body, headers = json.dumps({"user_id": viewer}).encode(), {"content-type": "Application/JSON; charset=utf-8"}
    assert api("POST", "/v1/recommend", content=body, headers=headers).status_code == 200
    answers = [each("GET", "/v1/recommend") for each in (api, routed)]
    assert [answer.status_code for answer in answers] == [405, 405]
    assert answers[0].json() == answers[1].json()

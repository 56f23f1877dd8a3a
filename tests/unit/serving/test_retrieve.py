"""`POST /v1/retrieve`: the merged candidates before ranking, under the rules that hold for everyone; nothing is shown."""

import numpy as np
import pytest
from api import Api, app_over, written

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import SOURCES, Request


def retrieve(api, **fields) -> dict:
    answer = api("POST", "/v1/retrieve", body=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer) -> list:
    return [item["video_id"] for item in answer["items"]]


def test_candidates_are_those_of_the_merge_with_their_ranks_and_none_is_shown(api, release, store, viewer):
    answer = retrieve(api, user_id=viewer, surface="home", region="de")
    request = Request("q", viewer, 500, answer["as_of_ms"], "home", "de")
    lists, merged = (call(request) for call in (Recommender(release, store).by_source, Recommender(release, store).retrieve))
    catalogue = release.catalogue
    bit = 1 << release.region_bits["de"]
    may = (catalogue.safety == 0) & ((catalogue.regions == 0) | (catalogue.regions & bit > 0)) & ~store.unavailable
    kept = [row for row in merged.rows.tolist() if may[row]]
    assert ids(answer) == [release.video_ids.value(row) for row in kept]
    assert sum(answer["removed"].values()) == len(merged) - len(kept) > 0
    ranks = {name: {row: at + 1 for at, row in enumerate(rows.tolist())} for name, rows in lists.items()}
    expected = [{name: ranks[name][row] for name in SOURCES if row in ranks.get(name, ())} for row in kept]
    assert [item["sources"] for item in answer["items"]] == expected
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert (answer["degraded"], answer["mode"], answer["release"]) == (False, "online", release.id)
    written(api)
    assert store.position == 0


def test_k_is_the_beginning_and_fields_of_a_request_hold(api, viewer):
    whole = ids(retrieve(api, user_id=viewer))
    assert ids(retrieve(api, user_id=viewer, k=7)) == whole[:7]
    seed = retrieve(api, user_id=viewer, seed_video_id=whole[0], exclude=whole[1:3])
    assert not {*whole[:3]} & {*ids(seed)}
    filtered = retrieve(api, user_id=viewer, filter={"tags": ["tag3"]})
    assert filtered["items"]
    facts = [api("GET", f"/v1/videos/{each}").json()["video"] for each in ids(filtered)]
    assert all("tag3" in video["tags"] for video in facts)


def test_nothing_withdrawn_leaves_the_server_and_what_was_shown_is_not_proposed(api, release, store, viewer):
    withdrawn = ids(retrieve(api, user_id=viewer))[0]
    store.apply([Event(kind="withdrawn", user_id="", video_id=withdrawn, known_at=release.as_of_ms)])
    assert withdrawn not in ids(retrieve(api, user_id=viewer))
    shown = {item["video_id"] for item in api.slate(viewer)["items"]}
    written(api)
    assert not shown & {*ids(retrieve(api, user_id=viewer))}
    assert shown & {*ids(retrieve(api, user_id=viewer, mode="not_personalised"))}


def test_a_candidate_request_that_is_not_personalised_reads_no_viewer(api, viewer):
    nobody, somebody = retrieve(api), retrieve(api, user_id=viewer, mode="not_personalised")
    assert nobody["items"] == somebody["items"] != retrieve(api, user_id=viewer)["items"]
    assert nobody["mode"] == somebody["mode"] == "not_personalised"


def test_a_source_that_fails_is_named(release, store, served, viewer, monkeypatch):
    recommender = Recommender(release, store)
    monkeypatch.setattr(recommender.retrieval.sources["followed"], "candidates", lambda *_: np.zeros(0)[1])
    app = app_over(recommender, store, served, timeout_s=20.0)
    answer = retrieve(Api(app), user_id=viewer)
    app.state.close()
    assert [each["code"] for each in answer["degraded_why"]] == ["source_failed"]
    assert answer["items"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"k": 501}, "k"), ({"mode": "auto"}, "mode"), ({"user_id": "100"}, "user_id"), ({"budget_ms": 5}, "budget_ms")],
)
def test_a_bad_request_for_candidates_is_refused_by_name(api, fields, where):
    answer = api("POST", "/v1/retrieve", body=fields)
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, f"body.{where}")

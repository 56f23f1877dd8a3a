"""The API in process, over the tiny release: real recommender, real store, real served log."""

import asyncio
import re
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
import schemathesis
from api import Api, app_over, written
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from batches import precompute
from watchnext.features.catalogue import Ids
from watchnext.serving.funnel.answer import IMPRESSIONS_LOST
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.http.access.gate import Access
from watchnext.serving.http.access.keys import Keys, new_key
from watchnext.serving.http.access.scopes import SCOPES
from watchnext.serving.http.api import batch_calls, schemas, video_calls
from watchnext.serving.http.worker_pool import OverloadedError
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS

JSON = {"content-type": "application/json"}
LOST = [IMPRESSIONS_LOST._asdict()]
STRANGER = 734_281_569  # no digits that a float in the metrics would hold by chance


# ---- slates ------------------------------------------------------------------------------------------------------------


def test_a_slate_says_what_and_why(api, viewer, release):
    slate = api.slate(viewer, k=10)
    assert (slate["release"], slate["degraded"], slate["mode"]) == (release.id, False, "online")
    assert slate["as_of_ms"] > release.as_of_ms
    assert len(slate["items"]) == slate["funnel"]["slate"] == 10
    assert slate["funnel"]["retrieved"] >= slate["funnel"]["ranked"] >= 10
    assert len({item["video_id"] for item in slate["items"]}) == 10
    for item in slate["items"]:
        assert release.video_ids.rows([item["video_id"]])[0] >= 0
        assert item["reasons"]
        assert item["sources"]
        assert set(item["predictions"]) == set(TARGETS)
        assert all(0 <= item["predictions"][name] <= 1 for name in ("click", "long_view", "like"))


def test_facts_of_a_video_are_the_catalogues(api, viewer, built):
    facts = {row["video_id"]: row for row in built[1].videos.iter_rows(named=True)}
    slate = api.slate(viewer, k=30)
    for item in slate["items"]:
        row, video = facts[item["video_id"]], item["video"]
        assert video["creator_id"] == row["creator_id"]
        assert video["tags"] == (row["tags"] or [])[:4]
        assert video["duration_ms"] == row["duration_ms"]
        assert video["age_h"] == pytest.approx((slate["as_of_ms"] - row["upload_ms"]) / 3_600_000)


@pytest.mark.parametrize("user_id", [STRANGER, -5, 0, 2**63 - 1])
def test_a_stranger_gets_a_slate(api, user_id):
    assert len(api.slate(user_id)["items"]) == 10


@pytest.mark.parametrize("user_id", ["somebody new", "日本/?#", "12"])
def test_a_stranger_whose_id_is_a_string_gets_a_slate_where_ids_are_strings(of_strings, user_id):
    assert len(of_strings.slate(user_id)["items"]) == 10


def test_context_may_hold_values_that_no_model_knows(api, viewer):
    body = {"user_id": viewer, "surface": "nowhere", "region": "atlantis"}
    assert api("POST", "/v1/recommend", body=body).status_code == 200


def test_context_the_schema_lacks_is_named(api, viewer):
    answer = api("POST", "/v1/recommend", body={"user_id": viewer, "context": {"mood": "blue"}})
    assert answer.status_code == 422
    assert "'mood', expected some of surface" in answer.json()["error"]["message"]


def test_a_shown_slate_is_counted(api, store, viewer):
    before = store.position
    slate = api.slate(viewer)
    written(api)
    events = list(store.journal(before))
    assert [(event.kind, event.video_id) for event in events] == [("shown", item["video_id"]) for item in slate["items"]]
    assert {(event.user_id, event.request_id, event.known_at) for event in events} == {
        (viewer, slate["request_id"], slate["as_of_ms"])
    }


def test_events_carry_the_surface_they_are_of(api, store, viewer):
    before = store.position
    slate = api("POST", "/v1/recommend", body={"user_id": viewer, "k": 10, "surface": "home"}).json()
    api.outcome(viewer, slate["items"][0]["video_id"], "a", surface="home")
    api.outcome(viewer, slate["items"][1]["video_id"], "b")  # written after the impressions
    assert [event.surface for event in store.journal(before)] == ["home"] * (len(slate["items"]) + 1) + [""]


def test_an_answer_reaches_the_served_log(api, served, tmp_path, viewer):
    slate = api.slate(viewer)
    served.close()
    rows = pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").collect()
    assert rows["request_id"].to_list() == [slate["request_id"]]


def test_a_video_of_a_stored_slate_is_as_old_as_at_the_request(api, release, store, viewer):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms - 12 * 3_600_000)
    slate = api.slate(viewer, k=5, mode="precomputed")
    assert slate["as_of_ms"] < release.as_of_ms - 11 * 3_600_000
    rows = release.video_ids.rows([item["video_id"] for item in slate["items"]])
    ages_h = (release.as_of_ms - release.catalogue.upload_ms[rows]) / 3.6e6
    assert [item["video"]["age_h"] for item in slate["items"]] == pytest.approx(ages_h.tolist(), abs=0.1)


def test_a_precomputed_slate_answers_until_it_no_longer_holds(api, release, store, viewer):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    body = {"user_id": viewer, "k": 5, "mode": "precomputed"}
    ahead = api("POST", "/v1/recommend", body=body).json()
    assert (ahead["mode"], ahead["as_of_ms"], len(ahead["items"])) == ("precomputed", release.as_of_ms, 5)
    written(api)
    shown = list(store.journal())[-5:]
    assert [event.video_id for event in shown] == [item["video_id"] for item in ahead["items"]]
    assert {event.request_id for event in shown} == {ahead["request_id"]}
    assert min(event.known_at for event in shown) > release.as_of_ms
    stranger = api("POST", "/v1/recommend", body={**body, "user_id": STRANGER}).json()
    assert (stranger["mode"], len(stranger["items"])) == ("online", 5)


def test_a_stored_slate_needs_no_thread(api, release, store, viewer, monkeypatch):
    def refuse(*_):
        raise OverloadedError("no thread is free")

    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    monkeypatch.setattr(api.app.state.pool, "_submit", refuse)
    for mode in ("precomputed", "auto"):
        assert api.slate(viewer, k=5, mode=mode)["mode"] == "precomputed"
        written(api)  # a request waits in a thread for what the last one showed
    assert api("POST", "/v1/recommend", body={"user_id": viewer, "k": 5}).status_code == 503


@pytest.mark.parametrize("mode", ["online", "precomputed"])
def test_excluded_videos_are_replaced_and_the_slate_stays_full(api, release, store, viewer, mode):
    precompute(Recommender(release, store), [viewer], k=30, as_of_ms=release.as_of_ms)
    shown = []
    for _ in range(3):
        slate = api.slate(viewer, mode=mode, exclude=[*shown, "no such video"])
        assert (slate["mode"], slate["degraded"]) == (mode, False)
        shown += [item["video_id"] for item in slate["items"]]
    assert len(set(shown)) == 30
    assert len(api.slate(viewer, mode=mode, exclude=shown)["items"]) == 10  # more than were precomputed


def test_a_slate_that_is_not_personalised_shows_what_was_seen_and_counts_its_impressions(api, store, viewer, monkeypatch):
    for place, item in enumerate(api.slate(viewer, k=30, mode="not_personalised")["items"]):
        api.outcome(viewer, item["video_id"], f"k{place}", watch_ms=60_000, long_view=True)
    before, seen = store.position, {event.video_id for event in store.journal() if event.kind == "outcome"}
    for name in ("viewer", "viewers"):
        monkeypatch.setattr(store, name, lambda _: pytest.fail("the store was asked for the viewer"))
    slate = api.slate(viewer, k=30, mode="not_personalised")
    assert (slate["mode"], slate["degraded"], len(slate["items"])) == ("not_personalised", False, 30)
    shown = [item["video_id"] for item in slate["items"]]
    assert seen & {*shown}
    written(api)
    events = list(store.journal(before))
    assert [(event.kind, event.user_id, event.video_id) for event in events] == [("shown", viewer, each) for each in shown]


def test_excluded_videos_stay_out_of_a_degraded_slate(release, store, served, viewer, monkeypatch):
    def broken(*_):
        raise StoreError("gone")

    monkeypatch.setattr(store, "viewers", broken)
    api = Api(app_over(Recommender(replace(release, ranker=broken), store), store, served, timeout_s=20.0))
    first = [item["video_id"] for item in api.slate(viewer)["items"]]
    slate = api.slate(viewer, exclude=first)
    assert len(slate["degraded_why"]) == 2
    assert len(slate["items"]) == 10
    assert not {*first} & {item["video_id"] for item in slate["items"]}


@pytest.mark.parametrize(
    ("exclude", "where"), [([7], "0"), (["v003", True], "1"), ([""], "0"), (["v003"] * 1001, ""), ("v003", ""), (None, "")]
)
def test_a_list_of_ids_that_is_too_long_or_of_another_kind_is_refused_by_name(api, viewer, exclude, where):
    answer = api("POST", "/v1/recommend", body={"user_id": viewer, "exclude": exclude})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == f"body.exclude.{where}".rstrip(".")


# ---- the caller's candidates -------------------------------------------------------------------------------------------


def rank(api, user_id, video_ids, **fields) -> dict:
    answer = api("POST", "/v1/rank", body={"user_id": user_id, "video_ids": video_ids, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_every_candidate_of_the_caller_is_ranked_removed_or_unknown(api, release, store, viewer):
    ids, catalogue = [release.video_ids.value(row) for row in range(len(release.catalogue))], release.catalogue
    rows = np.arange(len(ids))
    future = catalogue.upload_ms > release.as_of_ms + 1_000_000
    withdrawn = int(np.flatnonzero((catalogue.safety == 0) & (catalogue.regions == 0) & ~future)[0])
    store.apply([Event(kind="withdrawn", user_id="", video_id=ids[withdrawn], known_at=release.as_of_ms)])
    before = store.position
    answer = rank(api, viewer, [*ids, "no such video", ids[0]], region="fr")
    shown = [item["video_id"] for item in answer["items"]]
    assert (answer["release"], answer["degraded"]) == (release.id, False)
    removed = [each for named in answer["removed"].values() for each in named]
    assert sorted([*shown, *removed, *answer["unknown"]]) == sorted([*ids, "no such video"])
    assert {*answer["unknown"]} == {"no such video", *(ids[row] for row in rows[future])}
    assert future.any()
    assert answer["removed"]["unavailable"] == [ids[withdrawn]]
    assert {*answer["removed"]["safety"]} == {ids[row] for row in rows[~future & (catalogue.safety > 0)]}
    assert answer["removed"]["region"]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= item["predictions"][name] <= 1 for item in answer["items"] for name in ("click", "long_view", "like"))
    written(api)
    assert store.position == before  # nothing was shown


def test_what_a_viewer_watched_changes_the_order_but_removes_nothing(api, release, viewer):
    shown = [item["video_id"] for item in api.slate(viewer, k=30)["items"]]
    before = rank(api, viewer, shown)
    for place, video in enumerate(shown[:5]):
        api.outcome(viewer, video, f"k{place}", watch_ms=60_000, long_view=True)
    after = rank(api, viewer, shown)
    assert {item["video_id"] for item in after["items"]} == {*shown}
    assert [item["video_id"] for item in after["items"]] != [item["video_id"] for item in before["items"]]


def test_candidates_none_of_which_is_known_are_named_and_nothing_is_ranked(api, viewer):
    answer = rank(api, viewer, ["a", "b", "a"])
    assert (answer["items"], answer["unknown"], answer["degraded"]) == ([], ["a", "b"], False)


@pytest.mark.parametrize(
    ("video_ids", "where"),
    [([], ""), (["v003"] * 501, ""), ([7], ".0"), (["v003", 7], ".1"), (["v003", None], ".1"), ("v003", ""), (None, "")],
)
def test_a_bad_list_of_candidates_is_refused_by_name(api, viewer, video_ids, where):
    answer = api("POST", "/v1/rank", body={"user_id": viewer, "video_ids": video_ids})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == f"body.video_ids{where}"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"user_id": "100", "video_ids": ["v003"]}, "body.user_id"),
        ({"user_id": None, "video_ids": ["v003"]}, "body.user_id"),
        ({"user_id": 100}, "body.video_ids"),
        ({"user_id": 100, "video_ids": ["v003"], "k": 5}, "body.k"),
    ],
)
def test_a_bad_request_for_a_ranking_is_refused_by_name(api, body, where):
    answer = api("POST", "/v1/rank", body=body)
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, where)


# ---- without a viewer --------------------------------------------------------------------------------------------------


def similar(api, seed, **fields) -> list[dict]:
    answer = api("POST", "/v1/similar", body={"seed_video_id": seed, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_a_withdrawn_video_is_still_a_seed_and_no_longer_similar_or_trending(api, release, store):
    first = api("GET", "/v1/trending?limit=1").json()["items"][0]["video_id"]
    near = similar(api, first, k=5)
    assert len(near) == 5
    assert [item["score"] for item in near] == sorted((item["score"] for item in near), reverse=True)
    assert all({*item["sources"]} & {"two_tower", "related"} for item in near)
    gone = near[0]["video_id"]
    store.apply([Event(kind="withdrawn", user_id="", video_id=each, known_at=release.as_of_ms) for each in (first, gone)])
    assert not {first, gone} & {item["video_id"] for item in similar(api, first, k=100)}
    assert not {first, gone} & {item["video_id"] for item in api("GET", "/v1/trending?limit=100").json()["items"]}


def test_what_is_similar_and_what_trends_obeys_safety_and_region(api, release):
    facts, rows = release.catalogue, release.video_ids.rows
    trends = [api("GET", f"/v1/trending?limit=100{region}").json()["items"] for region in ("", "&region=de")]
    seeds = [item["video_id"] for item in trends[0][:2]]
    near = [[item for seed in seeds for item in similar(api, seed, k=100, region=each)] for each in (None, "de")]
    for anywhere, germany in (trends, near):
        found = [rows([item["video_id"] for item in items]) for items in (anywhere, germany)]
        assert all(len(each) and (facts.safety[each] == 0).all() for each in found)
        assert not facts.regions[found[0]].any()
        assert facts.regions[found[1]].any()


def test_outcomes_make_a_video_trend_on_their_surface(api, release):
    facts = release.catalogue
    allowed = (facts.safety == 0) & (facts.regions == 0) & (facts.fingerprints == 0) & (facts.upload_ms < release.as_of_ms)
    video = release.video_ids.value(int(np.flatnonzero(allowed)[-1]))
    about = {"type": "outcome", "video_id": video, "surface": "home", "watch_ms": 60_000, "long_view": True}
    api("POST", "/v1/events", body={"events": [{**about, "user_id": STRANGER + i, "key": f"k{i}"} for i in range(400)]})
    answer = api("GET", "/v1/trending?surface=home&limit=3").json()
    assert answer["release"] == release.id
    assert (len(answer["items"]), answer["items"][0]["video_id"]) == (3, video)
    assert set(answer["items"][0]["video"]) == set(schemas.VideoDetails.model_fields)


@pytest.mark.parametrize(
    ("body", "code", "where"),
    [
        ({"seed_video_id": "no such video"}, "unknown_video", "body.seed_video_id"),
        ({"seed_video_id": 7}, "invalid", "body.seed_video_id"),
        ({"seed_video_id": ["v003"]}, "invalid", "body.seed_video_id"),
        ({"seed_video_id": ""}, "invalid", "body.seed_video_id"),
        ({}, "invalid", "body.seed_video_id"),
        ({"seed_video_id": "v003", "k": 101}, "invalid", "body.k"),
        ({"seed_video_id": "v003", "user_id": 100}, "invalid", "body.user_id"),
    ],
)
def test_a_bad_seed_is_refused_by_name(api, body, code, where):
    answer = api("POST", "/v1/similar", body=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, code)
    assert answer.json()["error"]["details"][0]["where"] == where


def test_a_video_that_is_uploaded_later_is_an_unknown_seed(api, release):
    later = release.video_ids.value(int(np.argmax(release.catalogue.upload_ms)))
    answer = api("POST", "/v1/similar", body={"seed_video_id": later})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_video")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "surface=", f"region={'x' * 65}", "surface=%00", "limit=5&limit=5", "Limit=5", "="],
)
def test_a_bad_query_for_what_trends_is_refused_by_name(api, query):
    answer = api("GET", f"/v1/trending?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == f"query.{query.partition('=')[0]}"


# ---- events ------------------------------------------------------------------------------------------------------------


def test_an_event_changes_the_next_slate(api, viewer):
    first = api.slate(viewer)["items"][0]["video_id"]
    answer = api.outcome(viewer, first, "k1", watch_ms=61_500, click=True, long_view=True)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 1, "duplicates": 0, "unknown": 0})
    later = api.slate(viewer, k=100)
    assert first not in [item["video_id"] for item in later["items"]]


def test_a_hide_or_a_like_without_a_watch_changes_the_next_slate(api, viewer):
    hidden, liked = (item["video_id"] for item in api.slate(viewer)["items"][:2])
    assert api.outcome(viewer, hidden, "k1", hide=True).json()["accepted"] == 1
    assert api.outcome(viewer, liked, "k2", like=True).json()["accepted"] == 1
    assert not {hidden, liked} & {item["video_id"] for item in api.slate(viewer, k=100)["items"]}
    last = api("GET", f"/v1/viewers/{viewer}/history").json()["history"][:2]
    assert [(each["video_id"], each["watch_ms"], each["hide"], each["like"]) for each in last] == [
        (liked, 0.0, False, True),
        (hidden, 0.0, True, False),
    ]


def test_a_key_counts_once(api, viewer):
    video = api.slate(viewer)["items"][0]["video_id"]
    assert api.outcome(viewer, video, "same", watch_ms=9000).json()["accepted"] == 1
    assert api.outcome(viewer, video, "same", watch_ms=9000).json() == {"accepted": 0, "duplicates": 1, "unknown": 0}
    assert len(api("GET", f"/v1/viewers/{STRANGER}/history").json()["history"]) == 0


def test_an_unknown_video_is_named_and_quarantined(api, store, viewer):
    known = api.slate(viewer)["items"][0]["video_id"]
    events = [{"type": "outcome", "user_id": viewer, "video_id": video, "key": video} for video in (known, "no such video")]
    answer = api("POST", "/v1/events", body={"events": events})
    assert answer.status_code == 422
    assert (answer.json()["accepted"], answer.json()["unknown"]) == (1, 1)
    assert "no such video" in answer.json()["error"]["message"]
    assert [event.video_id for event in store.quarantined()] == ["no such video"]


def test_history_is_latest_first(api):
    videos = [item["video_id"] for item in api.slate(STRANGER)["items"][:3]]
    for place, video in enumerate(videos):
        api.outcome(STRANGER, video, f"k{place}", watch_ms=1000 * (place + 1), like=place == 2)
    answer = api("GET", f"/v1/viewers/{STRANGER}/history?limit=2").json()
    assert answer["user_id"] == STRANGER
    assert [(watch["video_id"], watch["watch_ms"], watch["like"]) for watch in answer["history"]] == [
        (videos[2], 3000.0, True),
        (videos[1], 2000.0, False),
    ]
    assert answer["history"][0]["ago_s"] < answer["history"][1]["ago_s"]


@pytest.mark.parametrize(("user_id", "path"), [("a/b", "a%2Fb"), ("12", "12"), ("007", "007"), ("-0", "-0")])
def test_history_of_a_string_id(of_strings, user_id, path):
    video = of_strings.slate(user_id)["items"][0]["video_id"]
    of_strings.outcome(user_id, video, "k", watch_ms=500)
    answer = of_strings("GET", f"/v1/viewers/{path}/history").json()
    assert (answer["user_id"], [watch["video_id"] for watch in answer["history"]]) == (user_id, [video])


def test_viewers_lists_those_with_a_past(api, release, store):
    listed = api("GET", "/v1/viewers?limit=5").json()
    assert listed["release"] == release.id
    assert len(listed["viewers"]) == 5
    for each in listed["viewers"]:
        assert each["watches"] == store.viewer(each["user_id"])[store.layout.at_history]


# ---- kinds of ids ------------------------------------------------------------------------------------------------------


def in_store(store) -> list:
    return store.viewer_ids(10_000)


@pytest.mark.parametrize(
    "user_id", ["100", "somebody", "1.0", 1.0, 100.0, True, "", " 100", "100 ", 2**63, -(2**63) - 1, None, [1]]
)
def test_an_id_of_another_kind_makes_no_new_viewer(api, store, user_id):
    before, length = in_store(store), store.position
    video = api.slate(STRANGER)["items"][0]["video_id"]
    written(api)
    asked = api("POST", "/v1/recommend", body={"user_id": user_id})
    sent = api.outcome(user_id, video, "k", watch_ms=900)
    for answer, where in ((asked, "body.user_id"), (sent, "body.events.0.user_id")):
        assert answer.status_code == 422
        assert answer.json()["error"]["details"][0]["where"] == where
    assert in_store(store) == sorted({*before, STRANGER})
    assert store.position == length + 10  # what the stranger was shown


@pytest.mark.parametrize("user_id", [100, 100.0, False, " a", "a\n", "\u3000a", "a\0", "x" * 65, "é" * 33])
def test_nor_where_ids_are_strings(of_strings, user_id):
    answer = of_strings("POST", "/v1/recommend", body={"user_id": user_id})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == "body.user_id"


def test_a_refused_kind_is_named_with_the_release_and_no_event_of_the_call_counts(api, store, viewer, release):
    video = api.slate(viewer)["items"][0]["video_id"]
    written(api)
    length = store.position
    events = [
        {"type": "outcome", "user_id": user, "video_id": each, "key": "k"} for user, each in ((viewer, video), (viewer, 7))
    ]
    answer = api("POST", "/v1/events", body={"events": events})
    expected = f"a string, like the ids of release {release.id}"
    assert (answer.status_code, answer.json()["error"]) == (
        422,
        {
            "code": "invalid",
            "message": f"body.events.1.video_id is 7: expected {expected}",
            "details": [{"where": "body.events.1.video_id", "value": "7", "expected": expected}],
        },
    )
    assert (store.position, store.quarantined()) == (length, [])


@pytest.mark.parametrize("path", ["somebody", "1.0", "007", "-0", "+5", "9223372036854775808", "%20100", "١"])
def test_a_path_that_names_no_viewer_of_the_kind_is_refused(api, path):
    answer = api("GET", f"/v1/viewers/{path}/history")
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["where"] == "path.user_id"


@pytest.mark.parametrize(("first", "second"), [("early", 5), (5, "early")])
def test_where_the_release_knows_nobody_the_first_viewer_says_the_kind(release, tmp_path, served, first, second):
    nobody = replace(release, user_ids=Ids(release.user_ids.ids[:0]), state=replace(release.state, viewers=np.zeros((0, 1))))
    with closing(Store.open(tmp_path / "cold", nobody, durable=False)) as store:
        app = app_over(Recommender(nobody, store), store, served, timeout_s=20.0)
        api = Api(app)
        assert len(api.slate(first)["items"]) == 10
        assert api("POST", "/v1/recommend", body={"user_id": second}).status_code == 422
        app.state.close()
        assert in_store(store) == [first]


def test_a_store_that_is_down_says_no_kind_of_viewer_and_costs_no_slate(release, tmp_path, served, monkeypatch):
    nobody = replace(release, user_ids=Ids(release.user_ids.ids[:0]), state=replace(release.state, viewers=np.zeros((0, 1))))

    def down(_: int) -> list:
        raise StoreError("Redis does not answer")

    with closing(Store.open(tmp_path / "cold", nobody, durable=False)) as store:
        monkeypatch.setattr(store, "viewer_ids", down)
        api = Api(app_over(Recommender(nobody, store), store, served, timeout_s=20.0))
        assert len(api.slate("early")["items"]) == 10
        assert api("POST", "/v1/recommend", body={"user_id": 5}).status_code == 422
        api.app.state.close()


# ---- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b'{"user_id": 1, "context": {"a": NaN}}', 400, "without NaN"),
        (b'{"user_id": "\\ud800"}', 400, "surrogate"),
        (b"[" * 40_000, 400, "depth"),
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe", 400, "not valid JSON"),
        (b"", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"user_id": 1, "k": 0}', 422, "body.k is 0"),
        (b'{"user_id": 1, "k": 1000000000}', 422, "body.k is 1000000000"),
        (b'{"user_id": 1e999}', 400, "not valid JSON"),
        (b'{"user_id": 99999999999999999999}', 422, "body.user_id"),
        (b'{"user_id": 1, "kk": 5}', 422, "body.kk is 5"),
    ],
)
def test_a_bad_body_is_refused_by_name(api, content, status, said):
    answer = api("POST", "/v1/recommend", content=content, headers=JSON)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_only_json_is_taken(api, kind):
    answer = api("POST", "/v1/events", content=b'{"events": []}', headers={"content-type": kind} if kind else {})
    assert answer.status_code == 415
    assert "expected application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_64_megabytes_are_cut_off(api, chunked):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(64):
            sent += 1
            yield b"x" * 1_000_000

    answer = api("POST", "/v1/events", content=chunks(), headers=JSON if chunked else {**JSON, "content-length": "64000000"})
    assert answer.status_code == 413
    assert sent <= (3 if chunked else 1)


def test_other_methods_and_paths(api):
    answer = api("GET", "/v1/recommend")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert api("POST", "/livez").status_code == 405
    assert api("GET", "/v1/nothing").status_code == 404
    assert api("GET", "/v1/nothing").json()["error"]["code"] == "http_404"


def test_a_store_that_fails_costs_the_count_and_not_the_slate(release, store, tmp_path, viewer, disk_full):
    """The first slate was answered when its write fails; later none is counted, no event is taken, and health says so."""
    with closing(ServedLog(tmp_path / "served", max_bytes=1 << 24, flush_rows=500)) as served:  # may fail too
        api = Api(app_over(Recommender(release, store), store, served, timeout_s=20.0))
        before = store.viewer(viewer)
        assert api("GET", "/readyz").status_code == 200
        with disk_full():
            assert not api.slate(viewer)["degraded"]
            slate = api.slate(viewer)
        assert slate["items"]
        assert slate["degraded"]
        assert slate["degraded_why"] == LOST
        answer = api.outcome(viewer, slate["items"][0]["video_id"], "k")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "no events were stored; retry the whole request" in answer.json()["error"]["message"]
        health = api("GET", "/readyz")
        assert (health.status_code, health.json()["error"]["code"]) == (503, "store")
        assert "cannot be written: " in health.json()["error"]["message"]
        text = api("GET", "/metrics").text
        assert "watchnext_impressions_lost_total 20.0" in text
        assert "watchnext_store_failed 1.0" in text
        np.testing.assert_array_equal(store.viewer(viewer), before)
        api.app.state.close()


def test_what_finds_the_queue_full_is_lost_or_refused_and_never_waited_for(release, store, served, viewer, monkeypatch):
    begun, held, apply = threading.Event(), threading.Event(), store.apply
    monkeypatch.setattr(store, "apply", lambda events: begun.set() or (held.wait(20) and apply(events)))
    api = Api(app_over(Recommender(release, store), store, served, timeout_s=20.0, waiting_events=25))
    slates = []
    for stranger in range(4):  # the impressions of the first are being written, those of the next two wait
        slates.append(api.slate(STRANGER + stranger))
        begun.wait(20)
    assert [slate["degraded_why"] for slate in slates] == [[], [], [], LOST]
    event = {"type": "outcome", "user_id": viewer, "video_id": slates[0]["items"][0]["video_id"]}
    refused = api("POST", "/v1/events", body={"events": [event | {"key": f"k{i}"} for i in range(6)]})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    held.set()
    api.app.state.close()
    assert store.position == 30
    assert "watchnext_impressions_lost_total 10.0" in api("GET", "/metrics").text


def test_what_a_viewer_was_shown_counts_for_the_next_request_also_where_the_disk_is_slow(
    release, store, served, viewer, monkeypatch
):
    apply, recommender, positions = store.apply, Recommender(release, store), []
    recommend = recommender.recommend
    monkeypatch.setattr(store, "apply", lambda events: time.sleep(0.03) or apply(events))
    monkeypatch.setattr(recommender, "recommend", lambda request: positions.append(store.position) or recommend(request))
    api = Api(app_over(recommender, store, served, timeout_s=20.0))
    for _ in range(3):
        api.slate(viewer)
    assert positions == [0, 10, 20]
    api.app.state.close()


# ---- overload ----------------------------------------------------------------------------------------------------------


class Slow:
    """A recommender that waits at a gate: failure injection only."""

    def __init__(self, recommender) -> None:
        self.release, self._recommender, self.gate = recommender.release, recommender, threading.Event()

    def recommend(self, request):
        self.gate.wait(20)
        return self._recommender.recommend(request)


def test_overload_is_shed_at_once_and_ends(release, store, served, viewer):
    slow = Slow(Recommender(release, store))
    api = Api(app_over(slow, store, served, threads=2, waiting=2, timeout_s=60.0))

    async def in_order() -> list[httpx.Response]:
        """Answers as they come; the gate opens after six of them, so that what waits for it comes later."""
        calls, answers = [api.send([("POST", "/v1/recommend", {"user_id": viewer}, None, None)]) for _ in range(10)], []
        for answer in asyncio.as_completed(calls):
            answers += await answer
            if len(answers) == 6:
                slow.gate.set()
        return answers

    answers = asyncio.run(in_order())
    assert [answer.status_code for answer in answers] == [503] * 6 + [200] * 4
    refused = answers[0]
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "overloaded"
    assert api.slate(viewer)["items"]
    api.app.state.close()


def test_a_slate_nobody_waits_for_is_not_counted(release, store, served, viewer):
    slow = Slow(Recommender(release, store))
    api = Api(app_over(slow, store, served, timeout_s=0.2))
    before = store.position
    answer = api("POST", "/v1/recommend", body={"user_id": viewer})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_slow")
    slow.gate.set()
    api.app.state.close()
    assert store.position == before


# ---- around ------------------------------------------------------------------------------------------------------------


def test_metrics_name_routes_and_never_paths(api, viewer):
    api.slate(viewer)
    for junk in range(50):
        api("GET", f"/junk/{junk}")
    api("GET", f"/v1/viewers/{STRANGER}/history")
    text = api("GET", "/metrics").text
    assert 'watchnext_requests_total{route="/v1/recommend",status="200"} 1.0' in text
    assert 'watchnext_requests_total{route="unmatched",status="404"} 50.0' in text
    assert "junk" not in text
    assert str(STRANGER) not in text
    assert "watchnext_slate_videos_total 10.0" in text


def test_health_and_page(api, release, served):
    for path in ("/livez", "/healthz"):
        assert api("GET", path).json() == {"status": "live", "release": release.id}
    ready = {"status": "ready", "release": release.id, "refused": None, "served_log": {"dropped": 0, "failed": 0}}
    assert api("GET", "/readyz").json() == ready
    served.dropped, served.failed = 3, 2
    assert api("GET", "/readyz").json() == ready | {"served_log": {"dropped": 3, "failed": 2}}
    served.failed = 0
    page = api("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert api("GET", "/page.js").headers["content-type"].startswith("text/javascript")
    assert api("HEAD", "/page.css").status_code == 200
    assert api("GET", "/../app.py").status_code == 404


def test_every_route_is_documented_and_every_documented_call_fits_its_model(api, release):
    """The table of docs/operations.md names the routes; its bodies pass the models, its queries the app."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text()
    declared = api("GET", "/openapi.json").json()["paths"]
    routes = {(method.upper(), path.replace(":path", "")) for path, methods in declared.items() for method in methods}
    assert {*re.findall(r"^\| `(GET|POST|PATCH|DELETE) (/v1/\S+)` \|", text, re.MULTILINE)} == routes
    posted, called = (
        re.findall(r"^post (\S+) '(.*)'$", text, re.MULTILINE),
        re.findall(r"^curl -s '\S+?(/v1/\S+)'", text, re.MULTILINE),
    )
    assert {path for path, _ in posted} == {path for method, path in routes if method == "POST"}
    for path, body in posted:
        model = declared[path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        next(getattr(each, model) for each in (schemas, video_calls, batch_calls) if hasattr(each, model)).model_validate_json(
            body
        )
    assert len(called) == len([path for method, path in routes if method == "GET" and "{request_id}" not in path])
    here = [each.replace("/v1/videos/50004457", f"/v1/videos/{release.video_ids.value(0)}") for each in called]
    assert [api("GET", each).status_code for each in here] == [200] * len(called)
    assert all(operation["description"] for methods in declared.values() for operation in methods.values())


@pytest.mark.parametrize("examples", [25, pytest.param(1_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("mode", GenerationMode)
def test_the_api_does_what_it_declares(release, store, served, tmp_path, mode, examples):
    """Generated calls to each operation, good and bad: no 500, every answer as declared, every bad call refused."""
    key, line = new_key("all", SCOPES)
    (tmp_path / "keys").touch(0o600)
    (tmp_path / "keys").write_text(line)
    access = Access(keys=Keys(tmp_path / "keys"), hosts=("*",))
    app = app_over(Recommender(release, store), store, served, access=access, timeout_s=20.0)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) >= 7
    if mode is GenerationMode.NEGATIVE:
        # A call without any input cannot be a bad one, nor one with an id in the path alone; a batch answers each request.
        never_bad = ("GET /v1/parameters", "GET /v1/status", "GET /v1/videos/{video_id}", "POST /v1/recommend:batch")
        operations = [operation for operation in operations if operation.label not in never_bad]
    for operation in operations:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case):
            # Some refusals a JSON schema cannot announce: an unknown video, 64 bytes of UTF-8, the last digits of an int64.
            case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=[positive_data_acceptance])

        check()
    app.state.close()

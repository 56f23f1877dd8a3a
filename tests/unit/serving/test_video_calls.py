"""The calls about videos, over the app in process."""

import asyncio

import numpy as np
import pytest
from api import Api, app_over

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api.video_calls import VIDEOS_MOST
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.retention import Bounds

VIDEO = {"video_id": "new", "creator_id": "c3", "duration_ms": 30_000, "tags": ["tag1", "fresh tag"], "vector": [0.5] * 16}


def post(api: Api, *videos: dict):
    return api("POST", "/v1/videos", body={"videos": [*videos]})


def shown(api: Api, user_id: int, **fields) -> dict[str, dict]:
    return {item["video_id"]: item for item in api.slate(user_id, k=100, **fields)["items"]}


def test_a_video_is_posted_shown_watched_withdrawn_and_brought_back(api, store, viewer):
    assert post(api, VIDEO).json()["created"] == 1
    item = shown(api, viewer)["new"]
    assert (item["video"]["creator_id"], item["video"]["tags"]) == ("c3", ["tag1", "fresh tag"])
    assert {"fresh", "two_tower"} & {*item["sources"]}
    assert api.outcome(viewer, "new", "k1", watch_ms=9_000).json()["accepted"] == 1
    assert api("GET", f"/v1/viewers/{viewer}/history").json()["history"][0]["video_id"] == "new"
    stranger = 987_654_321
    gone = api("DELETE", "/v1/videos/new").json()
    assert (gone["available"], gone["video_id"]) == (False, "new")
    assert "new" not in shown(api, stranger)
    assert api("DELETE", "/v1/videos/new").status_code == 200  # a repeated call is no error
    ranked = api("POST", "/v1/rank", body={"user_id": stranger, "video_ids": ["new"]}).json()
    assert ranked["removed"]["unavailable"] == ["new"]
    assert api("PATCH", "/v1/videos/new", body={"available": True}).json()["available"] is True
    assert "new" in shown(api, stranger)
    assert "watchnext_live_videos 1.0" in api("GET", "/metrics").text


def test_a_video_posted_again_has_what_was_posted_last(api, store):
    post(api, VIDEO)
    uploaded = store.catalogue.upload_ms[-store.catalogue.room]
    answer = post(api, {"video_id": "new", "tags": ["tag2"]}, {**VIDEO, "video_id": "other"}).json()
    assert (answer["created"], answer["changed"]) == (1, 1)
    changed = api("PATCH", "/v1/videos/new", body={}).json()["video"]
    assert (changed["tags"], changed["creator_id"], changed["duration_ms"]) == (["tag2"], None, None)
    assert store.catalogue.upload_ms[-store.catalogue.room] == uploaded  # it is no newer


def test_a_posted_video_is_found_by_its_words_and_described(api, release):
    post(api, {**VIDEO, "title": "Kayak\x07in the rain", "url": "https://example.org/new"})
    found = api("GET", "/v1/videos?query=kayak fresh").json()["items"]
    assert [item["video_id"] for item in found] == ["new"]
    described = api("GET", "/v1/videos/new").json()["video"]
    assert (described["title"], described["url"], described["thumbnail_url"]) == (
        "Kayak in the rain",
        "https://example.org/new",
        None,
    )
    known = release.video_ids.value(3)
    api("PATCH", f"/v1/videos/{known}", body={"title": "Another kayak", "tags": [], "safety": "safe", "regions": None})
    assert {item["video_id"] for item in api("GET", "/v1/videos?query=kayak").json()["items"]} == {"new", known}
    api("PATCH", "/v1/videos/new", body={"title": None})
    assert api("GET", "/v1/videos/new").json()["video"]["title"] is None
    assert api("GET", "/v1/videos?query=rain kayak").json()["items"] == []


def test_a_change_says_what_the_video_is_now(api, release):
    known = release.video_ids.value(3)
    answer = api("PATCH", f"/v1/videos/{known}", body={"duration_ms": 15_000, "tags": None, "available": False}).json()
    assert (answer["video"]["duration_ms"], answer["video"]["tags"], answer["available"]) == (15_000, [], False)


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ({"video_id": 5}, "body.videos.0.video_id", "a string"),
        ({"vector": [0.5] * 3}, "body.videos.0.vector", "16 numbers"),
        ({"duration_ms": 500}, "body.videos.0.duration_ms", "within [1000, 3600000]"),
        ({"features": {"mood": "good"}}, "body.videos.0.features.mood", "none in this data set"),
        ({"safety": "fine"}, "body.videos.0.safety", "'safe'"),
        ({"vector": [float("1e300")]}, "body.videos.0.vector.0", "less than"),
        ({"upload_ms": -1}, "body.videos.0.upload_ms", "greater than"),
        ({"likes": 4}, "body.videos.0.likes", "Extra"),
    ],
)
def test_wrong_metadata_is_refused_by_name_and_nothing_is_stored(api, store, change, where, expected):
    answer = post(api, {**VIDEO, **change}, {**VIDEO, "video_id": "other"})
    assert answer.status_code == 422
    detail = answer.json()["error"]["details"][0]
    assert detail["where"] == where
    assert expected in detail["expected"]
    assert not store.catalogue.slots


def test_wrong_changes_are_refused_by_name(api, release):
    known = release.video_ids.value(3)
    answer = api("PATCH", f"/v1/videos/{known}", body={"vector": [1.0]})
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, "body.vector")


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"available": True}), ("DELETE", None)])
def test_an_unknown_video_is_named(api, method, body):
    answer = api(method, "/v1/videos/no/such", body=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_video")
    assert "'no/such'" in answer.json()["error"]["message"]


def test_a_call_is_bounded(api):
    videos = [{"video_id": f"n{i}"} for i in range(VIDEOS_MOST + 1)]
    assert post(api, *videos).status_code == 422
    assert post(api, *videos[1:]).json()["created"] == VIDEOS_MOST


def test_events_before_a_video_was_posted_stay_quarantined(api, store, viewer):
    assert api.outcome(viewer, "new", "early").status_code == 422
    post(api, VIDEO)
    assert api.outcome(viewer, "new", "late", watch_ms=5_000).status_code == 200
    assert [each.key for each in store.quarantined()] == ["early"]


def test_a_full_catalogue_says_what_to_do(release, tmp_path, served):
    store = Store.open(tmp_path / "small", release, durable=False, bounds=Bounds(live_videos=1))
    app = app_over(Recommender(release, store), store, served, timeout_s=20.0)
    answer = post(Api(app), VIDEO, {"video_id": "other"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "catalogue_full")
    assert "WATCHNEXT_LIVE_VIDEOS" in answer.json()["error"]["message"]
    assert post(Api(app), VIDEO).status_code == 200
    app.state.close()
    store.close()


def test_readers_never_see_half_of_a_video(api, release, viewer):
    """Slates while videos are posted: no request fails or degrades."""

    async def together():
        posts = [("POST", "/v1/videos", {"videos": [{**VIDEO, "video_id": f"n{i}-{j}"} for j in range(5)]}) for i in range(8)]
        slates = [("POST", "/v1/recommend", {"user_id": int(each), "k": 20}) for each in np.arange(100, 116)]
        calls = [call for pair in zip(slates[:8], posts, slates[8:], strict=True) for call in pair]
        return await api.send([(method, path, body, None, None) for method, path, body in calls])

    answers = asyncio.run(together())
    assert {answer.status_code for answer in answers} == {200}
    assert not any(answer.json().get("degraded") for answer in answers)

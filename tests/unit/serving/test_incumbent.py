"""Beside another recommender: slates that are logged only, its impressions, and events with their own time."""

import api as calls
import pytest

from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.store.tables.retention import KEYS_KEPT_MS

MINUTE_MS = 60_000


def shown(user_id, video_id, **fields):
    return {"type": "shown", "user_id": user_id, "video_id": video_id, "request_id": "theirs-1", "surface": "home", **fields}


def posted(api, *events):
    return api("POST", "/v1/events", body={"events": list(events)})


@pytest.mark.parametrize("mode", ["online", "precomputed"])
def test_a_mirrored_slate_is_logged_and_not_counted_as_shown(api, store, served, tmp_path, viewer, mode):
    before = store.position
    slate = api.slate(viewer, mirror=True, mode=mode)
    calls.written(api)
    assert store.position == before
    served.close()
    logged = answers_in(tmp_path / "served").row(0, named=True)
    assert logged["video_ids"] == [str(item["video_id"]) for item in slate["items"]]
    assert '"mirrored":true' in logged["asked"]


def test_what_another_recommender_showed_counts_once_in_its_request(api, store, viewer):
    video = api.slate(viewer, mirror=True)["items"][0]["video_id"]
    assert posted(api, shown(viewer, video)).json() == {"accepted": 1, "duplicates": 0, "unknown": 0}
    assert posted(api, shown(viewer, video)).json() == {"accepted": 0, "duplicates": 1, "unknown": 0}
    event = list(store.journal())[-1]
    assert (event.kind, event.video_id, event.request_id, event.surface) == ("shown", video, "theirs-1", "home")


def test_a_client_that_reports_our_slate_does_not_count_it_twice(api, viewer):
    slate = api.slate(viewer)
    calls.written(api)
    video = slate["items"][0]["video_id"]
    assert posted(api, shown(viewer, video, request_id=slate["request_id"])).json()["duplicates"] == 1


def test_an_event_counts_at_its_own_time_and_none_is_to_come(api, store, release, viewer):
    video, now_ms = api.slate(viewer)["items"][0]["video_id"], api.slate(viewer)["as_of_ms"]
    late = {"type": "outcome", "user_id": viewer, "video_id": video, "watch_ms": 9_000}
    for at_ms in (now_ms - 500, now_ms + 60 * MINUTE_MS, release.as_of_ms - MINUTE_MS):
        assert posted(api, late | {"key": str(at_ms), "at_ms": at_ms}).json()["accepted"] == 1
    own, to_come, before_the_state = [event.known_at for event in list(store.journal())[-3:]]
    assert own == now_ms - 500
    assert now_ms < to_come < now_ms + MINUTE_MS
    assert before_the_state == release.as_of_ms


def test_an_event_older_than_its_key_is_kept_is_refused_by_name(api, viewer):
    now_ms = api.slate(viewer)["as_of_ms"]
    answer = posted(api, shown(viewer, 1), shown(viewer, 1, at_ms=now_ms - KEYS_KEPT_MS - MINUTE_MS))
    assert answer.status_code == 422
    assert "events.1.at_ms" in answer.json()["error"]["message"] or "events.0" in answer.json()["error"]["message"]


def test_a_shown_video_needs_its_request(api, viewer):
    event = shown(viewer, 1)
    del event["request_id"]
    answer = posted(api, event)
    assert answer.status_code == 422
    assert "request_id" in answer.text

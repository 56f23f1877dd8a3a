"""The routes of videos: found by words, described by id."""

import numpy as np
import pytest

from watchnext.serving.store.tables.journal import Event


def test_videos_are_found_by_title_under_the_rules_for_everyone(api, release):
    answer = api("GET", "/v1/videos?query=wolken&limit=5")
    assert answer.status_code == 200
    items = answer.json()["items"]
    assert 0 < len(items) <= 5
    for item in items:
        row = release.video_ids.rows([item["video_id"]])[0]
        assert item["video"]["title"].startswith("Über den Wolken")
        assert (release.catalogue.safety[row], release.catalogue.regions[row]) == (0, 0)
        assert release.catalogue.upload_ms[row] <= answer.json()["as_of_ms"]


def test_the_video_of_an_id_is_found_first_and_described(api, release):
    allowed = (
        (release.catalogue.safety == 0) & (release.catalogue.regions == 0) & (release.catalogue.upload_ms < release.as_of_ms)
    )
    row = int(np.flatnonzero(allowed)[-1])
    video_id = release.video_ids.value(row)
    found = api("GET", f"/v1/videos?query={video_id}").json()["items"]
    assert found[0]["video_id"] == video_id
    described = api("GET", f"/v1/videos/{video_id}").json()["video"]
    assert described.items() >= release.texts.of_video(row).items()
    assert {**described, "age_h": None} == {**found[0]["video"], "age_h": None}


def test_an_unknown_video_is_404(api):
    answer = api("GET", "/v1/videos/nobody")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_video")


def test_a_withdrawn_video_is_not_found_but_described(api, store):
    video_id = api("GET", "/v1/videos?query=v0").json()["items"][0]["video_id"]
    store.apply([Event(kind="withdrawn", user_id=0, video_id=video_id, known_at=1)])
    assert api("GET", f"/v1/videos?query={video_id}").json()["items"] == []
    assert api("GET", f"/v1/videos/{video_id}").status_code == 200


@pytest.mark.parametrize("query", ["", "x" * 101])
def test_a_search_is_bounded(api, query):
    assert api("GET", f"/v1/videos?query={query}").status_code == 422

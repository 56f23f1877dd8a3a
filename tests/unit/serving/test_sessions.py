"""Viewers without an id: a session has a state of its own, nobody has none."""

from contextlib import closing

import polars as pl
import pytest
from api import asked, ids, written

from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event, id_key, is_session, session_id

COOKIE = "3f" * 32


def watched(api, video_id, key, **who) -> None:
    event = {"type": "outcome", "video_id": video_id, "key": key, "watch_ms": 60_000, "long_view": True, **who}
    answer = api("POST", "/v1/events", body={"events": [event]})
    assert (answer.status_code, answer.json().get("accepted")) == (200, 1), answer.text


def test_a_session_watches_and_is_not_shown_it_again_while_another_is(api, store):
    first = asked(api, session=COOKIE)
    assert (first["mode"], first["degraded"], len(first["items"])) == ("online", False, 10)
    for place, video_id in enumerate(ids(first)[:3]):
        watched(api, video_id, f"k{place}", session=COOKIE)
    assert not {*ids(first)[:3]} & {*ids(asked(api, session=COOKIE, k=50))}
    assert {*ids(first)[:3]} & {*ids(asked(api, session="another", k=50))}
    written(api)
    assert {event.user_id for event in store.journal() if event.kind == "outcome"} == {session_id(COOKIE)}
    assert not any(COOKIE in str(event.user_id) for event in store.journal())


def test_a_session_is_no_viewer_of_the_same_text(of_strings):
    def videos():
        history = of_strings("GET", "/v1/viewers/105/history?limit=200").json()["history"]
        return [watch["video_id"] for watch in history]

    before, first = videos(), ids(asked(of_strings, session="105"))
    watched(of_strings, first[0], "a", session="105")
    assert first[0] not in ids(asked(of_strings, session="105", k=50))
    assert videos() == before
    listed = of_strings("GET", "/v1/viewers?limit=1000").json()["viewers"]
    assert not [each for each in listed if is_session(each["user_id"])]


@pytest.mark.parametrize("session", [" ", "a", " a", "7", "é" * 32, "x" * 64])
def test_a_key_of_a_session_is_one_that_no_viewer_can_have(api, session):
    assert id_key(session_id(session))
    answer = api("POST", "/v1/recommend", body={"user_id": session_id(session)})
    assert answer.status_code == 422


def test_the_session_counts_only_without_a_viewer(api, store, viewer):
    asked(api, user_id=viewer, session=COOKIE)
    written(api)
    assert {event.user_id for event in store.journal()} == {viewer}


def test_nobody_gets_what_a_new_viewer_gets_and_nothing_counts_as_shown(api, served, store, tmp_path, monkeypatch):
    for name in ("viewer", "viewers"):
        monkeypatch.setattr(store, name, lambda _: pytest.fail("the store was asked for a viewer"))
    before, slate = store.position, asked(api, k=30)
    assert (slate["mode"], slate["degraded"], len(slate["items"])) == ("not_personalised", False, 30)
    written(api)
    assert store.position == before
    served.close()
    logged = pl.read_parquet(tmp_path / "served" / "*" / "*.parquet")
    assert logged["user_id"].to_list() == [""]


def test_candidates_are_ranked_for_a_session_and_for_nobody(api, release):
    video_ids = [release.video_ids.value(row) for row in range(20)]
    orders = []
    for who in ({}, {"session": COOKIE}):
        answer = api("POST", "/v1/rank", body={"video_ids": video_ids, **who})
        assert answer.status_code == 200
        orders.append([(item["video_id"], item["score"]) for item in answer.json()["items"]])
    assert [video_id for video_id, _ in orders[0]] == [video_id for video_id, _ in orders[1]]
    for place, video_id in enumerate(video_ids[:5]):
        watched(api, video_id, f"k{place}", session=COOKIE)
    after = api("POST", "/v1/rank", body={"video_ids": video_ids, "session": COOKIE}).json()
    assert [(item["video_id"], item["score"]) for item in after["items"]] != orders[0]


def test_an_outcome_of_nobody_is_refused_by_name(api):
    answer = api("POST", "/v1/events", body={"events": [{"type": "outcome", "video_id": "v001", "key": "a"}]})
    assert answer.status_code == 422
    assert "expected a user_id or a session" in answer.json()["error"]["message"]


@pytest.mark.parametrize("name", ["user_id", "session"])
def test_null_is_a_lost_id_and_not_nobody(api, name):
    answer = api("POST", "/v1/recommend", body={name: None})
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, f"body.{name}")


def test_a_store_that_is_rebuilt_keeps_the_state_of_sessions(release, tmp_path):
    event = Event(kind="outcome", user_id=session_id(COOKIE), video_id="v001", known_at=release.as_of_ms + 1, watch_ms=9_000)
    with closing(Store.open(tmp_path / "kept", release)) as store:
        store.apply([event])
        before = store.viewer(event.user_id)
    assert build_store(tmp_path / "kept", release) == 0
    with closing(Store.open(tmp_path / "kept", release)) as store:
        assert (store.viewer(event.user_id) == before).all()
        assert before.any()

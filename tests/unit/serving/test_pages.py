"""Pages of one feed: none repeats, none is skipped, whatever happens in between."""

import base64
from dataclasses import replace

import pytest
from api import Api, app_over, asked, ids

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api.pages import PAGED_MOST, PageTokenError, shown_before, token_of


@pytest.mark.parametrize("who", [{"user_id": 105}, {"session": "a"}, {}, {"user_id": 105, "mode": "not_personalised"}])
def test_pages_show_everything_once_while_events_arrive(api, who):
    everything = {*ids(asked(api, k=100))}
    shown, token = [], None
    for page in range(20):
        slate = asked(api, **who, **({"page_token": token} if token else {}))
        shown += ids(slate)
        if ids(slate):
            event = {"type": "outcome", "video_id": ids(slate)[0], "key": f"k{page}", "watch_ms": 60_000, "like": True}
            viewer = {name: who[name] for name in ("user_id", "session") if name in who} or {"user_id": 100}
            assert api("POST", "/v1/events", body={"events": [{**event, **viewer}]}).status_code == 200
        if (token := slate["page_token"]) is None:
            break
    assert token is None
    assert len(shown) == len({*shown})
    assert len(shown) >= len(everything) > 40


def test_pages_go_on_under_another_release_and_in_another_process(api, release, store, served, viewer):
    first = asked(api, user_id=viewer)
    other = replace(release, manifest={**release.manifest, "id": "other"})
    app = app_over(Recommender(other, store), store, served, timeout_s=20.0)
    second = asked(Api(app), user_id=viewer, page_token=first["page_token"])
    app.state.close()
    assert second["release"] == "other"
    assert not {*ids(first)} & {*ids(second)}
    assert shown_before(second["page_token"], viewer) == ids(first) + ids(second)


@pytest.mark.parametrize("who", [{"user_id": 105}, {"session": "a"}])
def test_a_refresh_differs(api, who):
    first, again = asked(api, **who), asked(api, **who)
    assert not {*ids(first)} & {*ids(again)}


def test_a_feed_ends(api, viewer):
    assert token_of(viewer, [f"v{i}" for i in range(PAGED_MOST)])
    assert token_of(viewer, [f"v{i}" for i in range(PAGED_MOST + 1)]) is None
    assert asked(api, user_id=viewer, k=100)["page_token"] is None  # fewer were left


def forged(content: bytes, viewer) -> str:
    from watchnext.serving.http.api.pages import _digest

    return base64.urlsafe_b64encode(_digest(viewer, content) + content).decode()


def test_hostile_tokens_are_refused_by_name(api, viewer):
    token = asked(api, user_id=viewer)["page_token"]
    hostile = [token[:-4], token[4:], token.swapcase(), "A", "AAAA", "=" * 8, "x" * 65_537, "ä", "a b", "", 7]
    hostile += [
        forged(b"[1.5]", viewer),
        forged(b"{}", viewer),
        forged(b"[[]]", viewer),
        forged(b"[", viewer),
        forged(b"[7]", viewer),
    ]
    hostile += [forged(b"[" + b'"v",' * PAGED_MOST + b'"v"]', viewer), token_of("another", ["v001"])]
    for each in hostile:
        answer = api("POST", "/v1/recommend", body={"user_id": viewer, "page_token": each})
        assert answer.status_code == 422, each
        assert "page_token" in answer.json()["error"]["message"]


@pytest.mark.parametrize("viewer_id", [7, "7", " 3f", ""])
def test_a_token_is_its_viewers_own(viewer_id):
    token = token_of(viewer_id, ["v1", "v2"])
    assert shown_before(token, viewer_id) == ["v1", "v2"]
    with pytest.raises(PageTokenError, match="not given to this viewer"):
        shown_before(token, "somebody")

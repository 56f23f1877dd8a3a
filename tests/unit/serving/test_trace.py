"""Why a video is in a slate, and why another is not: the trace of one request, through the real app."""

import numpy as np
import pytest

from batches import precompute
from watchnext.serving.funnel.explanation.trace import KEPT, RecentAnswers
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request


def traced(api, slate, video_id=None) -> dict:
    query = "" if video_id is None else f"?video_id={video_id}"
    answer = api("GET", f"/v1/trace/{slate['request_id']}{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_trace_counts_what_the_answer_counts(api, viewer):
    slate = api.slate(viewer, k=10, explain=True)
    trace = traced(api, slate)
    assert trace.pop("video") is None
    assert trace == slate["trace"]
    assert (trace["request_id"], trace["release"]) == (slate["request_id"], slate["release"])
    assert trace["removed"] == slate["removed"]
    counts = {stage["name"]: stage["count"] for stage in trace["stages"]}
    assert (counts["retrieval"], counts["ranking"], counts["reranking"]) == tuple(slate["funnel"].values())
    assert {stage["name"]: stage["ms"] for stage in trace["stages"]} == slate["timings_ms"]
    assert max(trace["sources"].values()) <= counts["retrieval"] <= sum(trace["sources"].values())
    assert "trace" not in api.slate(viewer, k=10)


def test_every_video_ends_where_the_answer_says(api, release, store, viewer):
    watched = api.slate(viewer)["items"][0]["video_id"]
    api.outcome(viewer, watched, "a", watch_ms=60_000)
    slate = api.slate(viewer, k=5, exclude=["v003"])
    videos = {}
    for row in range(len(release.catalogue)):
        video = traced(api, slate, release.video_ids.value(row))["video"]
        videos[video["video_id"]] = video
    shown = [item["video_id"] for item in slate["items"]]
    assert {video_id: each["position"] for video_id, each in videos.items() if each["end"] == "shown"} == {
        video_id: position for position, video_id in enumerate(shown, 1)
    }
    for item in slate["items"]:
        assert [*videos[item["video_id"]]["sources"]] == item["sources"]
        assert videos[item["video_id"]]["predictions"] == item["predictions"]
    assert videos[watched]["rule"] == "seen"
    assert (videos["v003"]["end"], videos["v003"]["rule"]) == ("retrieval", "exclude")
    candidates = [each for each in videos.values() if each["merge_rank"]]
    assert len(candidates) == slate["funnel"]["retrieved"]
    assert sorted(each["merge_rank"] for each in candidates) == sorted(each["value_rank"] for each in candidates)
    for name, count in slate["removed"].items():
        assert len([each for each in candidates if each["rule"] == name]) == count
    low = next(each for each in candidates if each["end"] == "ranking")
    assert low["text"] == f"valued at rank {low['value_rank']}, and 5 are shown"
    pushed = [each for each in candidates if each["end"] == "re-ranking"]
    assert all(each["value_rank"] and "shown" not in each["text"] for each in pushed)
    assert {each["end"] for each in videos.values()} >= {"retrieval", "filters", "ranking", "shown"}
    safety = release.catalogue.safety > 0
    for row in safety.nonzero()[0]:
        assert videos[release.video_ids.value(row)]["end"] in ("retrieval", "filters")


def test_a_video_outside_the_filter_says_so(api, release, viewer):
    tag = release.catalogue.tag_names.tolist()[0]
    slate = api.slate(viewer, k=5, filter={"tags": [tag]}, exclude=["v003"])
    within = (np.asarray(release.catalogue.tag_rows) == 0).any(axis=1)
    for row in np.flatnonzero(~within)[:20]:
        video = traced(api, slate, release.video_ids.value(int(row)))["video"]
        assert video["rule"] == ("exclude" if video["video_id"] == "v003" else "filter")
        assert video["text"] == f"{video['rule']} keeps it out"
    rules = {traced(api, slate, release.video_ids.value(int(row)))["video"]["rule"] for row in np.flatnonzero(within)}
    assert "filter" not in rules


def test_a_video_that_a_stored_slate_lacks_names_what_keeps_it_out_now(api, release, store, viewer):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    whole = [item["video_id"] for item in api.slate(viewer, k=20, mode="precomputed", preview=True)["items"]]
    api.outcome(viewer, whole[0], "a", watch_ms=60_000)
    store.apply([Event(kind="withdrawn", user_id="", video_id=whole[1], known_at=release.as_of_ms + 1)])
    slate = api.slate(viewer, k=5, mode="precomputed", muted=["nobody"])
    assert slate["mode"] == "precomputed"
    for video_id, rule in ((whole[0], "seen"), (whole[1], "unavailable")):
        video = traced(api, slate, video_id)["video"]
        assert (video["rule"], video["text"]) == (rule, f"it is not in the precomputed slate, and {rule} keeps it out now")
    ends = [traced(api, slate, video_id)["video"] for video_id in whole[2:]]
    assert [each["rule"] for each in ends] == [None] * len(ends)


def test_a_slate_pushed_apart_says_so(api, viewer):
    slate = api.slate(viewer, k=10, dials={"diversity": 1.0})
    ids = {item["video_id"] for item in api.slate(viewer, k=10, dials={"diversity": 0.0})["items"]}
    ends = {traced(api, slate, each)["video"]["end"] for each in ids}
    assert "re-ranking" in ends


def test_ranked_candidates_can_be_traced(api, viewer):
    ranked = api("POST", "/v1/rank", body={"user_id": viewer, "video_ids": ["v003", "v004", "v005"]}).json()
    best = ranked["items"][0]["video_id"]
    assert (traced(api, ranked, best)["video"]["position"], traced(api, ranked)["sources"]) == (
        1,
        traced(api, ranked)["sources"],
    )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/trace/none", 404, "unknown_request"),
        ("/v1/trace/{}?video_id=7", 422, "unknown_video"),
        ("/v1/trace/{}?video_id=nothing", 422, "unknown_video"),
        ("/v1/trace/{}?video_id=", 422, "invalid"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(api, viewer, path, status, code):
    answer = api("GET", path.format(api.slate(viewer)["request_id"]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_only_the_last_answers_are_kept(release, store):
    recommender, recent = Recommender(release, store), RecentAnswers(most=2)
    for name in "abc":
        recent.put(recommender.recommend(Request(name, 105, 5, release.as_of_ms + 1)))
    assert [recent.get(name) is not None for name in "abc"] == [False, True, True]
    assert KEPT <= 1000

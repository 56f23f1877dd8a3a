"""Filters, a seed, stored slates, a budget and a priority: the fields of a request through the real funnel."""

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from api import Api, app_over, ids

from batches import precompute
from watchnext.serving.funnel.candidates.video_filter import VideoFilters
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.types import Request, VideoFilter


def codes(slate) -> list:
    return [each["code"] for each in slate["degraded_why"]]


@pytest.fixture
def videos(built) -> list[dict]:
    return list(built[1].videos.iter_rows(named=True))


# ---- filter ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        ({"tags": ["tag3"]}, lambda video: "tag3" in (video["tags"] or [])[:4]),
        ({"tags": ["tag3", "tag7"]}, lambda video: {"tag3", "tag7"} & {*(video["tags"] or [])[:4]}),
        ({"creators": ["c2", "c5"]}, lambda video: video["creator_id"] in ("c2", "c5")),
        ({"language": ["de"]}, lambda video: video["language"] == "de"),
        (
            {"tags": ["tag1"], "language": ["en"]},
            lambda video: "tag1" in (video["tags"] or [])[:4] and video["language"] == "en",
        ),
        ({"creators": ["c2", "nobody"]}, lambda video: video["creator_id"] == "c2"),
        ({"tags": ["no such tag"]}, lambda video: False),
    ],
)
@pytest.mark.parametrize("mode", ["online", "not_personalised"])
def test_a_filtered_slate_is_full_of_what_passes(release, store, videos, wanted, passes, mode):
    """All videos that pass the filter and the rules are shown where they are fewer than k: brute force over the catalogue."""
    relaxed = replace(release, reranker=without_caps(release.reranker))
    recommender = Recommender(relaxed, store)
    wanted = VideoFilter(**{name: tuple(values) for name, values in wanted.items()})
    request = Request("q", 105, 100, release.as_of_ms + 1, filter=wanted, personalised=mode == "online")
    answer, query = recommender.recommend(request), recommender.query(request)
    assert not answer.degraded
    may = recommender.retrieval.sources["two_tower"].prefilter.of(query, unavailable=store.unavailable)
    pass_by_row = {release.video_ids.rows([video["video_id"]])[0]: bool(passes(video)) for video in videos}
    rows = np.array([row for row in range(len(release.catalogue)) if pass_by_row[row]], np.int64)
    rows = rows[may.of(rows)]
    assert all(pass_by_row[row] for row in answer.rows.tolist())
    prints = release.catalogue.fingerprints[rows]
    distinct = (prints == 0).sum() + len(np.unique(prints[prints != 0]))
    unseen = answer.rows[~np.isin(answer.rows, query.seen)]  # others were left midway
    assert len(unseen) == distinct < 100


def without_caps(reranker):
    rules = [rule for rule in reranker.rules if not rule.name.endswith("_cap")]
    return type(reranker)(value=reranker.value, rules=rules, diversity=reranker.diversity, exploration=reranker.exploration)


@pytest.mark.parametrize("more", [0, 1, 5, 200])
def test_where_the_sources_know_too_few_the_newest_matches_join(release, store, more):
    request = Request("q", 105, 10, release.as_of_ms + 1, filter=VideoFilter(language=("en",)))

    def asked(most: int) -> tuple[Recommender, dict[str, list]]:
        merge, quotas = {**release.retrieval["merge"], "most": most}, dict.fromkeys(release.retrieval["quotas"], 1)
        small = replace(release, retrieval={**release.retrieval, "merge": merge, "quotas": quotas})
        recommender = Recommender(small, store)
        return recommender, {name: rows.tolist() for name, rows in recommender.by_source(request).items()}

    _, known = asked(1)
    most = len(set().union(*known.values())) + more
    recommender, filled = asked(most)
    allowed = recommender.retrieval.sources["two_tower"].allowed(recommender.query(request))
    rows = np.flatnonzero(allowed.of(np.arange(len(release.catalogue)))).tolist()
    newest = sorted(rows, key=lambda row: -np.nan_to_num(release.catalogue.upload_ms[row]))
    joined = [row for row in newest if row not in known["fresh"]][: most - 1] if more else []
    assert len(rows) > 20
    assert filled == {**known, "fresh": known["fresh"] + joined}


def test_a_filter_holds_for_every_source_and_a_degraded_slate(release, store, monkeypatch):
    recommender = Recommender(release, store)
    wanted = VideoFilter(tags=("tag3",))
    mask = VideoFilters(store.catalogue).mask(np.arange(len(release.catalogue)), wanted)
    request = Request("q", 105, 10, release.as_of_ms + 1, filter=wanted)
    lists = recommender.by_source(request)
    assert {name for name, rows in lists.items() if len(rows)} >= {"two_tower", "fresh", "popular"}
    assert all(mask[rows].all() for rows in lists.values())

    def broken(*_):
        raise RuntimeError("gone")

    answer = Recommender(replace(release, ranker=broken, query_tower=broken), store).recommend(request)
    assert [each.code for each in answer.degradations] == ["index_failed", "ranker_failed"]
    assert len(answer.rows)
    assert mask[answer.rows].all()


def test_seen_videos_that_come_back_pass_the_filter_too(api, release, viewer):
    shown = {item["video_id"] for _ in range(6) for item in api.slate(viewer, k=30)["items"]}
    slate = api.slate(viewer, k=30, filter={"tags": ["tag3"]})
    assert shown & {*ids(slate)}
    assert all("tag3" in item["video"]["tags"] for item in slate["items"])


def test_a_filter_over_http(api, viewer):
    slate = api.slate(viewer, filter={"creators": ["c2"]})
    assert slate["items"]
    assert {item["video"]["creator_id"] for item in slate["items"]} == {"c2"}


def test_a_language_where_videos_have_none_is_refused_by_name(release, store, served, viewer):
    schema = release.pipeline.schema
    without = replace(schema, features=tuple(each for each in schema.features if each.name != "language"))
    pipeline = replace_schema(release.pipeline, without)
    filters = VideoFilters(LiveCatalogue(replace(release, pipeline=pipeline), room=0))
    recommender = Recommender(release, store)
    monkey = recommender.retrieval.sources["two_tower"]
    monkey.filters = filters
    app = app_over(recommender, store, served, timeout_s=20.0)
    answer = Api(app)("POST", "/v1/recommend", body={"user_id": viewer, "filter": {"language": ["de"]}})
    app.state.close()
    assert answer.status_code == 422
    assert "body.filter.language" in answer.json()["error"]["message"]


def replace_schema(pipeline, schema):
    from copy import copy

    other = copy(pipeline)
    other.schema = schema
    return other


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"filter": {"tags": ["x"] * 51}}, "body.filter.tags"),
        ({"filter": {"tag": ["x"]}}, "body.filter.tag"),
        ({"filter": {"creators": [True]}}, "body.filter.creators.0"),
        ({"seed_video_id": 7}, "body.seed_video_id"),
        ({"seed_video_id": None}, "body.seed_video_id"),
        ({"seed_video_id": "nothing"}, "body.seed_video_id"),
        ({"budget_ms": -1}, "body.budget_ms"),
        ({"budget_ms": 60_001}, "body.budget_ms"),
        ({"priority": "urgent"}, "body.priority"),
        ({"mode": "offline"}, "body.mode"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(api, viewer, body, where):
    answer = api("POST", "/v1/recommend", body={"user_id": viewer, **body})
    assert (answer.status_code, answer.json()["error"]["details"][0]["where"]) == (422, where)


# ---- seed --------------------------------------------------------------------------------------------------------------


def test_what_is_beside_the_seed_joins_the_candidates_and_the_seed_does_not(release, store):
    recommender = Recommender(release, store)
    plain = Request("q", 999_999, 10, release.as_of_ms + 1)
    related = recommender.retrieval.sources["related"]
    seed = next(row for row in range(len(release.catalogue)) if len(related.beside(row, None, 5)) >= 3)
    seeded = replace(plain, seed=seed, exclude=(seed,))
    query = recommender.query(seeded)
    lists = recommender.by_source(seeded)
    near = related.beside(seed, query, 50)
    assert not len(recommender.by_source(plain)["related"])
    upload_ms = release.catalogue.upload_ms[near]
    assert lists["related"].tolist() == near[~(upload_ms > plain.as_of_ms)][: len(lists["related"])].tolist()
    towers = recommender.retrieval.sources["two_tower"].beside(seed, query, 10)
    assert lists["two_tower"][0] == towers[0]
    assert {*towers[:10]} <= {*lists["two_tower"][:20]}
    assert seed not in np.concatenate(list(lists.values()))
    assert seed not in recommender.recommend(seeded).rows


def test_a_seed_over_http(api, release, viewer):
    slate = api.slate(viewer, seed_video_id=release.video_ids.value(3))
    assert len(slate["items"]) == 10
    assert release.video_ids.value(3) not in ids(slate)


# ---- stored slates -----------------------------------------------------------------------------------------------------


def test_auto_takes_the_stored_slate_while_it_holds_and_computes_one_otherwise(api, release, store, viewer):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    stored = api.slate(viewer, mode="auto")
    assert (stored["mode"], stored["degraded"]) == ("precomputed", False)
    for other in ({"k": 50}, {"region": "de"}, {"filter": {"tags": ["tag3"]}}, {"dials": {"engage": 0.1}}):
        computed = api.slate(viewer, mode="auto", **other)
        assert (computed["mode"], computed["degraded"]) == ("online", False)
    assert api.slate(734_281_569, mode="auto")["mode"] == "online"


def test_precomputed_ranks_nothing(api, release, store, viewer, monkeypatch):
    precompute(Recommender(release, store), [viewer], k=20, as_of_ms=release.as_of_ms)
    assert api.slate(viewer, mode="precomputed")["mode"] == "precomputed"
    monkeypatch.setattr(type(release.ranker), "__call__", lambda *_: pytest.fail("the ranker was asked"))
    slate = api.slate(734_281_569, mode="precomputed")
    assert (slate["mode"], len(slate["items"])) == ("online", 10)
    assert codes(slate) == ["not_precomputed", "sources_late", "ranker_late"]
    assert {name for item in slate["items"] for name in item["sources"]} == {"trending", "fresh"}


# ---- budget ------------------------------------------------------------------------------------------------------------


def test_a_request_may_shorten_its_time_and_not_lengthen_it(release, store):
    request = Request("q", 105, 10, release.as_of_ms + 1)
    ask = [Recommender(release, store, budget_ms=budget_ms).recommend(replace(request, budget_ms=own)) for budget_ms, own in
           ((1e6, 1e6), (1e6, 0.0), (0.0, 1e6))]  # fmt: skip
    assert [[each.code for each in answer.degradations] for answer in ask] == [[], *[["sources_late", "ranker_late"]] * 2]
    assert [len(answer.ids) for answer in ask] == [10] * 3


@pytest.mark.parametrize(
    ("jump_ms", "at", "lost"),
    [
        (1e6, 100, []),
        (500, 3, ["sources_late"]),
        (700, 3, ["sources_late", "ranker_late"]),
        (599, 11, []),
        (600, 11, ["ranker_late"]),
    ],
)
def test_a_stage_that_would_be_late_is_cut_short(release, store, jump_ms, at, lost):
    """Sources are asked within 400 of 1,000 ms, and ranking begins within 600; the clock jumps when it is read for the `at`-th
    time, after the second source, or after all of them."""
    readings = iter([0.0] * (at - 1) + [jump_ms / 1000.0] * 100)
    recommender = Recommender(release, store, timer=lambda: next(readings), budget_ms=1000.0)
    answer = recommender.recommend(Request("q", 105, 10, release.as_of_ms + 1))
    assert [each.code for each in answer.degradations] == lost
    assert len(answer.ids) == 10


# ---- priority ----------------------------------------------------------------------------------------------------------


class Gated(Recommender):
    """A recommender that waits at a gate: failure injection only."""

    gate = threading.Event()

    def recommend(self, request):
        self.gate.wait(20)
        return super().recommend(request)


def test_overload_sheds_low_priority_first(release, store, served, viewer):
    gated = Gated(release, store)
    app = app_over(gated, store, served, threads=1, waiting=4, timeout_s=60.0)

    async def call(priority: str):
        body = {"user_id": viewer, "priority": priority}
        return (await Api(app).send([("POST", "/v1/recommend", body, None, None)]))[0]

    async def crowd():
        held = [asyncio.ensure_future(call("normal")) for _ in range(3)]
        while "watchnext_work_taken 3.0" not in (await Api(app).send([("GET", "/metrics", None, None, None)]))[0].text:
            await asyncio.sleep(0)
        refused, waits = await call("low"), asyncio.ensure_future(call("normal"))
        gated.gate.set()
        return [refused, await waits, *[await each for each in held]]

    refused, *answers = asyncio.run(crowd())
    app.state.close()
    assert (refused.status_code, refused.json()["error"]["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
    assert [answer.status_code for answer in answers] == [200] * 4

"""Hard rules hold on every path that answers: safety by age and region, regions, and what was withdrawn."""

from dataclasses import replace

import lmdb
import numpy as np
import pytest
from api import Api, app_over, asked, written

from batches import precompute
from watchnext.reranking.slate import Reranker
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

POLICY = [
    {"ages": ["18-24"], "mature": "limit"},
    {"ages": ["25-34"], "regions": ["fr"], "mature": "allow"},
]
MOST, K = 1, 30
METADATA = {"creator_id": "c3", "duration_ms": 30_000, "tags": ["tag1"], "language": "de", "vector": [0.5] * 16}


@pytest.fixture(scope="module")
def strict(release):
    """The release with mature videos for some, and soft rules that have to bend."""
    config = release.reranker.to_config()
    config["rules"] |= {
        "safety": {"highest": "mature", "policy": POLICY, "most": MOST},
        "near_duplicate": {"cosine": 0.8},
        "creator_window": {"most": 1, "slots": 6},
        "freshness": {"least": 40, "younger_h": 1.0},
    }
    return replace(release, reranker=Reranker.from_config(config))


@pytest.fixture
def recommender(strict, store):
    return Recommender(strict, store)


@pytest.fixture
def strict_api(strict, store, served):
    app = app_over(Recommender(strict, store), store, served, timeout_s=60.0)
    yield Api(app)
    app.state.close()


@pytest.fixture
def truth(built):
    """The truth about viewers and videos, from the tables that the release was built of."""
    return Truth(*(getattr(built[1], name) for name in ("users", "videos")))


class Truth:
    def __init__(self, users, videos) -> None:
        self.users = {row["user_id"]: row for row in users.iter_rows(named=True)}
        self.videos = {row["video_id"]: row for row in videos.iter_rows(named=True)}
        self.withdrawn: set[str] = set()

    def action(self, user_id, region) -> str:
        user = self.users.get(user_id, {})
        age, region = user.get("age_group"), region or user.get("region")
        return "limit" if age == "18-24" else "allow" if (age, region) == ("25-34", "fr") else "drop"

    def require(self, ids, user_id=None, region=None, *, limited=True) -> int:
        """Check videos that were shown, and return how many of them are mature."""
        action, region = self.action(user_id, region), region or self.users.get(user_id, {}).get("region")
        shown = [self.videos[each] for each in ids]
        mature = sum(video["safety"] == "mature" for video in shown)
        assert not any(video["safety"] == "unsafe" for video in shown)
        assert all(not video["regions"] or region in video["regions"] for video in shown)
        assert not self.withdrawn & {*ids}
        assert mature <= {"drop": 0, "limit": MOST if limited else mature, "allow": mature}[action]
        return mature


def ids_of(slate) -> list:
    return [item["video_id"] for item in slate["items"]]


def test_they_hold_online_precomputed_by_page_and_for_nobody(strict_api, strict, store, truth):
    """All viewers ask; videos are withdrawn, made mature and kept out of a region after slates were stored."""
    users = sorted(truth.users)
    precompute(Recommender(strict, store), users, k=K, as_of_ms=strict.as_of_ms)
    mature = dict.fromkeys(("drop", "limit", "allow"), 0)
    first = {user: ids_of(asked(strict_api, user_id=user, k=K, mode="precomputed", preview=True)) for user in users}
    for user, ids in first.items():
        mature[truth.action(user, None)] += truth.require(ids, user)
    assert mature["limit"] > 0
    assert mature["allow"] > 0
    changed = sorted({video for ids in first.values() for video in ids[:6]})
    for video, metadata in zip(
        changed, [{"safety": "mature"}, {"safety": "unsafe"}, {"regions": ["es"]}, None] * 100, strict=False
    ):
        kind = "changed" if metadata else "withdrawn"
        store.apply([Event(kind=kind, user_id="", video_id=video, known_at=strict.as_of_ms + 1, metadata=metadata)])
        truth.videos[video] |= metadata or {}
        truth.withdrawn |= set() if metadata else {video}
    modes = {}
    for user in [*users, "a new viewer"]:
        about = {"user_id": user} if user in truth.users else {"session": user}
        for mode in ("precomputed", "auto", "online", "not_personalised"):
            slate = asked(strict_api, **about, k=8, mode=mode)
            truth.require(ids_of(slate), user if mode != "not_personalised" else None)
            modes[slate["mode"]] = modes.get(slate["mode"], 0) + 1
        truth.require(ids_of(asked(strict_api, **about, k=8, mirror=True)), user)
        page = asked(strict_api, **about, k=8, page_token=slate["page_token"], region="fr")
        truth.require(ids_of(page), user, "fr")
        assert not {*ids_of(page)} & {*ids_of(slate)}
        written(strict_api)
    assert modes["precomputed"] > 0
    truth.require(ids_of(asked(strict_api, k=K)))


def test_they_hold_where_parts_fail_and_the_slate_is_short(strict, store, truth, monkeypatch):
    def raising(*_, **__):
        raise RuntimeError("broken")

    def unreadable(*_, **__):
        raise lmdb.Error("gone")

    degraded = set()
    for broken in ({"ranker": raising}, {"query_tower": raising}, {}):
        recommender = Recommender(replace(strict, **broken), store)
        if not broken:
            monkeypatch.setattr(store._engine, "_env", type("Gone", (), {"begin": unreadable, "sync": print, "close": print})())
        for user in (*truth.users, 999):
            for region, budget in ((None, np.inf), ("fr", 0.0)):
                answer = recommender.recommend(Request("q", user, 100, strict.as_of_ms, region=region, budget_ms=budget))
                truth.require(answer.ids, user, region)
                degraded |= {each.code for each in answer.degradations}
    assert degraded == {"ranker_failed", "index_failed", "store_down", "ranker_late", "sources_late"}


def test_they_hold_for_videos_posted_since(recommender, strict, store, truth):
    now, shown = strict.as_of_ms, set()
    recommender.recommend(Request("q", min(truth.users), K, now))  # masks are made before
    for number, extra in enumerate([{"safety": "mature"}, {"safety": "unsafe"}, {"regions": ["fr"]}, {}] * 3):
        video = {"safety": None, "regions": None, "upload_ms": now + 1} | METADATA | extra
        metadata = {name: value for name, value in video.items() if value is not None}
        store.apply([Event(kind="posted", user_id="", video_id=f"new{number}", known_at=now + 1, metadata=metadata)])
        truth.videos[f"new{number}"] = video
    for user in (*truth.users, 999):
        for region in (None, "fr"):
            answer = recommender.recommend(Request("q", user, 100, now + 2, region=region))
            truth.require(answer.ids, user, region)
            shown |= {each for each in answer.ids if str(each).startswith("new")}
    assert {truth.videos[each]["safety"] for each in shown} == {None, "mature"}


def test_they_hold_for_candidates_given_videos_and_a_refilled_slate(recommender, strict, store, truth):
    rows = np.arange(len(strict.catalogue))
    for user in truth.users:
        request = Request("q", user, 100, strict.as_of_ms)
        given = recommender.rank_given(request, rows)
        truth.require(given.ids, user, limited=False)
        truth.require([recommender.catalogue.ids.value(row) for row in recommender.retrieved(request).candidates.rows], user,
                      limited=False)  # fmt: skip
        events = [Event(kind="shown", user_id=user, video_id=each, known_at=strict.as_of_ms + 1) for each in given.ids]
        store.apply(events)
        again = recommender.recommend(replace(request, k=K, as_of_ms=strict.as_of_ms + 86_400_000))
        assert len(again.ids) == K
        truth.require(again.ids, user)


def test_a_list_without_a_viewer_has_no_more_mature_videos_than_a_slate(release, store, served):
    """Similar, trending and found videos, where every viewer's limit is one."""
    config = release.reranker.to_config()
    config["rules"]["safety"] = {"highest": "mature", "policy": [{"mature": "limit"}], "most": MOST}
    limited, mature = replace(release, reranker=Reranker.from_config(config)), {}
    app = app_over(Recommender(limited, store), store, served, timeout_s=60.0)
    try:
        api, names = Api(app), [release.video_ids.value(row) for row in range(len(release.catalogue))]
        levels = dict(zip(names, release.catalogue.safety[: len(names)].tolist(), strict=True))
        seeds = [names[row] for row in np.flatnonzero(release.catalogue.upload_ms <= release.as_of_ms)[:12]]
        lists = {f"similar {name}": ("POST", "/v1/similar", {"seed_video_id": name, "k": 100}) for name in seeds}
        lists |= {"trending": ("GET", "/v1/trending?limit=100", None), "search": ("GET", "/v1/videos?query=v0&limit=100", None)}
        for name, (method, path, body) in lists.items():
            answer = api(method, path, body=body)
            assert answer.status_code == 200, answer.text
            mature[name] = sum(levels[each] for each in ids_of(answer.json()))
    finally:
        app.state.close()
    assert max(mature.values()) == mature["search"] == MOST


def test_a_slate_beyond_the_limit_is_broken_and_candidates_are_not(recommender, strict, truth):
    """As a champion judges what its challenger answers."""
    viewer = next(user for user in truth.users if truth.action(user, None) == "limit")
    mature = np.flatnonzero((strict.catalogue.safety == 1) & (strict.catalogue.regions == 0))[:2]
    request = Request("q", viewer, K, strict.as_of_ms)
    assert (recommender.broken(request, mature), recommender.broken(request, mature[:1])) == (["safety"], [])
    assert recommender.broken(request, mature, one_slate=False) == []


def test_a_muted_creator_is_shown_on_no_path(strict, recommender, store, truth):
    """Half of the creators are muted: candidates, slates of every kind, refills and videos posted since have none of theirs."""
    creators = sorted({video["creator_id"] for video in truth.videos.values()} - {None})
    muted, now = tuple(creators[::2]), strict.as_of_ms
    rows = [row for row in range(len(strict.catalogue)) if truth.videos[strict.video_ids.value(row)]["creator_id"] in muted]
    assert recommender.catalogue.of_creators((*muted, "nobody")).tolist() == rows
    precompute(recommender, sorted(truth.users), k=K, as_of_ms=now)
    metadata = METADATA | {"creator_id": muted[0], "upload_ms": now + 1}
    store.apply([Event(kind="posted", user_id="", video_id="posted", known_at=now + 1, metadata=metadata)])
    truth.videos["posted"] = {"regions": None, "safety": None} | metadata
    shown, stored, refilled = 0, 0, 0
    for user in (*truth.users, 999):
        request = Request("q", user, 8, now + 2, muted=muted)
        longer = replace(request, k=100, as_of_ms=now + 86_400_000)
        answers = [recommender.recommend(each) for each in (request, replace(request, budget_ms=0.0), longer)]
        answers += [recommender.recommend(replace(request, personalised=False, seed=rows[0], exclude=(rows[0],)))]
        answers += [kept for kept in (precomputed(recommender, request),) if kept]
        stored += answers[-1].mode == "precomputed"
        candidates = [
            recommender.catalogue.ids.value(row) for row in recommender.retrieved(replace(request, k=500)).candidates.rows
        ]
        for ids in (candidates, *(answer.ids for answer in answers)):
            truth.require(ids, user if ids is not answers[3].ids else None, limited=ids is not candidates)
            assert not {truth.videos[each]["creator_id"] for each in ids} & {*muted}
            shown += len(ids)
        refilled += sum("again" in names for names in answers[2].sources)
        assert recommender.trace(answers[0], rows[0])["rule"] == "muted"
    assert min(shown, stored, refilled) > 0


def test_creators_are_muted_over_http_by_the_id_of_an_answer(strict_api, truth):
    viewer = min(truth.users)
    creator = asked(strict_api, user_id=viewer, k=5, preview=True)["items"][0]["video"]["creator_id"]
    slate = asked(strict_api, user_id=viewer, k=K, muted=[creator, "nobody"])
    assert len(slate["items"]) == K
    assert creator not in {item["video"]["creator_id"] for item in slate["items"]}
    for wrong in (["c"] * 201, [True], "c"):
        answer = strict_api("POST", "/v1/recommend", body={"user_id": viewer, "muted": wrong})
        assert answer.status_code == 422
        assert "body.muted" in answer.text


def test_an_answer_names_the_rules_that_it_bends_and_the_trace_their_costs(strict_api, strict, store, truth):
    precompute(Recommender(strict, store), [min(truth.users)], k=K, as_of_ms=strict.as_of_ms)
    for mode in ("online", "precomputed"):
        slate = asked(strict_api, user_id=min(truth.users), k=K, mode=mode, explain=True, preview=True)
        assert slate["mode"] == mode
        assert "freshness" in slate["bent"]
        assert not {*slate["bent"]} & {"unavailable", "safety", "region", "seen", "duplicate"}
        assert slate["trace"]["bent"] == slate["bent"]
        rules = {each.name for each in strict.reranker.rules}
        assert {*slate["trace"]["costs"]} == (rules | {"diversity", "exploration"} if mode == "online" else set())

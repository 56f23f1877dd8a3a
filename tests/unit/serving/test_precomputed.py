from dataclasses import replace

import numpy as np
import pytest

from batches import precompute
from watchnext.reranking.slate import Reranker
from watchnext.serving.funnel.ahead.precomputed import DAY_MS, precomputed
from watchnext.serving.funnel.explanation.explanations import NEW
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

USERS = [100, 105, 124, "stranger"]


@pytest.fixture
def recommender(release, store):
    return Recommender(release, store)


@pytest.fixture
def as_of_ms(recommender, release, store) -> int:
    precompute(recommender, USERS, k=12, as_of_ms=release.as_of_ms)
    return release.as_of_ms


def test_a_precomputed_slate_is_the_online_one_of_its_moment(recommender, as_of_ms, release):
    for user in USERS:
        online = recommender.recommend(Request(f"batch-{release.id}-{as_of_ms}-{user}", user, 12, as_of_ms))
        kept = precomputed(recommender, Request("later", user, 5, as_of_ms + 1_000))
        assert (kept.mode, kept.as_of_ms, kept.request.request_id) == ("precomputed", as_of_ms, "later")
        assert kept.ids == online.ids[:5]
        assert kept.explanations == online.explanations[:5]
        assert kept.sources == online.sources[:5]
        np.testing.assert_array_equal(kept.predictions, online.predictions[:5])
        np.testing.assert_array_equal(kept.slate.propensities, online.slate.propensities[:5])
        assert kept.funnel == {**online.funnel, "slate": 5}
        assert kept.removed == online.removed


def test_a_video_is_new_by_the_time_of_the_request(recommender, release, store):
    as_of_ms = int(np.sort(release.catalogue.upload_ms)[-20]) + 1_000  # soon after the upload of some
    precompute(recommender, USERS, k=40, as_of_ms=as_of_ms)
    found = {True: 0, False: 0}
    for user in USERS:
        for later_ms in (1_000, DAY_MS - 1_000):
            answer = precomputed(recommender, Request("q", user, 20, as_of_ms + later_ms))
            age_ms = as_of_ms + later_ms - release.catalogue.upload_ms[answer.rows]
            for sentences, is_new in zip(answer.explanations, (age_ms <= DAY_MS).tolist(), strict=True):
                assert (NEW in sentences) == is_new
                assert sentences
                found[is_new] += later_ms > 1_000
    assert found[False]


def test_a_slate_that_does_not_hold_is_not_used(recommender, as_of_ms, release, store):
    request = Request("q", 105, 12, as_of_ms + 1)
    assert precomputed(recommender, request) is not None
    assert precomputed(recommender, replace(request, user_id=999)) is None
    assert precomputed(recommender, replace(request, k=13)) is None
    assert precomputed(recommender, replace(request, region="de")) is None
    assert precomputed(recommender, replace(request, as_of_ms=as_of_ms + DAY_MS + 1)) is None
    assert precomputed(recommender, replace(request, as_of_ms=as_of_ms - 1)) is None
    other = replace(release, manifest={**release.manifest, "id": "other"})
    assert precomputed(Recommender(other, store), request) is None


def test_a_video_left_midway_is_kept_until_it_is_watched_on(recommender, release, store):
    catalogue, as_of_ms = release.catalogue, release.as_of_ms + 10
    allowed = (catalogue.safety == 0) & (catalogue.regions == 0) & (catalogue.fingerprints == 0)
    row = np.flatnonzero(allowed & (catalogue.duration_ms > 20_000) & (catalogue.upload_ms < release.as_of_ms))[0]
    about = {"kind": "outcome", "user_id": 105, "video_id": release.video_ids.value(row), "watch_ms": 5_000}
    store.apply([Event(known_at=as_of_ms - 1, **about)])
    precompute(recommender, [105], k=90, as_of_ms=as_of_ms)
    whole = recommender.recommend(Request(f"batch-{release.id}-{as_of_ms}-105", 105, 90, as_of_ms))
    request = Request("q", 105, len(whole.ids), as_of_ms + 10)
    assert row in precomputed(recommender, request).rows
    store.apply([Event(known_at=as_of_ms + 1, **about)])
    assert precomputed(recommender, request) is None  # one is missing
    assert row not in precomputed(recommender, replace(request, k=len(whole.ids) - 1)).rows


def test_videos_watched_or_withdrawn_since_are_left_out(recommender, as_of_ms, store):
    request = Request("q", 105, 5, as_of_ms + 10)
    first, second, *_ = precomputed(recommender, request).ids
    store.apply(
        [
            Event(kind="outcome", user_id=105, video_id=first, known_at=as_of_ms + 1, watch_ms=1_000),
            Event(kind="withdrawn", user_id="", video_id=second, known_at=as_of_ms + 1),
        ]
    )
    kept = precomputed(recommender, request)
    assert len(kept.ids) == 5
    assert not {first, second} & set(kept.ids)
    assert precomputed(recommender, replace(request, k=11)) is None


def test_copies_and_videos_whose_upload_was_put_off_are_left_out(recommender, as_of_ms, store, release):
    """As in a slate of now: a copy of another one, a copy of what was watched since, and a date of publication to come."""
    request = Request("q", 105, 4, as_of_ms + 10)
    ids = precomputed(recommender, request).ids
    slate, seen = precomputed(recommender, replace(request, k=12)).rows, store.stored(105)[1].rows
    other = release.video_ids.value(int(np.setdiff1d(np.arange(len(release.catalogue)), [*slate, *seen])[0]))
    changes = {ids[0]: {"fingerprint": 901}, ids[1]: {"fingerprint": 901}, ids[2]: {"fingerprint": 902}}
    changes |= {other: {"fingerprint": 902}, ids[3]: {"upload_ms": as_of_ms + 60_000}}
    about = {"user_id": "", "known_at": as_of_ms + 1}
    store.apply([Event(kind="changed", video_id=each, metadata=metadata, **about) for each, metadata in changes.items()])
    kept = precomputed(recommender, request).ids
    assert {*ids} & {*kept} == {ids[0], ids[2]}
    store.apply([Event(kind="outcome", user_id=105, video_id=other, known_at=as_of_ms + 2, watch_ms=60_000)])
    kept = precomputed(recommender, request).ids
    assert {*ids} & {*kept} == {ids[0]}
    later = precomputed(recommender, replace(request, as_of_ms=as_of_ms + 60_000)).ids
    assert {*ids} & {*later} == {ids[0], ids[3]}
    online = {*recommender.recommend(replace(request, k=12)).ids}
    assert len({ids[0], ids[1]} & online) < 2
    assert not {ids[2], ids[3]} & online


def test_what_is_left_of_a_slate_names_the_soft_rules_that_it_does_not_keep(release, store):
    """Where videos in between were watched, a window closes up: counted here by hand, for slates that were whole."""
    config = release.reranker.to_config()
    config["rules"] = {"seen": {"continued": 0}, "creator_window": {"most": 1, "slots": 5}}
    windowed = replace(release, reranker=Reranker.from_config(config))
    recommender, named = Recommender(windowed, store), []
    users, creators = release.user_ids.ids.tolist(), np.asarray(release.catalogue.creator_rows)
    precompute(recommender, users, k=40, as_of_ms=release.as_of_ms)
    for user in users:
        request = Request("q", user, 20, release.as_of_ms + 10)
        whole = precomputed(recommender, request)
        assert ("creator_window" in whole.slate.bent) == (repeats(creators[whole.rows]) > 0)
        watched = {"kind": "outcome", "user_id": user, "known_at": release.as_of_ms + 1, "watch_ms": 60_000}
        store.apply([Event(video_id=whole.ids[at], **watched) for at in (1, 2, 4, 7, 8, 11)])
        part = precomputed(recommender, request)
        assert ("creator_window" in part.slate.bent) == (repeats(creators[part.rows]) > 0)
        named.append((whole.slate.bent, part.slate.bent))
    assert ((), ("creator_window",)) in named
    assert ((), ()) in named


def repeats(creators: np.ndarray) -> int:
    """Return how many videos have the creator of one of the four before."""
    return sum(creator >= 0 and creator in creators[max(0, at - 4) : at] for at, creator in enumerate(creators))


def test_precomputing_counts_nothing_as_shown(recommender, as_of_ms, store, release):
    assert store.position == 0
    np.testing.assert_array_equal(store.videos, release.state.videos)

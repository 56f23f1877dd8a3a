"""Videos that are posted, changed and withdrawn: store, sources and rules see them at once, and after a restart."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from batches import precompute
from watchnext.features.catalogue import Ids
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.live_videos import CatalogueFullError
from watchnext.serving.store.tables.retention import ACCEPTED, CREATED, UNKNOWN, Bounds
from watchnext.types import Request

NEWCOMER = 734_281_569
HOUR_MS = 3_600_000
METADATA = {
    "creator_id": "c3",
    "duration_ms": 30_000,
    "tags": ["tag1", "tag2", "a new tag"],
    "language": "de",
    "vector": [0.5] * 16,
}


@pytest.fixture
def now(release) -> int:
    return release.as_of_ms


def event(kind: str, video_id, known_at: int, **metadata) -> Event:
    return Event(kind=kind, user_id="", video_id=video_id, known_at=known_at, metadata=metadata or None)


def posted(video_id, now: int, **metadata) -> Event:
    return event("posted", video_id, now, **{"upload_ms": now, **METADATA, **metadata})


def outcome(video_id, known_at: int, user_id: int = 101, **fields) -> Event:
    return Event(kind="outcome", user_id=user_id, video_id=video_id, known_at=known_at, **{"watch_ms": 20_000, **fields})


def request(now: int, k: int = 20, region: str | None = "de", **fields) -> Request:
    return Request("a", NEWCOMER, k, now, "home", region, **fields)


def row_of(store: Store, video_id) -> int:
    return int(store.catalogue.ids.rows([video_id])[0])


def sources_naming(recommender: Recommender, row: int, asked: Request) -> set[str]:
    return {name for name, rows in recommender.by_source(asked, 500).items() if row in rows}


# ---- post --------------------------------------------------------------------------------------------------------------


def test_a_posted_video_is_fresh_and_near_at_once(release, store, now):
    recommender = Recommender(release, store)
    before = recommender.recommend(request(now + 1))
    assert store.apply([posted("new", now + 2)]) == [CREATED]
    row = row_of(store, "new")
    assert row == len(release.catalogue)
    assert row not in before.rows
    assert {"two_tower", "fresh"} <= sources_naming(recommender, row, request(now + 600))
    answer = recommender.recommend(request(now + 600, k=100))
    assert "new" in answer.ids
    assert answer.features["duration_ms"].shape == (len(answer.ids),)


def test_a_posted_video_has_its_own_counters_and_those_of_its_creator(release, store, now):
    store.apply([posted("new", now + 1, creator_id="nobody before")])
    store.apply([outcome("new", now + 2, long_view=True, click=True)])
    row, state = row_of(store, "new"), store.viewer(101)
    record = store.video_records(np.array([row]))[0]
    assert record[0] == now + 2
    counters = store.counters(state, np.array([row]), now + 2.0)[0]
    np.testing.assert_array_equal(counters[0], record[1:])
    np.testing.assert_array_equal(counters[1], counters[0])  # its creator has this video alone
    recommender = Recommender(release, store)
    query = recommender.query(Request("a", 101, 5, now + 3))
    assert (query.history_rows[0], row in query.seen) == (row, True)
    assert row not in recommender.recommend(Request("a", 101, 20, now + 3)).rows


def test_the_first_upload_of_a_creator_is_known(release, store, now):
    of_release = release.catalogue.upload_ms[release.catalogue.creator_rows == release.catalogue.creator_rows[0]].min()
    known = str(release.catalogue.creator_names[release.catalogue.creator_rows[0]])
    store.apply([posted("b", now + 1, creator_id="new creator", upload_ms=now - 5)])
    store.apply([posted("a", now + 1, creator_id="new creator", upload_ms=now - 9), posted("c", now + 1, creator_id=known)])
    first, creators = store.catalogue.first_upload_ms, store.catalogue.creator_rows
    assert first[creators[row_of(store, "b")]] == now - 9
    assert first[creators[row_of(store, "c")]] == of_release


def test_the_language_of_a_video_is_known(release, store, built, now):
    store.apply([posted("new", now + 1, language="de"), posted("none", now + 1, language=None)])
    languages = {code: name for name, code in store.catalogue.languages.items()}
    rows = np.append(np.arange(30), [row_of(store, "new"), row_of(store, "none")])
    by_id = dict(zip(built[1].videos["video_id"], built[1].videos["language"], strict=True)) | {"new": "de", "none": None}
    named = [languages.get(code) for code in store.catalogue.language_codes(rows).tolist()]
    assert named == [by_id[store.catalogue.ids.value(row)] for row in rows.tolist()]


def test_followers_of_a_creator_get_the_posted_video(release, store, now):
    store.apply([posted("first", now + 1, creator_id="new creator")])
    store.apply([outcome("first", now + 2, long_view=True, follow=True)])
    store.apply([posted("second", now + 3, creator_id="new creator"), posted("other", now + 3, creator_id="c4")])
    source = Recommender(release, store).by_source(Request("a", 101, 20, now + 4))["followed"]
    assert row_of(store, "second") in source
    assert row_of(store, "other") not in source


def test_a_video_is_not_shown_before_its_upload_time(release, store, now):
    store.apply([posted("later", now + 1, upload_ms=now + HOUR_MS)])
    recommender, row = Recommender(release, store), row_of(store, "later")
    assert sources_naming(recommender, row, request(now + HOUR_MS)) <= {"two_tower"}  # as of this moment it is uploaded
    assert not sources_naming(recommender, row, request(now + HOUR_MS - 1))
    assert {"two_tower", "fresh"} <= sources_naming(recommender, row, request(now + HOUR_MS + 1))


@pytest.mark.parametrize(
    ("metadata", "region", "allowed"),
    [
        ({"safety": "mature"}, "de", False),
        ({"regions": ["fr"]}, "de", False),
        ({"regions": ["de", "fr"]}, "de", True),
        ({"regions": ["atlantis"]}, "atlantis", True),
        ({"regions": ["atlantis"]}, None, False),
    ],
)
def test_rules_hold_for_posted_videos(release, store, now, metadata, region, allowed):
    recommender = Recommender(release, store)
    recommender.recommend(request(now + 1, region=region))  # masks are made before
    store.apply([posted("new", now + 2, **metadata)])
    row, asked = row_of(store, "new"), request(now + 600, k=100, region=region)
    assert ("two_tower" in sources_naming(recommender, row, asked)) == allowed
    assert ("new" in recommender.recommend(asked).ids) == allowed
    assert (row in recommender.rank_given(asked, np.array([row])).rows) == allowed


def test_copies_are_known_among_posted_videos_and_those_of_the_release(release, store, now):
    original = int(np.flatnonzero((release.catalogue.safety == 0) & (release.catalogue.regions == 0))[0])
    store.apply([event("changed", release.video_ids.value(original), now + 1, fingerprint=77)])
    store.apply([posted("copy", now + 2, fingerprint=77), posted("again", now + 2, fingerprint=77)])
    prefilter = Recommender(release, store).retrieval.sources["two_tower"].prefilter
    copies = [original, row_of(store, "copy"), row_of(store, "again")]
    assert prefilter.without_copies(np.array(copies)).tolist() == [0]
    store.apply([outcome("copy", now + 3)])
    query = Recommender(release, store).query(Request("a", 101, 5, now + 4))
    assert not prefilter.of(query, unavailable=store.unavailable).of(np.array(copies)).any()


def test_a_posted_video_is_a_seed_and_is_similar_to_what_it_is_like(release, store, now):
    row = int(np.flatnonzero((release.catalogue.safety == 0) & (release.catalogue.regions == 0))[3])
    catalogue = release.catalogue
    tags = [str(catalogue.tag_names[tag]) for tag in catalogue.tag_rows[row] if tag >= 0]
    store.apply([posted("new", now + 1, tags=tags, vector=catalogue.vectors[row].tolist())])
    recommender, new = Recommender(release, store), row_of(store, "new")
    asked = Request("similar", "", 10, now + 2, personalised=False)
    assert len(recommender.similar(asked, new)) == 10
    store.apply([outcome("new", now + 3, user_id=user, long_view=True) for user in range(100, 110)])
    assert new in recommender.trending(replace(asked, as_of_ms=now + 4))


def test_it_is_encoded_as_the_feature_stage_encodes_the_same_video(release, store, built, now):
    """All of a video of the log but its id."""
    videos = built[1].videos
    for given in videos.head(30).iter_rows(named=True):
        metadata = {name: value for name, value in given.items() if name != "video_id"}
        store.apply([event("posted", f"copy of {given['video_id']}", now + 1, **metadata)])
        row, of_log = row_of(store, f"copy of {given['video_id']}"), release.video_ids.rows([given["video_id"]])
        for name, values in release.videos.items():
            expected = np.array(values[of_log])
            if name == "video_codes":
                expected[:, release.pipeline.sizes.video_id] = 0
            np.testing.assert_array_equal(store.catalogue.inputs[name][np.array([row])], expected)
        for name in ("creator_rows", "tag_rows", "duration_ms", "upload_ms", "regions", "safety", "fingerprints"):
            np.testing.assert_array_equal(getattr(store.catalogue, name)[row], getattr(release.catalogue, name)[of_log[0]])


# ---- change ------------------------------------------------------------------------------------------------------------


def test_a_change_replaces_what_it_names_alone(release, store, now):
    video_id = release.video_ids.value(7)
    before = {name: np.array(values[np.array([7])]) for name, values in store.catalogue.inputs.items()}
    vector = store.catalogue.index.vector(7)
    store.apply([event("changed", video_id, now + 1, duration_ms=61_500, regions=["de"])])
    catalogue, rows = store.catalogue, np.array([7])
    assert (catalogue.duration_ms[7], catalogue.regions[7]) == (61_500, 1 << catalogue.region_bits["de"])
    for name in ("video_codes", "video_tags", "video_vector"):
        np.testing.assert_array_equal(catalogue.inputs[name][rows], before[name])
    assert catalogue.inputs["video_duration_s"][rows] == 61.5
    assert catalogue.creator_rows[7] == release.catalogue.creator_rows[7]
    assert not (catalogue.index.vector(7) == vector).all()  # the length is content
    store.apply([event("changed", video_id, now + 2, language="en")])
    assert catalogue.duration_ms[7] == 61_500
    others = np.setdiff1d(np.arange(len(release.catalogue)), rows)
    for name, values in release.videos.items():
        np.testing.assert_array_equal(catalogue.inputs[name][others], values[others])


def test_a_change_of_a_rule_reaches_searches_and_precomputed_slates(release, store, now):
    recommender = Recommender(release, store)
    user = release.user_ids.value(3)
    precompute(recommender, [user], k=20, as_of_ms=now + 1)
    asked = Request("a", user, 5, now + 2)
    first = precomputed(recommender, asked).ids[0]
    store.apply([event("changed", first, now + 3, safety="unsafe")])
    asked = replace(asked, as_of_ms=now + 4)
    assert first not in precomputed(recommender, asked).ids
    row = row_of(store, first)
    assert "two_tower" not in sources_naming(recommender, row, asked)
    assert first not in recommender.recommend(replace(asked, k=100)).ids


def test_a_video_that_nobody_posted_cannot_be_changed(store, now):
    assert store.apply([event("changed", "nothing", now, safety="safe"), posted("new", now)]) == [UNKNOWN, CREATED]
    assert [each.kind for each in store.journal()] == ["posted"]


# ---- withdraw ----------------------------------------------------------------------------------------------------------


def test_a_withdrawn_video_is_gone_and_comes_back(release, store, now):
    recommender = Recommender(release, store)
    store.apply([posted("new", now + 1)])
    store.apply([event("withdrawn", "new", now + 2)])
    row = row_of(store, "new")
    assert "new" not in recommender.recommend(request(now + 600, k=100)).ids
    assert not recommender.rank_given(request(now + 600), np.array([row])).ids
    assert store.apply([outcome("new", now + 601)]) == [ACCEPTED]  # whoever watches it still, did
    store.apply([event("restored", "new", now + 602)])
    assert "new" in recommender.recommend(request(now + 1200, k=100)).ids
    store.apply([event("withdrawn", "new", now + 1201)])
    store.apply([posted("new", now + 1202)])
    assert "new" in recommender.recommend(request(now + 1800, k=100)).ids


# ---- last --------------------------------------------------------------------------------------------------------------


def everything(store: Store, rows: np.ndarray) -> dict[str, bytes]:
    catalogue = store.catalogue
    columns = ("creator_rows", "tag_rows", "duration_ms", "upload_ms", "regions", "safety", "fingerprints", "vectors")
    values = {name: getattr(catalogue, name)[rows] for name in columns}
    values |= {name: column[rows] for name, column in catalogue.inputs.items()}
    values |= {"videos": store.videos[rows], "creators": store.creators, "unavailable": store.unavailable}
    values |= {"vectors of towers": np.concatenate([catalogue.index.vector(row) for row in rows.tolist()])}
    values |= {f"viewer {user}": store.viewer(user) for user in range(100, 110)}
    return {name: value.tobytes() for name, value in values.items()}


def history(release, now: int) -> list[list[Event]]:
    """Calls that touch all there is."""
    known = release.video_ids.value(5)
    return [
        [posted("a", now + 1, creator_id="x", regions=["atlantis"]), posted("b", now + 1)],
        [outcome("a", now + 2, long_view=True), outcome("b", now + 2, user_id=102), outcome(known, now + 3)],
        [event("changed", "a", now + 4, creator_id="y", tags=["t"]), event("changed", known, now + 4, duration_ms=15_000)],
        [outcome("a", now + 5, user_id=103, like=True), outcome(known, now + 6, user_id=104)],
        [event("withdrawn", "b", now + 7)],
        [posted("c", now + 8, creator_id="x", tags=["t", "tag1"]), event("withdrawn", known, now + 8)],
        [outcome("c", now + 9, user_id=105)],
    ]


def test_all_of_it_survives_a_restart_and_a_rebuild(release, tmp_path, now):
    folder = tmp_path / "store"
    with closing(Store.open(folder, release)) as store:
        for call in history(release, now):
            store.apply(call)
        rows = np.array([5, *range(len(release.catalogue), len(store.catalogue))])
        before = everything(store, rows)
        assert store.unavailable[rows].tolist() == [True, False, True, False]
    with closing(Store.open(folder, release)) as store:
        assert everything(store, rows) == before
    build_store(folder, release)
    with closing(Store.open(folder, release)) as store:
        assert everything(store, rows) == before


def test_a_release_that_knows_a_posted_video_has_the_last_word(release, tmp_path, now):
    """It holds what was posted before its `as_of`; later changes are on top."""
    folder = tmp_path / "store"
    known, changed = release.video_ids.value(5), release.video_ids.value(6)
    with closing(Store.open(folder, release)) as store:
        store.apply([event("changed", known, now - 1, duration_ms=1_234), event("changed", changed, now, duration_ms=1_234)])
    with closing(Store.open(folder, release)) as store:
        assert store.catalogue.duration_ms[[5, 6]].tolist() == [release.catalogue.duration_ms[5], 1_234]
        store.apply([event("changed", known, now + 1, safety="mature")])
        assert store.catalogue.duration_ms[5] == release.catalogue.duration_ms[5]


def test_the_live_path_and_a_release_with_the_video_agree_bit_by_bit(release, tmp_path, now):
    """A release whose catalogue ends with the posted video has the same rows, and so the same state."""
    with closing(Store.open(tmp_path / "live", release, durable=False)) as live:
        live.apply([posted("zz", now + 1)])
        live.apply(events := [outcome("zz", now + 2 + i, user_id=101 + i, long_view=True) for i in range(5)])
        catalogue = live.catalogue.merged()
        inputs = {name: column[np.append(np.arange(len(catalogue)), -1)] for name, column in live.catalogue.inputs.items()}
        state = replace(release.state, videos=live.videos * 0, creators=live.creators * 0)
        state.videos[: len(release.catalogue)], state.creators[:] = release.state.videos, release.state.creators
        larger = replace(
            release,
            catalogue=catalogue,
            video_ids=Ids(catalogue.video_ids),
            videos=inputs,
            state=state,
            manifest={**release.manifest, "id": "larger"},
        )
        with closing(Store.open(tmp_path / "released", larger, durable=False)) as of_release:
            of_release.apply(events)
            assert of_release.videos.tobytes() == live.videos.tobytes()
            assert of_release.creators.tobytes() == live.creators.tobytes()
            for user in range(101, 106):
                assert of_release.viewer(user).tobytes() == live.viewer(user).tobytes()


# ---- bounds ------------------------------------------------------------------------------------------------------------


def test_a_full_catalogue_refuses_and_keeps_what_it_has(release, tmp_path, now):
    with closing(Store.open(tmp_path / "store", release, bounds=Bounds(live_videos=2))) as store:
        store.apply([posted("a", now), posted("b", now)])
        with pytest.raises(CatalogueFullError, match="WATCHNEXT_LIVE_VIDEOS"):
            store.apply([posted("c", now, creator_id="never stored")])
        assert (store.failed, len(store.catalogue)) == (None, len(release.catalogue) + 2)
        assert "never stored" not in store.catalogue.creator_names.rows
        store.apply([event("changed", "a", now + 1, creator_id="y")])
    with closing(Store.open(tmp_path / "store", release, bounds=Bounds(live_videos=1))) as store:
        assert len(store.catalogue) == len(release.catalogue) + 2  # a smaller bound loses nothing

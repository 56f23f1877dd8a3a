"""Every source against its contract and a slow oracle, on random catalogues; then each one's own cases by hand."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from benchmarks.leave_one_out.graph import GraphSource
from benchmarks.leave_one_out.protocol import Sequences

from queries import query_of
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.retrieval.sources.co_watch import CoWatchSource
from watchnext.retrieval.sources.source import (
    CandidateSource,
    ContinueSource,
    FollowedSource,
    FreshSource,
    distinct,
    eligible,
    ranked,
    slot_of,
)
from watchnext.retrieval.sources.trending import Trending, TrendingCounts, TrendingSource
from watchnext.schema import StateSpec
from watchnext.types import Query

HOUR = 3_600_000.0
NOW = 1_000 * HOUR
STATE = StateSpec(counts=("impression", "long_view"), half_lives_h=(1.0, 4.0))
VIDEOS, CREATORS = 60, 9
GRAPH = {"window": 3, "distance_power": 0.5, "backward": 0.2, "source_power": 0.4, "target_power": 0.0, "neighbours": 8,
         "last": 4, "decay": 0.7}  # fmt: skip


@dataclass
class Catalogue:
    upload_ms: np.ndarray
    creator_rows: np.ndarray
    duration_ms: np.ndarray
    videos: np.ndarray


def catalogue_of(random, n: int = VIDEOS) -> Catalogue:
    videos = np.zeros((n, 5))
    videos[:, 0] = np.where(random.random(n) < 0.2, 0.0, NOW - random.integers(0, 9, n) * HOUR)
    videos[:, 1:] = random.uniform(0, 9, (n, 4)) * (videos[:, :1] > 0)
    upload_ms = NOW - random.integers(-8, 30, n) * HOUR  # some at the very moment, some still to come
    return Catalogue(
        upload_ms=np.where(random.random(n) < 0.1, np.nan, upload_ms),
        creator_rows=random.integers(-1, CREATORS, n).astype(np.int32),
        duration_ms=np.where(random.random(n) < 0.1, np.nan, random.integers(10, 60, n) * 1000.0),
        videos=videos,
    )


def asked_of(random) -> Query:
    watches = random.integers(0, 12)
    creators = random.permutation(CREATORS + 2)[: random.integers(0, 5)]  # some have no video
    return query_of(
        as_of_ms=NOW,
        surface=random.choice(["home", "next", "moon", None]),
        region=random.choice(["de", "fr", "mars", None]),
        history_rows=random.integers(0, 15, watches),
        ago_s=np.sort(random.integers(0, 72, watches) * 3600.0),
        watch_s=random.choice([0.0, *random.integers(1, 60, 4)], watches),
        bits=random.integers(0, 128, watches),
        creators=creators,
        engagement=random.integers(0, 4, len(creators)).astype(np.float64),
    )


@dataclass
class Case:
    """A source, and the slow way to all that it may name, best first."""

    source: CandidateSource
    oracle: Callable[[Query], list[int]]


def fresh_source(upload_ms, videos, **settings) -> FreshSource:
    return FreshSource(upload_ms=upload_ms, videos=lambda: videos, state=STATE, **settings)


def fresh(random, catalogue) -> Case:
    source = fresh_source(catalogue.upload_ms, catalogue.videos, max_age_h=10.0, min_impressions=3.0, refresh_s=0.0)

    def oracle(asked):
        there = [row for row in range(VIDEOS) if catalogue.upload_ms[row] < NOW]
        shown = {row: catalogue.videos[row, 2] * 0.5 ** ((NOW - catalogue.videos[row, 0]) / HOUR / 4) for row in there}
        young = [row for row in there if catalogue.upload_ms[row] >= NOW - 10 * HOUR and shown[row] < 3]
        newest = sorted(there, key=lambda row: (-catalogue.upload_ms[row], -row))
        first = sorted(young, key=lambda row: (shown[row], newest.index(row)))
        return first + [row for row in newest if row not in first]

    return Case(source, oracle)


def followed(random, catalogue) -> Case:
    source = FollowedSource(creator_rows=catalogue.creator_rows, upload_ms=catalogue.upload_ms, per_creator=2, creators=3)

    def oracle(asked):
        by_follow = [catalogue.creator_rows[row] for row, bits in zip(asked.history_rows, asked.bits, strict=True) if bits & 16]
        liked = sorted(zip(-asked.engagement, range(len(asked.creators)), strict=True))
        by_liking = [asked.creators[i] for value, i in liked if value < 0]
        chosen = list(dict.fromkeys(c for c in [*by_follow, *by_liking] if c >= 0))[:3]
        rows = []
        for creator in chosen:
            mine = [r for r in range(VIDEOS) if catalogue.creator_rows[r] == creator and catalogue.upload_ms[r] < NOW]
            rows += sorted(mine, key=lambda row: (-catalogue.upload_ms[row], row))[:2]
        return sorted(rows, key=lambda row: (-catalogue.upload_ms[row], row))

    return Case(source, oracle)


def continued(random, catalogue) -> Case:
    source = ContinueSource(duration_ms=catalogue.duration_ms, min_s=5.0, max_share=0.7, max_age_h=24.0)

    def oracle(asked):
        hidden = [row for row, bits in zip(asked.history_rows, asked.bits, strict=True) if bits & OUTCOME_BITS["hide"]]
        found, known = [], set()
        for row, ago_s, watch_s in zip(asked.history_rows, asked.ago_s, asked.watch_s, strict=True):
            midway = 5 <= watch_s < 0.7 * catalogue.duration_ms[row] / 1000
            if row not in known and midway and ago_s <= 24 * 3600 and row not in hidden:
                found.append(row)
            if watch_s:
                known.add(row)
        return found

    return Case(source, oracle)


def walk(random, catalogue) -> Case:
    viewers = [random.integers(0, VIDEOS - 5, size).tolist() for size in (0, 3, 20, 40)]
    graph = GraphSource(**GRAPH).fit(Sequences.of(viewers, VIDEOS))
    source = CoWatchSource(edges=graph.edges, last=GRAPH["last"], decay=GRAPH["decay"])

    def oracle(asked):
        watched = list(dict.fromkeys(asked.history_rows[asked.watch_s > 0].tolist()))[:4]
        scores = graph.scores(np.array(watched[::-1], np.int64))
        named = [row for row in np.flatnonzero(scores) if row not in watched]
        return sorted(named, key=lambda row: (-round(scores[row], 12), row))

    return Case(source, oracle)


def trending(random, catalogue) -> Case:
    counted = TrendingCounts.nothing(regions=["de", "fr"], segments=[("home", "de"), ("next", "fr")], videos=VIDEOS,
                              landmark_ms=NOW - 50 * HOUR, half_life_h=5.0)  # fmt: skip
    counts, events = Trending(counted), []
    for _ in range(200):
        where = random.choice(["home", "next", "other"]), random.choice(["de", "fr", "br"])
        events.append((int(random.integers(0, 20)), NOW - float(random.uniform(1, 60)) * HOUR, where))
    rows, times, places = zip(*events, strict=True)
    counts.count(np.array(rows), np.array(times), counts.lines(places))
    source = TrendingSource(trending=counts, prior=4.0, refresh_s=0.0)

    def oracle(asked):
        def shares(kept, above, prior):
            own = dict.fromkeys(range(VIDEOS), 0.0)
            for row, at, place in events:
                if kept(place):
                    own[row] += 0.5 ** ((NOW - at) / HOUR / 5)
            total = sum(own.values()) + prior
            return {row: (own[row] + prior * above.get(row, 0.0)) / total for row in own}

        found = shares(lambda place: True, {}, 0.0)
        if asked.region in ("de", "fr"):
            found = shares(lambda place: place[1] == asked.region, found, 4.0)
        if (asked.request.surface, asked.region) in (("home", "de"), ("next", "fr")):
            found = shares(lambda place: place == (asked.request.surface, asked.region), found, 4.0)
        return sorted((row for row in found if found[row] > 0), key=lambda row: (-found[row], row))

    return Case(source, oracle)


@pytest.mark.parametrize("make", [fresh, followed, continued, walk, trending])
@pytest.mark.parametrize("seed", range(6))
def test_every_source_names_the_best_of_what_the_slow_way_names(make, seed):
    random = np.random.default_rng(seed)
    catalogue = catalogue_of(random)
    case = make(random, catalogue)
    for _ in range(5):
        asked = asked_of(random)
        wanted = case.oracle(asked)
        for k in (0, 1, 4, 1000):
            rows = case.source.candidates(asked, k)
            assert rows.dtype.kind == "i"
            assert rows.tolist() == wanted[:k]
            assert len(set(rows.tolist())) == len(rows)


@pytest.mark.parametrize("make", [followed, continued, walk])
def test_a_viewer_without_a_past_is_named_nothing_by_sources_of_the_past(make):
    random = np.random.default_rng(0)
    catalogue = catalogue_of(random)
    assert make(random, catalogue).source.candidates(query_of(as_of_ms=NOW), 10).tolist() == []


def test_an_empty_catalogue_has_no_candidates():
    none, asked = np.zeros(0), query_of(as_of_ms=NOW)
    counted = TrendingCounts.nothing(regions=[], segments=[], videos=0, landmark_ms=NOW, half_life_h=1.0)
    edges = GraphSource(**GRAPH).fit(Sequences.of([], 0)).edges
    for source in (
        fresh_source(none, np.zeros((0, 5)), max_age_h=1.0, min_impressions=1.0, refresh_s=1.0),
        FollowedSource(creator_rows=none.astype(np.int32), upload_ms=none, per_creator=1, creators=1),
        ContinueSource(duration_ms=none, min_s=1.0, max_share=0.5, max_age_h=1.0),
        TrendingSource(trending=Trending(counted), prior=1.0, refresh_s=1.0),
        CoWatchSource(edges=edges, last=3, decay=0.5),
    ):
        assert source.candidates(asked, 5).tolist() == []


def test_nobody_is_followed_where_no_video_has_a_creator():
    source = FollowedSource(creator_rows=np.full(3, -1, np.int32), upload_ms=np.full(3, NOW - 1), per_creator=1, creators=1)
    one = {"history_rows": np.array([1]), "bits": np.array([OUTCOME_BITS["follow"]]), "creators": np.array([0])}
    watched = query_of(as_of_ms=NOW, **dict.fromkeys(("ago_s", "watch_s", "engagement"), np.ones(1)), **one)
    assert source.candidates(watched, 5).tolist() == []


def test_nothing_is_fresh_where_no_upload_time_is_known():
    source = fresh_source(np.full(3, np.nan), np.zeros((3, 5)), max_age_h=9.0, min_impressions=9.0, refresh_s=1.0)
    assert source.candidates(query_of(as_of_ms=NOW), 5).tolist() == []


def test_fresh_gives_a_new_upload_its_minimum_and_then_lets_it_age():
    upload_ms, videos = NOW - np.array([1.0, 2.0, 3.0, 30.0]) * HOUR, np.zeros((4, 5))
    videos[:, 0], videos[:, 2] = NOW, [5, 0, 4, 0]
    source = fresh_source(upload_ms, videos, max_age_h=24.0, min_impressions=5.0, refresh_s=60.0)
    rows = source.candidates(query_of(as_of_ms=NOW), 4)
    assert rows.tolist() == [1, 2, 0, 3]  # shown never, four times; enough; too old to be helped
    videos[1, 2] = 9
    assert source.candidates(query_of(as_of_ms=NOW + 59_999), 2).tolist() == [1, 2]
    assert source.candidates(query_of(as_of_ms=NOW + 60_000), 2).tolist() == [2, 0]
    videos[1, 2] = 0
    assert source.candidates(query_of(as_of_ms=NOW - 90 * 60_000.0), 2).tolist() == [1, 2]  # a replay that goes back


def test_eligible_takes_out_padding_the_future_and_the_seen_and_goes_on_behind_them():
    upload_ms = np.array([NOW + 1, NOW, np.nan, NOW + 1, 0.0, 0.0, 0.0])
    rows = np.array([0, -1, 1, 3, 2, 5, 6, 4])
    found = eligible(rows, 3, hidden=np.array([5]), upload_ms=upload_ms, as_of_ms=NOW)
    assert found.tolist() == [1, 2, 6]
    assert eligible(rows[:0], 3, hidden=np.array([5]), upload_ms=upload_ms, as_of_ms=NOW).tolist() == []


def test_distinct_keeps_the_first_of_each():
    assert distinct(np.array([4, 2, 4, 9, 2])).tolist() == [4, 2, 9]


@pytest.mark.parametrize(("count", "half_life_h"), [("like", 4.0), ("long_view", 2.0)])
def test_a_count_that_is_not_kept_is_named(count, half_life_h):
    with pytest.raises(ValueError, match=f"'{count}' at {half_life_h} h is not kept; the state has impression, long_view"):
        slot_of(STATE, count, half_life_h)
    assert slot_of(STATE, "long_view") == 3


@pytest.mark.parametrize("k", [0, 1, 3, 50, 200])
def test_ranked_is_the_beginning_of_a_full_sort(k):
    random = np.random.default_rng(0)
    rows, scores = random.permutation(100), random.integers(0, 9, 100).astype(np.float32)
    wanted = sorted(range(100), key=lambda place: (-scores[place], rows[place]))
    assert ranked(rows, scores, k).tolist() == wanted[:k]

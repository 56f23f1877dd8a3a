"""Popular and fresh videos by hand, and the merge of sources."""

import numpy as np
import pytest

from watchnext.retrieval.sources import FreshSource, PopularSource, merge
from watchnext.schema import StateSpec
from watchnext.types import SOURCES

HOUR = 3_600_000.0
STATE = StateSpec(counts=("impression", "click"), half_lives_h=(1.0, 4.0))
NOW = 1_000 * HOUR
# [last, impressions@1h, @4h, clicks@1h, @4h]: 8 clicks two half-lives ago, 3 just now, none, 2.5 half a life ago
VIDEOS = np.array([[NOW - 8 * HOUR, 90, 90, 0, 8], [NOW, 1, 1, 0, 3], [NOW, 99, 99, 9, 0], [NOW - 2 * HOUR, 0, 0, 0, 3.0]])
NEVER = np.zeros(9)
QUOTAS = {"two_tower": 3, "popular": 2, "fresh": 2}


def popular(refresh_s: float = 60.0) -> PopularSource:
    return PopularSource(state=STATE, count="click", half_life_h=4.0, refresh_s=refresh_s)


def test_popular_by_hand():
    rows, scores = popular().candidates(NOW, VIDEOS, 10)
    assert rows.tolist() == [1, 3, 0]  # nobody clicked video 2
    assert scores.tolist() == pytest.approx([3.0, 3.0 * 0.5**0.5, 2.0])
    assert popular().candidates(NOW, VIDEOS, 2)[0].tolist() == [1, 3]


def test_popular_ties_are_in_catalogue_order_and_nothing_comes_of_nothing():
    same = np.tile(VIDEOS[1], (4, 1))
    assert popular().candidates(NOW, same, 3)[0].tolist() == [0, 1, 2]
    rows, scores = popular().candidates(NOW, np.zeros((4, 5)), 3)
    assert len(rows) == len(scores) == 0


def test_popular_is_ranked_anew_after_its_time():
    source, after = popular(60.0), VIDEOS.copy()
    source.candidates(NOW, VIDEOS, 1)
    after[2, 4] = 50.0
    assert source.candidates(NOW + 59_999, after, 1)[0].tolist() == [1]
    assert source.candidates(NOW + 60_000, after, 1)[0].tolist() == [2]
    assert source.candidates(NOW, VIDEOS, 1)[0].tolist() == [1]  # a replay that goes back in time


def test_popular_without_waiting_is_always_ranked_anew():
    source, after = popular(0.0), VIDEOS.copy()
    source.candidates(NOW, VIDEOS, 1)
    after[2, 4] = 50.0
    assert source.candidates(NOW, after, 1)[0].tolist() == [2]


@pytest.mark.parametrize(("count", "half_life_h"), [("like", 4.0), ("click", 2.0)])
def test_popularity_that_is_not_kept_is_named(count, half_life_h):
    with pytest.raises(
        ValueError, match=f"popularity by '{count}' at {half_life_h} h is not kept; the state has impression, click"
    ):
        PopularSource(state=STATE, count=count, half_life_h=half_life_h, refresh_s=1.0)


def test_fresh_by_hand():
    source = FreshSource(upload_ms=np.array([NOW - HOUR, np.nan, NOW - 3 * HOUR, NOW, NOW + 1, NOW - 2 * HOUR]))
    rows, scores = source.candidates(NOW, VIDEOS, 2)
    assert rows.tolist() == [0, 5]
    assert scores.tolist() == [-1.0, -2.0]
    assert source.candidates(NOW, VIDEOS, 9)[0].tolist() == [0, 5, 2]
    assert source.candidates(NOW + 1, VIDEOS, 2)[0].tolist() == [3, 0]
    assert source.candidates(NOW - 9 * HOUR, VIDEOS, 2)[0].tolist() == []
    assert source.candidates(NOW, VIDEOS, 0)[0].tolist() == []


def test_nothing_is_fresh_where_no_upload_time_is_known():
    assert FreshSource(upload_ms=np.full(3, np.nan)).candidates(NOW, VIDEOS, 2)[0].tolist() == []


def found(rows, scores=None):
    return np.array(rows, np.int64), np.array(scores if scores is not None else np.arange(len(rows), 0, -1.0))


def test_merge_names_every_source_once_and_keeps_the_first_score():
    sources = {
        "two_tower": found([4, 2, 7], [0.9, 0.8, 0.7]),
        "popular": found([2, 5], [30, 20]),
        "fresh": found([5, 2], [-1, -2]),
    }
    merged = merge(sources, QUOTAS, upload_ms=NEVER, as_of_ms=NOW)
    assert merged.rows.tolist() == [4, 2, 7, 5]
    bits = {name: 1 << bit for bit, name in enumerate(SOURCES)}
    assert merged.sources.tolist() == [
        bits["two_tower"],
        bits["two_tower"] | bits["popular"] | bits["fresh"],
        bits["two_tower"],
        bits["popular"] | bits["fresh"],
    ]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 20.0])
    assert (merged.rows.dtype, merged.sources.dtype, merged.scores.dtype) == (np.int64, np.uint16, np.float32)


def test_merge_keeps_to_the_quotas():
    merged = merge({"two_tower": found([0, 1, 2, 3, 4]), "fresh": found([8, 7, 6])}, QUOTAS, upload_ms=NEVER, as_of_ms=NOW)
    assert merged.rows.tolist() == [0, 1, 2, 8, 7]


def test_merge_drops_padding_and_videos_of_the_future_and_goes_on_behind_them():
    upload_ms = NEVER.copy()
    upload_ms[[0, 3]] = NOW + 1
    upload_ms[1], upload_ms[2] = NOW, np.nan
    merged = merge({"two_tower": found([0, -1, 1, 3, 2, 5, 6])}, QUOTAS, upload_ms=upload_ms, as_of_ms=NOW)
    assert merged.rows.tolist() == [1, 2, 5]


def test_merge_of_nothing_is_no_candidate():
    for sources in ({}, {"popular": found([])}, {"two_tower": found([-1, -1])}):
        assert len(merge(sources, QUOTAS, upload_ms=NEVER, as_of_ms=NOW)) == 0

"""Trending by hand; against a slow oracle it stands in test_sources.py."""

import numpy as np
import pytest
from test_sources import HOUR, NOW

from queries import query_of
from watchnext.retrieval.sources.trending import FAR, Trending, TrendingCounts, TrendingSource


def query(as_of_ms: float = NOW, surface: str = "home"):
    return query_of(as_of_ms=as_of_ms, surface=surface, region="de")


def trending(half_life_h: float = 4.0) -> Trending:
    return Trending(
        TrendingCounts.nothing(
            regions=["de"], segments=[("home", "de"), ("home", "")], videos=4, landmark_ms=NOW, half_life_h=half_life_h
        )
    )


def count(counts: Trending, *events: tuple[int, float, str, str]) -> None:
    rows, times, *places = zip(*events, strict=True)
    counts.count(np.array(rows), np.array(times, np.float64), counts.lines(list(zip(*places, strict=True))))


def shares(counts: Trending, surface: str | None, region: str | None, prior: float = 0.0) -> list[float]:
    return counts.shares(counts.levels(surface, region), NOW, prior).tolist()


def test_shares_by_hand():
    counts = trending()
    count(counts, (0, NOW, "home", "de"), (1, NOW - 4 * HOUR, "home", "de"), (2, NOW, "next", "de"), (3, NOW, "home", "br"))
    assert shares(counts, None, None) == pytest.approx([1 / 3.5, 0.5 / 3.5, 1 / 3.5, 1 / 3.5])
    assert shares(counts, None, "de") == pytest.approx([1 / 2.5, 0.5 / 2.5, 1 / 2.5, 0])
    assert shares(counts, "home", "de") == pytest.approx([1 / 1.5, 0.5 / 1.5, 0, 0])
    everywhere = np.array([1, 0.5, 1, 1]) / 3.5
    region = (np.array([1, 0.5, 1, 0]) + 2 * everywhere) / 4.5
    assert shares(counts, "home", "de", prior=2.0) == pytest.approx((np.array([1, 0.5, 0, 0]) + 2 * region) / 3.5)


def test_names_that_have_no_line_are_answered_by_the_level_above():
    counts = trending()
    count(counts, (0, NOW, "home", "de"), (1, NOW, "moon", "de"), (2, NOW, "home", "mars"), (3, NOW, "", ""))
    assert shares(counts, "moon", "de") == shares(counts, None, "de") == pytest.approx([0.5, 0.5, 0, 0])
    assert shares(counts, "home", "mars") == shares(counts, None, None) == pytest.approx([0.25] * 4)


def test_a_surface_counts_by_itself_where_viewers_have_no_region():
    counts = trending()
    count(counts, (0, NOW, "home", ""), (1, NOW, "next", ""))
    assert shares(counts, "home", None) == pytest.approx([1, 0, 0, 0])


def test_without_recent_traffic_the_level_above_speaks():
    counts = trending()
    count(counts, (0, NOW - 80 * HOUR, "home", "de"), (1, NOW, "next", "br"))
    assert shares(counts, "home", "de", prior=1.0)[1] > 0.9


def test_late_events_count_what_they_would_have_by_now():
    counts, turned = trending(), trending()
    events = [(0, NOW, "home", "de"), (1, NOW - 9 * HOUR, "home", "de"), (1, NOW - 2 * HOUR, "home", "de")]
    count(counts, *events)
    count(turned, *events[::-1])
    assert shares(counts, "home", "de") == pytest.approx(shares(turned, "home", "de"))


def test_a_landmark_long_ago_moves_and_changes_no_share():
    counts, at = trending(1.0), NOW + 20 * FAR * HOUR
    for step in range(21):
        count(counts, (0, NOW + step * FAR * HOUR, "home", "de"))
    count(counts, (1, at, "home", "de"), (2, at - HOUR, "home", "de"))
    found = counts.shares(counts.levels("home", "de"), at, 0.0)
    assert np.isfinite(found).all()
    assert found.tolist() == pytest.approx([0.4, 0.4, 0.2, 0])


def test_saved_counts_are_carried_on():
    counts = trending()
    count(counts, (0, NOW, "home", "de"), (1, NOW - HOUR, "next", "br"))
    again = Trending(counts.counted())
    count(again, (2, NOW + HOUR, "home", "de"))
    count(counts, (2, NOW + HOUR, "home", "de"))
    assert shares(again, "home", "de", 1.0) == shares(counts, "home", "de", 1.0)


def test_a_ranking_is_made_anew_after_its_time():
    counts = trending()
    source = TrendingSource(trending=counts, prior=1.0, refresh_s=60.0)
    count(counts, (1, NOW, "home", "de"))
    assert source.candidates(query(), 5).tolist() == [1]
    count(counts, (2, NOW, "home", "de"), (2, NOW, "home", "de"))
    assert source.candidates(query(as_of_ms=NOW + 59_999), 5).tolist() == [1]
    assert source.candidates(query(surface="next"), 5).tolist() == [2, 1]  # another list has its own time
    assert source.candidates(query(as_of_ms=NOW + 60_000), 5).tolist() == [2, 1]
    assert source.candidates(query(as_of_ms=NOW - 1), 5).tolist() == [2, 1]  # a replay that goes back in time


def test_without_counts_nothing_trends():
    assert TrendingSource(trending=trending(), prior=1.0, refresh_s=60.0).candidates(query(), 5).tolist() == []


def test_a_refresh_ranks_every_surface_and_region_ahead_of_the_requests(monkeypatch):
    counts = trending()
    count(counts, (1, NOW, "home", "de"), (2, NOW, "next", "de"), (2, NOW, "next", "de"), (3, NOW, "home", ""))
    source, slow = (TrendingSource(trending=counts, prior=1.0, refresh_s=60.0) for _ in range(2))
    source.refresh(NOW)
    asked = [
        query_of(as_of_ms=NOW, surface=surface, region=region) for surface in ("home", "next") for region in ("de", "br", None)
    ]
    expected = [slow.candidates(each, 5).tolist() for each in asked]
    monkeypatch.setattr(Trending, "shares", None)  # no request may count
    assert [source.candidates(each, 5).tolist() for each in asked] == expected
    assert expected[0] != expected[3]

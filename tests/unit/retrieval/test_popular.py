"""Popular sources: decayed counts by hand, and which half-lives they have."""

import numpy as np
import pytest

from queries import query_of
from watchnext.features.state.fold import HOUR_MS
from watchnext.retrieval.sources.popular import PopularSource, half_lives_of
from watchnext.schema import StateSpec

STATE = StateSpec(counts=("impression", "long_view"), half_lives_h=(1.0, 24.0))
NOW = 100 * HOUR_MS


def records(*rows):
    """Counters (V, 5) of (last time in h, long views at both half-lives)."""
    return np.array([[hour * HOUR_MS, 9.0, 9.0, fast, slow] for hour, fast, slow in rows])


def source(videos, half_life_h, refresh_s=0.0):
    return PopularSource(videos=lambda: videos, state=STATE, count="long_view", half_life_h=half_life_h, refresh_s=refresh_s)


def test_counts_decay_to_the_time_of_the_request():
    videos = records((100, 1.0, 1.0), (98, 3.0, 3.0), (90, 8.0, 1.5), (100, 0.0, 0.0))
    query = query_of(as_of_ms=NOW)  # fast: 1, 0.75, 8/1024; slow: 1, 2.83, 1.12
    assert source(videos, 1.0).candidates(query, 9).tolist() == [0, 1, 2]
    assert source(videos, 24.0).candidates(query, 2).tolist() == [1, 2]


def test_a_ranking_stands_until_it_is_due_and_when_time_goes_back():
    videos = records((0, 2.0, 2.0), (0, 1.0, 1.0))
    popular = source(videos, 24.0, refresh_s=60.0)
    assert popular.candidates(query_of(as_of_ms=NOW), 1).tolist() == [0]
    videos[1, 4] = 5.0
    assert popular.candidates(query_of(as_of_ms=NOW + 59_000), 1).tolist() == [0]
    assert popular.candidates(query_of(as_of_ms=NOW + 60_000), 1).tolist() == [1]
    videos[1, 4] = 0.5
    assert popular.candidates(query_of(as_of_ms=NOW - 1), 1).tolist() == [0]


@pytest.mark.parametrize(
    ("half_lives", "expected"),
    [((1.0, 24.0, 168.0), (168.0, 24.0, 1.0)), ((72.0, 720.0), (720.0, 72.0, 72.0)), ((6.0,), (6.0, 6.0, 6.0))],
)
def test_half_lives_follow_the_state(half_lives, expected):
    assert tuple(half_lives_of(StateSpec(half_lives_h=half_lives)).values()) == expected

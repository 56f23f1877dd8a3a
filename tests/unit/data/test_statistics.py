import numpy as np
import polars as pl
import pytest

from watchnext.data.card.statistics import (
    RATIOS,
    outcome_rates,
    rate_spread,
    repeat_rate,
    session_share,
    watch_figures,
    watch_ratio_by_duration,
)
from watchnext.data.tables import OUTCOMES

MINUTE_MS = 60_000


@pytest.fixture
def impressions():
    """Two viewers; the first sees video 1 twice, within the half hour, and video 3 a day later."""
    columns = {
        "user_id": [1, 2, 1, 1],
        "video_id": [1, 2, 1, 3],
        "time_ms": [0, 5 * MINUTE_MS, 20 * MINUTE_MS, 1500 * MINUTE_MS],
        "watch_ms": [0, 30_000, 15_000, 5_000],
        **{name: [name == "click", name in ("click", "long_view"), False, False] for name in OUTCOMES},
    }
    return pl.DataFrame(columns).sample(fraction=1, shuffle=True, seed=1)


@pytest.fixture
def videos():
    return pl.DataFrame({"video_id": [1, 2, 3], "duration_ms": [10_000, 20_000, None]})


def test_rates_repeats_and_sessions_by_hand(impressions):
    assert outcome_rates(impressions) == {**dict.fromkeys(OUTCOMES, 0.0), "click": 0.5, "long_view": 0.25}
    assert repeat_rate(impressions) == 0.25
    assert session_share(impressions) == 0.5  # of the two that follow another one
    assert np.isnan(repeat_rate(impressions.clear()))


def test_watch_ratios_leave_unknown_durations_out(impressions, videos):
    figures = watch_figures(impressions, videos)
    assert figures["never started"] == pytest.approx(1 / 3)
    assert figures["watched beyond the end"] == pytest.approx(2 / 3)
    assert figures["mean watch in s"] == pytest.approx(15)
    curves = watch_ratio_by_duration(impressions, videos)
    assert curves["0-15 s"][[0, 40, 60, 61]].tolist() == [1, 0.5, 0.5, 0]
    assert RATIOS[[0, 40, 60]].tolist() == [0, 1, 1.5]
    assert curves["15-30 s"][60] == 1
    assert np.isnan(curves["30-60 s"]).all()


def test_the_spread_of_rates_leaves_chance_out():
    rng = np.random.default_rng(0)
    rate = np.repeat(np.where(np.arange(200) % 2, 0.4, 0.6), 100)
    frame = pl.DataFrame({"user_id": np.arange(20_000) // 100, "long_view": rng.random(20_000) < rate})
    assert rate_spread(frame, "user_id") == pytest.approx(0.1, abs=0.01)
    assert np.isnan(rate_spread(frame, "user_id", least=101))

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.data import behaviour
from watchnext.data.behaviour import Inclination
from watchnext.data.logging_policy import Seen, draw_slates
from watchnext.data.population import DAY_MS
from watchnext.data.tables import OUTCOMES
from watchnext.data.validation import validate
from watchnext.data.world import World
from watchnext.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[2]
SIZES = {"users": 300, "videos": 600, "creators": 60, "tags": 15, "days": 4, "impressions_per_user_day": 12.0}


@pytest.fixture(scope="module")
def world():
    return World(**SIZES, seed=5)


@pytest.fixture(scope="module")
def log(world):
    return world.log()


@pytest.fixture(scope="module")
def rows(world, log):
    """User rows, video rows and times of the impressions."""
    users = dict(zip(log.users["user_id"], range(log.users.height), strict=True))
    videos = dict(zip(log.videos["video_id"], range(log.videos.height), strict=True))
    user = log.impressions["user_id"].replace_strict(users).to_numpy()
    return user, log.impressions["video_id"].replace_strict(videos).to_numpy(), log.impressions["time_ms"].to_numpy()


def area_under_curve(hit: np.ndarray, score: np.ndarray) -> float:
    """By ranks (Mann-Whitney); scores are continuous, so ties do not matter."""
    ranks = np.empty(len(score))
    ranks[score.argsort()] = np.arange(1, len(score) + 1)
    positives = hit.sum()
    return (ranks[hit].sum() - positives * (positives + 1) / 2) / (positives * (len(hit) - positives))


def test_the_same_seed_gives_the_same_log_and_another_one_another(log):
    again = World(**SIZES, seed=5).log()
    assert again.impressions.equals(log.impressions)
    assert again.videos.equals(log.videos)
    assert not World(**SIZES, seed=6).log().impressions.equals(log.impressions)


def test_a_second_log_of_one_world_is_the_first_and_ignores_steps(world, log):
    world.step(0, np.arange(6), world.start_ms, "home")
    assert world.log().impressions.equals(log.impressions)


def test_the_log_is_canonical_and_sound(log):
    schema = FeatureSchema.load(ROOT / "conf" / "features" / "world.yaml")
    result = validate(log, schema)
    assert (result.rejected.height, dict(result.filled)) == (0, {})
    assert result.tables.impressions.equals(log.impressions)


def test_slates_have_six_to_ten_places_from_the_top(log):
    slates = log.impressions.group_by("request_id", maintain_order=True).agg("position", "user_id", "time_ms", "video_id")
    for positions, users, times, videos in slates.select("position", "user_id", "time_ms", "video_id").iter_rows():
        assert positions == list(range(len(positions)))
        assert 6 <= len(positions) <= 10
        assert (len(set(users)), len(set(times)), len(set(videos))) == (1, 1, len(videos))


def test_only_what_may_be_shown_is_shown(log):
    shown = log.impressions.join(log.videos, on="video_id").join(log.users, on="user_id")
    assert (shown["time_ms"] >= shown["upload_ms"]).all()
    assert "unsafe" in log.videos["safety"]
    assert "unsafe" not in shown["safety"]
    limited = shown.filter(pl.col("regions").is_not_null())
    assert limited.height > 0
    assert limited.select(pl.col("regions").list.contains(pl.col("region"))).to_series().all()


def test_repeats_are_rare_and_a_part_of_the_watches_is_empty_or_replayed(log):
    impressions = log.impressions.join(log.videos.select("video_id", "duration_ms"), on="video_id")
    assert impressions.select("user_id", "video_id").n_unique() > 0.98 * impressions.height
    assert 0.08 < (impressions["watch_ms"] == 0).mean() < 0.18
    assert 0.05 < (impressions["watch_ms"] > impressions["duration_ms"]).mean() < 0.35
    assert (impressions["received_ms"] >= impressions["time_ms"] + impressions["watch_ms"]).all()


def test_some_videos_copy_others_under_one_fingerprint(log):
    copies = (
        log.videos.group_by("fingerprint")
        .agg("creator_id", "upload_ms", "duration_ms")
        .filter(pl.col("upload_ms").list.len() > 1)
    )
    assert copies.height > 5
    assert copies["duration_ms"].list.n_unique().max() == 1
    assert copies["upload_ms"].list.n_unique().min() > 1


def test_the_truth_knows_the_log_better_than_popularity_does(world, log, rows):
    hit = log.impressions["long_view"].to_numpy()
    probability = world.truth(*rows).probability["long_view"]
    assert 0.75 < area_under_curve(hit, probability) < 0.88
    assert area_under_curve(hit, probability) > area_under_curve(hit, world.popularity(rows[1], rows[2])) + 0.1


def test_the_truth_is_calibrated_once_the_position_is_accounted_for(world, log, rows):
    truth, impressions = world.truth(*rows), log.impressions
    bias = impressions["surface"].replace_strict(behaviour.POSITION_BIAS).to_numpy()
    looked = (impressions["position"].to_numpy() + 1.0) ** -bias
    for name in OUTCOMES:
        expected = truth.probability[name] * looked
        error = np.sqrt((expected * (1 - expected)).sum())  # of the count, were the truth right
        assert abs(impressions[name].sum() - expected.sum()) < 4 * error, name
    surprise = impressions["watch_ms"].to_numpy() - truth.watch_ms * looked
    assert abs(surprise.mean()) < 4 * surprise.std() / np.sqrt(len(surprise))


def test_truth_broadcasts_and_answers_one_by_one_alike(world):
    users, videos = np.arange(4)[:, None], np.arange(20).reshape(4, 5)
    times = world.start_ms + np.arange(4)[:, None] * DAY_MS // 3
    together = world.truth(users, videos, times)
    alone = world.truth(2, 12, int(times[2, 0]))
    assert together.watch_ms.shape == (4, 5)
    assert together.watch_ms[2, 2] == pytest.approx(float(alone.watch_ms))
    assert together.probability["like"][2, 2] == pytest.approx(float(alone.probability["like"]))


def test_tastes_drift_but_not_at_once(world):
    users = np.arange(SIZES["users"])
    first, soon, late = (world.taste(users, world.start_ms + days * DAY_MS) for days in (0, 0.1, 15))
    assert (first * soon).sum(1).min() > 0.95
    assert (first * late).sum(1).mean() < 0.85
    assert np.allclose((late**2).sum(1), 1)
    assert np.array_equal(world.taste(users, world.start_ms - DAY_MS), first)


def test_steps_draw_by_the_truth_and_by_position(world):
    slate = np.full(8, 11)
    time_ms = world.start_ms + DAY_MS
    draws = [world.step(3, slate, time_ms, "discover") for _ in range(4000)]
    rate = np.mean([outcomes.happened["click"] for outcomes in draws], axis=0)
    truth = float(world.truth(3, 11, time_ms).probability["click"])
    assert rate == pytest.approx(truth * (np.arange(8) + 1.0) ** -0.12, abs=0.035)
    assert all((outcomes.received_ms >= time_ms + outcomes.watch_ms.cumsum()).all() for outcomes in draws[:50])
    with pytest.raises(ValueError, match="surface is 'hme', expected one of home, discover"):
        world.step(3, slate, time_ms, "hme")


def test_closed_forms_equal_draws():
    rng, n = np.random.default_rng(0), 400_000
    for appeal, stay, duration in ((0.5, -1.0, 12.0), (-1.0, 0.0, 60.0), (1.5, 1.2, 18.0)):
        one = Inclination(*(np.array(value) for value in (appeal, stay, duration)))
        many = Inclination(*(np.full((1, n), value) for value in (appeal, stay, duration)))
        truth = behaviour.truth_of(one)
        watch_ms, happened = behaviour.draw(rng, many, np.ones((1, n)))
        assert watch_ms.mean() == pytest.approx(float(truth.watch_ms), rel=0.01)
        for name in OUTCOMES:
            assert happened[name].mean() == pytest.approx(float(truth.probability[name]), abs=0.004), name


def test_mean_logit_logistic_is_smooth_through_zero():
    around = behaviour.mean_logit_logistic(np.array([-0.0011, -0.0009, 0.0, 0.0009, 0.0011]))
    assert around == pytest.approx(0.5 + np.array([-0.0011, -0.0009, 0.0, 0.0009, 0.0011]) / 6, abs=1e-8)


def test_recorded_propensities_are_the_frequencies_of_the_draws():
    rng, n = np.random.default_rng(1), 200_000
    scores, eligible = np.tile([0.0, 1.0, 2.0, 5.0], (n, 1)), np.tile([True, True, True, False], (n, 1))
    slates, propensities = draw_slates(rng, scores, eligible, np.full(n, 0.3), 4)
    weights = np.exp([0.0, 1.0, 2.0])
    for first in range(3):
        here = slates[:, 0] == first
        by_hand = 0.7 * weights[first] / weights.sum() + 0.3 / 3
        assert propensities[here, 0] == pytest.approx(by_hand)
        assert here.mean() == pytest.approx(by_hand, abs=0.005)
        for second in {0, 1, 2} - {first}:
            then = here & (slates[:, 1] == second)
            by_hand = 0.7 * weights[second] / (weights.sum() - weights[first]) + 0.3 / 2
            assert propensities[then, 1] == pytest.approx(by_hand)
            assert then.sum() / here.sum() == pytest.approx(by_hand, abs=0.01)
    assert propensities[:, 2] == pytest.approx(1.0)
    assert (slates[:, 3] == -1).all()
    assert np.isnan(propensities[:, 3]).all()


def test_what_was_seen_is_remembered_by_viewer():
    seen = Seen(3)
    seen.add(np.array([0, 2]), np.array([[4, 1, -1], [0, -1, 3]]))
    seen.add(np.array([2]), np.array([[2, -1, -1]]))
    assert [np.flatnonzero(row).tolist() for row in seen.mask(np.array([2, 1, 0]), 5)] == [[0, 2, 3], [], [1, 4]]


def test_a_start_that_is_no_midnight_is_refused():
    with pytest.raises(ValueError, match="expected a midnight UTC"):
        World(start_ms=1_741_564_800_001)

"""The benchmark's own arithmetic: its split by dates, and figures under resamples."""

from datetime import date
from functools import partial

import numpy as np
import polars as pl
import pytest
from benchmarks.ranking import Resampled, baselines_of, options_of, over, split_by

from watchnext import metrics
from watchnext.data.tables import DataError

DAYS = pl.Series([date(2022, 4, day) for day in (25, 26, 28, 29, 30)])


def test_days_begin_where_they_are_said_to():
    split = split_by(DAYS, date(2022, 4, 27), date(2022, 4, 29))
    assert split.assign(DAYS).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize(("valid", "test"), [(25, 27), (27, 27), (29, 27)])
def test_dates_that_leave_a_part_empty_are_refused(valid, test):
    with pytest.raises(DataError, match="the log spans 2022-04-25 to 2022-04-30; expected first day < --valid-start"):
        split_by(DAYS, date(2022, 4, valid), date(2022, 4, test))


def test_figures_under_a_resample_are_those_of_the_repeated_rows():
    random = np.random.default_rng(0)
    users, label = random.integers(0, 12, 150), (random.random(150) < 0.4).astype(int)
    label[users == 3] = 1
    score = random.normal(size=150).round(1)
    resampled = Resampled(label, users)
    assert resampled.drawn.shape == (1000, 12)
    areas, gaucs = resampled.auc(score), resampled.gauc(score)
    for r in range(5):
        times = resampled.drawn[r].astype(int)
        rows = [(row, copy) for row in range(150) for copy in range(times[users[row]])]
        place, viewers = np.array([row for row, _ in rows]), [f"{users[row]} {copy}" for row, copy in rows]
        assert areas[r] == pytest.approx(metrics.auc(label[place], score[place]))
        assert gaucs[r] == pytest.approx(metrics.gauc(label[place], score[place], viewers))


def test_a_better_score_lies_above_and_the_same_one_at_zero():
    random = np.random.default_rng(1)
    users, label = random.integers(0, 30, 400), (random.random(400) < 0.4).astype(int)
    noise = random.normal(size=400)
    found = over(Resampled(label, users).of_rows, [noise + 3 * label], [noise])
    assert all(found[name][1] > 0 for name in ("auc", "gauc"))
    assert over(Resampled(label, users).of_rows, [noise], [noise]) == {"auc": [0.0, 0.0, 0.0], "gauc": [0.0, 0.0, 0.0]}


def test_resamples_without_the_figure_are_left_out_and_of_one_label_nothing_is_known():
    label, score = np.array([1, 0, 1, 0, 0]), np.arange(5.0)
    one_positive_viewer = Resampled(label, np.array([0, 0, 0, 1, 2]))
    assert np.isnan(one_positive_viewer.auc(score)).any()
    assert over(one_positive_viewer.of_rows, [score], [score]) == {"auc": [0.0, 0.0, 0.0], "gauc": [0.0, 0.0, 0.0]}
    assert np.isnan(over(Resampled(label * 0, np.arange(5)).of_rows, [score], [score])["gauc"]).all()


def test_request_figures_under_a_resample_are_those_of_the_repeated_groups():
    random = np.random.default_rng(2)
    groups, label = random.integers(0, 40, 150), (random.random(150) < 0.4).astype(int)
    users, score = groups % 9, random.normal(size=150).round(1)
    resampled = Resampled(label, users)
    found = resampled.of_requests(score, groups=groups)
    for r in range(5):
        times = resampled.drawn[r].astype(int)
        rows = [(row, copy) for row in range(150) for copy in range(times[users[row]])]
        place, again = np.array([row for row, _ in rows]), np.array([f"{groups[row]} {copy}" for row, copy in rows])
        expected = metrics.RequestFigures.of(label[place], score[place], again).means()
        assert {name: values[r] for name, values in found.items()} == pytest.approx(expected)
    gains = over(partial(resampled.of_requests, groups=groups), [score + 3 * label], [score])
    assert all(gain[1] > 0 for gain in gains.values())
    one_label = Resampled(label * 0, users)
    assert np.isnan(list(over(partial(one_label.of_requests, groups=groups), [score], [score]).values())).all()


def test_baselines_are_probabilities(world_features):
    rows = world_features.rows("test")
    found = baselines_of(world_features, rows)
    assert list(found) == ["constant", "video_rate", "creator_rate", "viewer_rate", "decayed_video_rate"]
    for score in found.values():
        assert score.shape == rows.shape
        assert ((score >= 0) & (score <= 1)).all()


def test_words_behind_the_models_are_overrides():
    words = ["--root", "here", "--valid-start", "2022-05-01", "--test-start", "2022-05-03", "min_count=3"]
    words += ["--models", "mlp", "dcn"]
    options = options_of(words)
    assert options.overrides == ["min_count=3"]
    assert options.models == ["mlp", "dcn"]
    assert options.test_start == date(2022, 5, 3)

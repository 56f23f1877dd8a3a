from datetime import date

import numpy as np
import polars as pl
import pytest

from watchnext.data.splits import NO_SPLIT, TimeSplit, cold
from watchnext.data.tables import DataError

DAYS = pl.Series([date(2025, 3, day) for day in (14, 10, 12, 13, 11, 10)])


def test_the_last_days_test_and_those_before_them_validate():
    assert TimeSplit(valid_days=1, test_days=2).assign(DAYS).tolist() == [2, 0, 1, 2, 0, 0]


def test_days_count_by_calendar_even_where_one_has_no_rows():
    days = pl.Series([date(2025, 3, day) for day in (1, 2, 9, 10)])
    assert TimeSplit(valid_days=7, test_days=2).assign(days).tolist() == [0, 1, 2, 2]
    assert TimeSplit(valid_days=7, test_days=2).moved_message(days) is None


def test_the_nearest_days_validate_if_the_validation_days_have_no_rows():
    days = pl.Series([date(2025, 3, day) for day in (16, 19, 17)])
    split = TimeSplit(valid_days=1, test_days=1)
    assert split.assign(days).tolist() == [0, 2, 1]
    assert split.moved_message(days) == (
        "the validation days 2025-03-18 to 2025-03-18 have no impressions: 2025-03-17 to 2025-03-17 validate instead "
        "(data.split.valid_days)"
    )
    days = pl.Series([date(2025, 3, day) for day in (1, 2, 4, 5, 9)])
    assert TimeSplit(valid_days=2, test_days=2).assign(days).tolist() == [0, 0, 1, 1, 2]
    assert TimeSplit(valid_days=2, test_days=2, gap_days=2).assign(days).tolist() == [0, -1, 1, 1, 2]
    days = pl.Series([date(2025, 3, day) for day in (1, 2, 9, 10)])
    with pytest.raises(DataError, match=r"no rows for train.* rows on 4 days, .*lower one of them \(data.split"):
        TimeSplit(valid_days=2, test_days=2).assign(days)


@pytest.mark.parametrize(("days", "valid_days", "too_few"), [((1,), 0, True), ((1, 9), 1, True), ((1, 9), 0, False)])
def test_fewer_days_than_parts_are_too_few_however_far_apart(days, valid_days, too_few):
    days = pl.Series([date(2025, 3, day) for day in days])
    assert TimeSplit(valid_days=valid_days, test_days=1).is_too_long_for(days) == too_few


def test_an_array_of_days_is_as_good_as_a_series():
    split = TimeSplit(valid_days=1, test_days=2)
    assert split.assign(DAYS.to_numpy()).tolist() == split.assign(DAYS).tolist()


def test_without_validation_days_nothing_validates():
    assert TimeSplit(valid_days=0, test_days=1).assign(DAYS).tolist() == [2, 0, 0, 0, 0, 0]


def test_without_held_out_days_all_train_but_the_warm_up():
    split = TimeSplit(valid_days=0, test_days=0, warmup_days=1)
    assert split.assign(DAYS).tolist() == [-1 if day == DAYS.min() else 0 for day in DAYS]
    assert not split.is_too_long_for(DAYS)
    assert split.moved_message(DAYS) is None


@pytest.mark.parametrize(("valid_days", "test_days", "lacking"), [(2, 3, "train"), (1, 4, "train"), (4, 1, "train")])
def test_too_short_a_log_is_refused_by_name(valid_days, test_days, lacking):
    with pytest.raises(DataError, match=f"no rows for {lacking}.*2025-03-10 to 2025-03-14"):
        TimeSplit(valid_days=valid_days, test_days=test_days).assign(DAYS)


def test_no_rows_and_nonsense_days_are_refused():
    with pytest.raises(DataError, match="no impressions"):
        TimeSplit(valid_days=1, test_days=1).assign(DAYS.clear())
    with pytest.raises(DataError, match="test_days=0"):
        TimeSplit(valid_days=1, test_days=0)


MARCH = pl.Series([date(2025, 3, day) for day in range(1, 11)])


def test_gap_and_warm_up_belong_to_no_split():
    split = TimeSplit(valid_days=2, test_days=1, gap_days=2, warmup_days=3).assign(MARCH)
    assert split.dtype == np.int8
    assert split.tolist() == [-1, -1, -1, 0, 0, -1, -1, 1, 1, 2]
    assert TimeSplit(valid_days=0, test_days=2, gap_days=1).assign(MARCH).tolist() == [0] * 7 + [-1, 2, 2]
    assert (TimeSplit(valid_days=2, test_days=1).assign(MARCH) != NO_SPLIT).all()


def test_warm_up_counts_calendar_days_from_the_first_row():
    days = pl.Series([date(2025, 3, day) for day in (9, 1, 10, 5, 4)])
    split = TimeSplit(valid_days=1, test_days=1, warmup_days=4).assign(days)
    assert split.tolist() == [1, -1, 2, 0, -1]


def test_a_gap_that_leaves_no_training_days_is_refused_with_all_settings():
    wanted = "no rows for train: .*valid_days=2, test_days=1, gap_days=4, warmup_days=3 need; lower one"
    with pytest.raises(DataError, match=wanted):
        TimeSplit(valid_days=2, test_days=1, gap_days=4, warmup_days=3).assign(MARCH)
    for days in ({"gap_days": -1}, {"warmup_days": -1}):
        with pytest.raises(DataError, match=f"{next(iter(days))}=-1"):
            TimeSplit(valid_days=1, test_days=1, **days)


def test_who_is_only_seen_while_warming_up_is_cold():
    assert cold(pl.Series(["a", "b", "a", "b"]), np.array([-1, 0, 2, 2])).tolist() == [True, False, True, False]


@pytest.mark.parametrize("ids", [[1, 2, 1, 3, 2], ["a", "b", "a", "c", "b"]])
def test_cold_means_never_in_training(ids):
    assert cold(pl.Series(ids), np.array([0, 1, 2, 2, 1])).tolist() == [False, True, False, True, True]

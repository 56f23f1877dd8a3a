from datetime import date

import numpy as np
import polars as pl
import pytest

from watchnext.data.splits import TimeSplit, cold
from watchnext.data.tables import DataError

DAYS = pl.Series([date(2025, 3, day) for day in (14, 10, 12, 13, 11, 10)])


def test_the_last_days_test_and_those_before_them_validate():
    assert TimeSplit(valid_days=1, test_days=2).assign(DAYS).tolist() == [2, 0, 1, 2, 0, 0]


def test_days_count_by_calendar_even_where_one_has_no_rows():
    days = pl.Series([date(2025, 3, day) for day in (1, 2, 9, 10)])
    with pytest.raises(DataError, match="no rows for valid"):
        TimeSplit(valid_days=2, test_days=2).assign(days)
    assert TimeSplit(valid_days=7, test_days=2).assign(days).tolist() == [0, 1, 2, 2]


def test_an_array_of_days_is_as_good_as_a_series():
    split = TimeSplit(valid_days=1, test_days=2)
    assert split.assign(DAYS.to_numpy()).tolist() == split.assign(DAYS).tolist()


def test_without_validation_days_nothing_validates():
    assert TimeSplit(valid_days=0, test_days=1).assign(DAYS).tolist() == [2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("valid_days", "test_days", "lacking"), [(2, 3, "train"), (1, 4, "train"), (4, 1, "train")])
def test_too_short_a_log_is_refused_by_name(valid_days, test_days, lacking):
    with pytest.raises(DataError, match=f"no rows for {lacking}.*2025-03-10 to 2025-03-14"):
        TimeSplit(valid_days=valid_days, test_days=test_days).assign(DAYS)


def test_no_rows_and_nonsense_days_are_refused():
    with pytest.raises(DataError, match="no impressions"):
        TimeSplit(valid_days=1, test_days=1).assign(DAYS.clear())
    with pytest.raises(DataError, match="test_days=0"):
        TimeSplit(valid_days=1, test_days=0)


def test_boundaries_are_the_first_times():
    split = np.array([2, 0, 1, 2, 0], np.int8)
    boundaries = TimeSplit(valid_days=1, test_days=1).boundaries(split, pl.Series([50, 12, 31, 44, 10]))
    assert boundaries == {"train": 10, "valid": 31, "test": 44}


@pytest.mark.parametrize("ids", [[1, 2, 1, 3, 2], ["a", "b", "a", "c", "b"]])
def test_cold_means_never_in_training(ids):
    assert cold(pl.Series(ids), np.array([0, 1, 2, 2, 1])).tolist() == [False, True, False, True, True]

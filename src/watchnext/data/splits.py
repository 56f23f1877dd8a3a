"""Split rows into training, validation and test by calendar day, so that no model learns from the future."""

from datetime import date, timedelta

import numpy as np
import polars as pl

from watchnext.data.tables import DataError

SPLITS = ("train", "valid", "test")  # a row's split is an index into these
NO_SPLIT = -1  # a row that folds state, but neither trains nor is evaluated


class TimeSplit:
    """Split by calendar day: the last `test_days` test, the `valid_days` before them validate, earlier days train. With none of
    either, all days train.

    If none of those `valid_days` has a row, as many days validate, ending with the nearest earlier day that has rows.

    gap_days     days in no split between training and validation, so that the outcomes of training rows are known before
                 validation starts
    warmup_days  first days of the log, in no split; they only fill the state, so that no training row sees it empty
    """

    def __init__(self, *, valid_days: int, test_days: int, gap_days: int = 0, warmup_days: int = 0):
        self.valid_days = valid_days
        self.test_days = test_days
        self.gap_days = gap_days
        self.warmup_days = warmup_days
        if min(valid_days, test_days, gap_days, warmup_days) < 0 or (valid_days and not test_days):
            raise DataError(
                f"split: {self}; expected none below 0, and test_days of at least 1 unless valid_days is 0 and all days train"
            )

    def __str__(self) -> str:
        return ", ".join(f"{name}={days}" for name, days in vars(self).items())

    def is_too_long_for(self, day: pl.Series | np.ndarray) -> bool:
        """Return True if the days (N,) are too few for this split and a training day, as in every new log."""
        day = pl.Series(values=day).cast(pl.Date)
        takes = self.warmup_days + 1 + self.gap_days + self.valid_days + self.test_days
        return day.n_unique() < len(self._parts) or (day.max() - day.min()).days + 1 < takes

    def assign(self, day: pl.Series | np.ndarray) -> np.ndarray:
        """Return the split (N,) int8 of each row by its calendar day, NO_SPLIT in the gap and the warm-up.

        Raises DataError if a split would be empty.
        """
        day = pl.Series(values=day).cast(pl.Date)
        if day.is_empty():
            raise DataError(
                "split: there are no impressions to split, expected at least one; check the loader's root and the rejected rows"
            )
        first_train = day.min() + timedelta(days=self.warmup_days)
        first_test = self._first_test(day)
        first_valid = self._first_valid(day)
        split = (day >= first_valid).cast(pl.Int8).to_numpy() + (day >= first_test).cast(pl.Int8).to_numpy()
        in_gap = day.is_between(first_valid - timedelta(days=self.gap_days), first_valid, closed="left")
        split[((day < first_train) | in_gap).to_numpy()] = NO_SPLIT
        self._require_all(split, day)
        return split

    def moved_message(self, day: pl.Series | np.ndarray) -> str | None:
        """Name the days that validate instead of the calendar's own days, if those have no rows; None otherwise."""
        day = pl.Series(values=day).cast(pl.Date)
        first, wanted = self._first_valid(day), self._first_test(day) - timedelta(days=self.valid_days)
        if first == wanted:
            return None
        last_wanted, last = (start + timedelta(days=self.valid_days - 1) for start in (wanted, first))
        return (
            f"the validation days {wanted} to {last_wanted} have no impressions: {first} to {last} validate instead "
            "(data.split.valid_days)"
        )

    def _first_test(self, day: pl.Series) -> date:
        return day.max() - timedelta(days=self.test_days - 1)

    def _first_valid(self, day: pl.Series) -> date:
        first_test = self._first_test(day)
        by_calendar = first_test - timedelta(days=self.valid_days)
        nearest = day.filter(day < first_test).max()
        if not self.valid_days or nearest is None or nearest >= by_calendar:
            return by_calendar
        return nearest - timedelta(days=self.valid_days - 1)

    @property
    def _parts(self) -> list[int]:
        return [0, *([1] if self.valid_days else []), *([2] if self.test_days else [])]

    def _require_all(self, split: np.ndarray, day: pl.Series) -> None:
        if lacking := [SPLITS[index] for index in self._parts if not (split == index).any()]:
            raise DataError(
                f"split: no rows for {' and '.join(lacking)}: the log spans {day.min()} to {day.max()} and has rows on "
                f"{day.n_unique()} days, expected more days than {self} need; lower one of them (data.split.*)"
            )


def cold(ids: pl.Series | np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the rows whose user (or video) appears in no training row."""
    ids = pl.Series(values=ids)
    return ~ids.is_in(ids.filter(pl.Series(values=split == 0)).unique().implode()).to_numpy()

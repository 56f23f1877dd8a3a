"""Which rows train, which validate, which test: by calendar day, so that nothing of the future is learned from."""

from datetime import timedelta

import numpy as np
import polars as pl

from watchnext.data.tables import DataError

SPLITS = ("train", "valid", "test")  # a row's split is an index into these


class TimeSplit:
    """The last `test_days` calendar days test, the `valid_days` before them validate, everything earlier trains."""

    def __init__(self, *, valid_days: int, test_days: int):
        if valid_days < 0 or test_days < 1:
            raise DataError(f"split: valid_days={valid_days}, test_days={test_days}; expected at least 0 and at least 1")
        self.valid_days = valid_days
        self.test_days = test_days

    def assign(self, day: pl.Series | np.ndarray) -> np.ndarray:
        """Split (N,) int8 of each row, by its calendar day. Raises DataError where a split would be empty."""
        day = pl.Series(values=day).cast(pl.Date)
        if day.is_empty():
            raise DataError("split: there are no impressions to split; check the loader's root and the rejected rows")
        first_test = day.max() - timedelta(days=self.test_days - 1)
        first_valid = first_test - timedelta(days=self.valid_days)
        split = (day >= first_valid).cast(pl.Int8).to_numpy() + (day >= first_test).cast(pl.Int8).to_numpy()
        self._require_all(split, day)
        return split

    def _require_all(self, split: np.ndarray, day: pl.Series) -> None:
        wanted = [0, 1, 2] if self.valid_days else [0, 2]
        if lacking := [SPLITS[index] for index in wanted if not (split == index).any()]:
            raise DataError(
                f"split: no rows for {' and '.join(lacking)}: the log spans {day.min()} to {day.max()}, expected more than "
                f"valid_days={self.valid_days} + test_days={self.test_days} days; lower data.split.valid_days or .test_days"
            )

    def boundaries(self, split: np.ndarray, time_ms: np.ndarray) -> dict[str, int]:
        """First `time_ms` of each split that has rows, by name."""
        time_ms = np.asarray(time_ms)
        return {name: int(time_ms[split == index].min()) for index, name in enumerate(SPLITS) if (split == index).any()}


def cold(ids: pl.Series | np.ndarray, split: np.ndarray) -> np.ndarray:
    """Mask (N,) of the rows whose user (or video) never appears in a training row."""
    ids = pl.Series(values=ids)
    return ~ids.is_in(ids.filter(pl.Series(values=split == 0)).unique().implode()).to_numpy()

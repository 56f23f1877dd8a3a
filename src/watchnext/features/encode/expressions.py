"""Computed columns: stateless functions of raw columns and `as_of`. A new one takes a function here and a schema line."""

from collections.abc import Callable, Mapping

import numpy as np

HOUR_MS = 3_600_000
RawColumns = Mapping[str, np.ndarray]


def hour(columns: RawColumns, as_of_ms: np.ndarray, utc_offset_h: float) -> np.ndarray:
    """Local hour of the day, 0 to 23."""
    return ((as_of_ms + utc_offset_h * HOUR_MS) // HOUR_MS % 24).astype(np.int64)


def weekday(columns: RawColumns, as_of_ms: np.ndarray, utc_offset_h: float) -> np.ndarray:
    """Local day of the week, 0 is Monday (1970-01-01 was a Thursday)."""
    return (((as_of_ms + utc_offset_h * HOUR_MS) // (24 * HOUR_MS) + 3) % 7).astype(np.int64)


def age_h(columns: RawColumns, as_of_ms: np.ndarray, utc_offset_h: float) -> np.ndarray:
    """Hours since upload; nan if unknown, 0 if the log shows a video before its upload time."""
    return np.maximum((as_of_ms - columns["upload_ms"]) / HOUR_MS, 0.0)


def gap_s(columns: RawColumns, as_of_ms: np.ndarray, utc_offset_h: float) -> np.ndarray:
    """Seconds since the viewer's last event; nan for a new viewer. The fold returns -1 for none."""
    return np.where(columns["gap_s"] < 0, np.nan, columns["gap_s"])


EXPRESSIONS: Mapping[str, Callable[[RawColumns, np.ndarray, float], np.ndarray]] = {
    "hour": hour,
    "weekday": weekday,
    "age_h": age_h,
    "gap_s": gap_s,
}

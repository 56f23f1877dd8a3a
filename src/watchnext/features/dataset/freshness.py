"""Freshness regimes: the state that a held-out impression sees, frozen at its split, as of the day's start, or streaming."""

import numpy as np
import polars as pl

REGIMES = ("frozen", "daily", "streaming")


def split_starts(split: np.ndarray, time_ms: np.ndarray) -> dict[int, float]:
    """Return the first time of each held-out split that has rows: 1 valid, 2 test."""
    return {held_out: float(time_ms[split == held_out].min()) for held_out in (1, 2) if (split == held_out).any()}


def day_starts(impressions: pl.DataFrame) -> np.ndarray:
    """Return the time of each day's first request, ascending, float64."""
    return np.unique(impressions.group_by("day").agg(pl.col("time_ms").min().cast(pl.Float64))["time_ms"].to_numpy())


def visible_until(
    regime: str,
    impressions: pl.DataFrame,
    split: np.ndarray,
    starts: dict[int, float] | None = None,
    days_ms: np.ndarray | None = None,
) -> np.ndarray:
    """Return the time (N,) float64 before which each impression sees the state; rows that are not held out always stream.

    frozen     held-out rows see the state at the start of their split
    daily      held-out rows see the state at the first request of their day
    streaming  held-out rows see the state at their own time
    If `impressions` are only a part of the log, `starts` and `days_ms` hold the starts of splits and days.
    Raises ValueError for an unknown regime.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    until = time_ms.copy()
    if regime == "daily":
        days_ms = day_starts(impressions) if days_ms is None else days_ms
        until[split > 0] = days_ms[np.searchsorted(days_ms, time_ms[split > 0], side="right") - 1]
    elif regime == "frozen":
        for held_out, start in (split_starts(split, time_ms) if starts is None else starts).items():
            until[split == held_out] = start
    return until

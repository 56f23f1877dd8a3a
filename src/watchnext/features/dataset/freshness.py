"""Freshness regimes: the state that a held-out impression sees, frozen at its split, as of the day's start, streaming, or as of
the first impression of its request group."""

import numpy as np
import polars as pl

REGIMES = ("frozen", "daily", "streaming", "request")
SESSION_MS = 30 * 60_000  # a viewer who comes back after this gap, or a longer one, begins a session


def split_starts(split: np.ndarray, time_ms: np.ndarray) -> dict[int, float]:
    """Return the first time of each held-out split that has rows: 1 valid, 2 test."""
    return {held_out: float(time_ms[split == held_out].min()) for held_out in (1, 2) if (split == held_out).any()}


def day_starts(impressions: pl.DataFrame) -> np.ndarray:
    """Return the time of each day's first request, ascending, float64."""
    return np.unique(impressions.group_by("day").agg(pl.col("time_ms").min().cast(pl.Float64))["time_ms"].to_numpy())


def request_groups(impressions: pl.DataFrame, days_ms: np.ndarray) -> np.ndarray:
    """Return the position (N,) of the first impression of each impression's request group.

    The impressions of a slate are a group. An impression that was requested alone is grouped with the viewer's others of that
    kind in the same session. A group ends with the day, `days_ms` being the first times of the days, ascending.
    """
    day = np.searchsorted(days_ms, impressions["time_ms"].to_numpy(), side="right")
    returns = pl.col("time_ms").diff().over("user_id") >= SESSION_MS
    keyed = impressions.select("user_id", "request_id", "time_ms", day=pl.Series(day)).with_columns(
        row=pl.int_range(pl.len()),
        session=returns.fill_null(False).cum_sum().over("user_id"),
        slate=pl.len().over("user_id", "day", "request_id") > 1,
    )
    of_slate, alone = pl.when("slate").then("request_id"), pl.when(~pl.col("slate")).then("session")
    first = pl.col("row").min().over("user_id", "day", of_slate.alias("of_slate"), alone.alias("alone"))
    return keyed.select(first)["row"].to_numpy()


def encoded_with(regime: str, impressions: pl.DataFrame, split: np.ndarray, days_ms: np.ndarray | None = None) -> np.ndarray:
    """Return the position (N,) of the impression whose time and context each impression is encoded with.

    It is the impression itself, or in the regime `request` the first one of a held-out impression's group.
    """
    positions = np.arange(len(impressions))
    if regime == "request":
        days_ms = day_starts(impressions) if days_ms is None else days_ms
        for held_out in (1, 2):
            rows = np.flatnonzero(split == held_out)
            positions[rows] = rows[request_groups(impressions[rows], days_ms)]
    return positions


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
    request    held-out rows see the state at the time of the first row of their request group
    If `impressions` are only a part of the log, `starts` and `days_ms` hold the starts of splits and days.
    Raises ValueError for an unknown regime.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    until = time_ms[encoded_with(regime, impressions, split, days_ms)]
    if regime == "daily":
        days_ms = day_starts(impressions) if days_ms is None else days_ms
        until[split > 0] = days_ms[np.searchsorted(days_ms, time_ms[split > 0], side="right") - 1]
    elif regime == "frozen":
        for held_out, start in (split_starts(split, time_ms) if starts is None else starts).items():
            until[split == held_out] = start
    return until

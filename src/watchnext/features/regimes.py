"""What state a held-out impression sees: frozen at its split, as of its day's start, or streaming."""

import numpy as np
import polars as pl

REGIMES = ("frozen", "daily", "streaming")


def split_starts(split: np.ndarray, time_ms: np.ndarray) -> dict[int, float]:
    """First time of each held-out split that has rows: 1 valid, 2 test."""
    return {held_out: float(time_ms[split == held_out].min()) for held_out in (1, 2) if (split == held_out).any()}


def day_starts(impressions: pl.DataFrame) -> np.ndarray:
    """(N,) float64: the time of the first request of each row's day."""
    return impressions.select(pl.col("time_ms").min().over("day").cast(pl.Float64)).to_series().to_numpy()


def visible_until(
    regime: str, impressions: pl.DataFrame, split: np.ndarray, starts: dict[int, float] | None = None
) -> np.ndarray:
    """(N,) float64: every impression sees what was known strictly before this time. All rows but held-out ones stream.

    frozen: held-out rows see the state at the start of their split, one of `starts` where `impressions` are not all. daily: at
    the first request of their day. streaming: at their own.
    Raises ValueError naming a regime that is none of REGIMES.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    until = time_ms.copy()
    if regime == "daily":
        until[split > 0] = day_starts(impressions)[split > 0]
    elif regime == "frozen":
        for held_out, start in (split_starts(split, time_ms) if starts is None else starts).items():
            until[split == held_out] = start
    return until

"""Statistics that compare a simulated log with a real one: aggregates only, as pure functions of the canonical tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from watchnext.data.card.distribution import Distribution, gini, top_share
from watchnext.data.tables import OUTCOMES, Tables

DURATIONS_S = (0, 15, 30, 60, 120, 240, 3600)  # edges of the duration groups
RATIOS = np.linspace(0, 2, 81)
SESSION_GAP_MS = 30 * 60_000
LEAST_ROWS, LEAST_VIEWERS = 100, 5  # fewest rows and viewers for judging one viewer's share


@dataclass(frozen=True)
class Statistics:
    """Statistics of a log.

    figures        name > number
    watch_ratio    duration group > share of impressions with a watch ratio of at least RATIOS; nan without impressions
    activity, popularity   impressions by user, by video
    hours          (24,) shares by hour UTC"""

    figures: Mapping[str, float]
    watch_ratio: Mapping[str, np.ndarray]
    activity: Distribution
    popularity: Distribution
    hours: np.ndarray


def statistics_of(tables: Tables) -> Statistics:
    """Compute the statistics of a log."""
    impressions = tables.impressions
    activity, popularity = (Distribution(counts(impressions, key)) for key in ("user_id", "video_id"))
    figures = {
        "impressions": float(len(impressions)),
        **{f"{name} rate": rate for name, rate in outcome_rates(impressions).items()},
        **watch_figures(impressions, tables.videos),
        "repeat rate": repeat_rate(impressions),
        "in the session of the impression before": session_share(impressions),
        **distribution_figures("user", activity),
        **distribution_figures("video", popularity),
        "spread of users' long view rate": rate_spread(impressions, "user_id"),
        "spread of videos' long view rate": rate_spread(impressions, "video_id"),
    }
    return Statistics(figures, watch_ratio_by_duration(impressions, tables.videos), activity, popularity, hours(impressions))


def dominating(counts: np.ndarray) -> np.ndarray:
    """Return a mask (N,) of the viewers who dominate the log, such as bots or shared ids; `counts` (N,) are their impressions.

    Activity is heavy-tailed: in ordinary logs a viewer reaches 80 times the median, but 3% of the log.
    """
    counts = np.asarray(counts, np.float64)
    active = counts[counts > 0]
    if len(active) < LEAST_VIEWERS or active.sum() < LEAST_ROWS:
        return np.zeros(len(counts), bool)
    share = counts / active.sum()
    return (share > 0.5) | ((share > 0.1) & (counts > 20 * np.median(active)))


def counts(impressions: pl.DataFrame, key: str) -> np.ndarray:
    """Return the impressions of every user (or video) with at least one."""
    return impressions.group_by(key).len()["len"].to_numpy()


def outcome_rates(impressions: pl.DataFrame) -> dict[str, float]:
    return {name: _mean(impressions[name]) for name in OUTCOMES}


def repeat_rate(impressions: pl.DataFrame) -> float:
    """Return the share of impressions that repeat a video to a viewer."""
    return 1 - impressions.select("user_id", "video_id").n_unique() / len(impressions) if len(impressions) else float("nan")


def session_share(impressions: pl.DataFrame) -> float:
    """Return the share of a user's later impressions that follow the previous one within half an hour."""
    gaps = impressions.sort("user_id", "time_ms").select(pl.col("time_ms").diff().over("user_id")).to_series().drop_nulls()
    return _mean(gaps < SESSION_GAP_MS)


def rate_spread(impressions: pl.DataFrame, key: str, least: int = 50) -> float:
    """Return the standard deviation of long view rates by key beyond chance, over keys with at least `least` impressions."""
    rates = impressions.group_by(key).agg(pl.len().alias("n"), pl.col("long_view").mean().alias("rate"))
    rates = rates.filter(pl.col("n") >= least)
    if len(rates) < 2:
        return float("nan")
    chance = (rates["rate"] * (1 - rates["rate"]) / rates["n"]).mean()
    return float(np.sqrt(max(rates["rate"].var() - chance, 0.0)))


def watch_ratios(impressions: pl.DataFrame, videos: pl.DataFrame) -> pl.DataFrame:
    """Return `duration_s`, `watch_s`, `ratio` of the impressions of videos with a known duration."""
    known = impressions.select("video_id", "watch_ms").join(videos.select("video_id", "duration_ms"), on="video_id")
    known = known.filter(pl.col("duration_ms") > 0)
    return known.select(
        duration_s=pl.col("duration_ms") / 1000,
        watch_s=pl.col("watch_ms") / 1000,
        ratio=pl.col("watch_ms") / pl.col("duration_ms"),
    )


def watch_ratio_by_duration(impressions: pl.DataFrame, videos: pl.DataFrame) -> dict[str, np.ndarray]:
    watched, curves = watch_ratios(impressions, videos), {}
    for low, high in pairwise(DURATIONS_S):
        ratio = np.sort(watched.filter(pl.col("duration_s").is_between(low, high, closed="left"))["ratio"].to_numpy())
        at_least = (len(ratio) - np.searchsorted(ratio, RATIOS)) / len(ratio) if len(ratio) else np.full(len(RATIOS), np.nan)
        curves[f"{low}-{high} s" if high < DURATIONS_S[-1] else f"{low} s and more"] = at_least
    return curves


def watch_figures(impressions: pl.DataFrame, videos: pl.DataFrame) -> dict[str, float]:
    watched = watch_ratios(impressions, videos)
    return {
        "mean watch in s": _mean(watched["watch_s"]),
        "mean watch ratio": _mean(watched["ratio"]),
        "never started": _mean(watched["watch_s"] == 0),
        "watched under a tenth": _mean(watched["ratio"] < 0.1),
        "watched to the end": _mean(watched["ratio"] >= 0.98),
        "watched beyond the end": _mean(watched["ratio"] > 1.02),
    }


def distribution_figures(name: str, distribution: Distribution) -> dict[str, float]:
    return {
        f"impressions of the median {name}": float(np.median(distribution.counts))
        if len(distribution.counts)
        else float("nan"),
        f"share of the top 1% {name}s": top_share(distribution.counts, 0.01),
        f"share of the top 10% {name}s": top_share(distribution.counts, 0.1),
        f"gini of {name}s": gini(distribution.counts),
    }


def hours(impressions: pl.DataFrame) -> np.ndarray:
    counts = np.bincount((impressions["time_ms"] // 3_600_000 % 24).to_numpy(), minlength=24)
    return counts / max(counts.sum(), 1)


def _mean(values: pl.Series) -> float:
    mean = values.mean()
    return float("nan") if mean is None else float(mean)

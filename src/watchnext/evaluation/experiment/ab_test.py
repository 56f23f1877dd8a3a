"""An A/B test of two arms with viewers of their own, looked at every hour, and what an interleaved arm tells."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from watchnext.evaluation.experiment.arm_figures import ArmFigures
from watchnext.evaluation.experiment.interleaving import FIRST
from watchnext.evaluation.experiment.power import detectable_lift, viewers_needed
from watchnext.evaluation.experiment.relative import relative_of_teams
from watchnext.ratios import TWO_SIDED_95, difference, ratio
from watchnext.sequential import Spread, first_decision, widths
from watchnext.simulator.behaviour import HOUR_MS

LIFT = 0.01  # relative, whose need of viewers is stated


def hourly(shown: pl.DataFrame, users: np.ndarray, *, start_ms: int, hours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the seconds (U, hours) that each viewer has watched by the end of each hour, and the number of requests
    (hours,)."""
    hour = (shown["time_ms"].to_numpy() - start_ms) // HOUR_MS
    seconds, requests = np.zeros((len(users), hours)), np.zeros(hours)
    np.add.at(seconds, (np.searchsorted(users, shown["viewer"].to_numpy()), hour), shown["watch_ms"].to_numpy() / 1000.0)
    first = shown.with_columns(hour=hour).group_by("request").agg(pl.col("hour").first())["hour"].to_numpy()
    np.add.at(requests, first, 1.0)
    return seconds.cumsum(axis=1), requests.cumsum()


def looks(first: np.ndarray, second: np.ndarray, requests: np.ndarray) -> list[Spread]:
    """Return the always-valid interval of the difference of means at every look.

    first, second  (U, looks) of viewers of two arms, as of each look; requests (looks,) of both arms so far
    """
    differences = first.mean(axis=0) - second.mean(axis=0)
    errors = np.hypot(*(arm.std(axis=0, ddof=1) / len(arm) ** 0.5 for arm in (first, second)))
    half = widths(errors, np.maximum(requests, 1.0), planned=requests[-1])
    half[errors == 0] = np.inf  # nothing has happened yet
    return [Spread(*map(float, each)) for each in zip(differences, differences - half, differences + half, strict=True)]


def ab_test(arms: Mapping[str, ArmFigures], shown: Mapping[str, pl.DataFrame], *, start_ms: int, days: int) -> dict:
    """Return "a - b" > the difference of seconds per viewer and day, of a single look and always valid, and the traffic it
    takes."""
    parts = {name: hourly(shown[name], each.users, start_ms=start_ms, hours=24 * days) for name, each in arms.items()}
    pairs = [(a, b) for at, a in enumerate(arms) for b in list(arms)[at + 1 :]]
    return {f"{a} - {b}": _tested(arms[a], arms[b], parts[a], parts[b], days) for a, b in pairs}


def _tested(first: ArmFigures, second: ArmFigures, of_first: tuple, of_second: tuple, days: int) -> dict:
    at_every_hour = looks(of_first[0], of_second[0], of_first[1] + of_second[1])
    decided, end = first_decision(at_every_hour), at_every_hour[-1]
    watched, share = second.watch_s.sum(axis=1), len(first.users) / (len(first.users) + len(second.users))
    return {
        "single_look": list(difference(first.ratios["watch_s"], second.ratios["watch_s"])),
        "always_valid": [each / days for each in end],
        "decided_after_h": None if decided is None else decided + 1,
        "long_view_rate": list(difference(first.ratios["long_view_rate"], second.ratios["long_view_rate"])),
        "viewers_for_1%": viewers_needed(watched, LIFT, share=share),
        "detectable": detectable_lift(watched, len(first.users) + len(second.users), share=share),
    }


def preference(shown: pl.DataFrame) -> dict:
    """Return how many more long views per request the first of two interleaved policies is credited with, and its interval;
    and by which part more `seconds`, with an always-valid one.

    The standard error is over viewers, whose requests are not independent.
    """
    signs = np.where(shown["team"].to_numpy() == FIRST, 1.0, -1.0)
    credited = shown.with_columns(credit=pl.Series(signs) * pl.col("long_view").cast(pl.Float64))
    watched = pl.col("watch_ms") / 1000.0
    by_viewer = credited.group_by("viewer", maintain_order=True).agg(
        pl.col("credit").sum(),
        pl.col("request").n_unique(),
        first=watched.filter(pl.col("team") == FIRST).sum(),
        second=watched.filter(pl.col("team") != FIRST).sum(),
    )
    value, error = ratio(by_viewer["credit"].to_numpy(), by_viewer["request"].to_numpy().astype(float))
    half = TWO_SIDED_95 * error
    requests = shown["request"].n_unique()
    seconds = relative_of_teams(
        by_viewer["first"].to_numpy(), by_viewer["second"].to_numpy(), requests=requests, planned=requests
    )
    credit = [value, value - half, value + half]
    return {"viewers": len(by_viewer), "requests": requests, "credit": credit, "seconds": list(seconds)}

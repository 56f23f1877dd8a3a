"""Figures of an arm by viewer, with intervals by bootstrap over viewers, and differences of arms.

Every figure is a ratio of two sums over viewers, or the Gini coefficient of such sums by creator, so that a resample of viewers
is a row of weights. Arms with the same viewers are resampled together: their differences are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.metrics import gini
from watchnext.sequential import Spread
from watchnext.simulator.behaviour import DAY_MS

RESAMPLES = 1000
NEW_DAYS = 7  # a creator is new whose first upload lies at most so many days before the experiment, or in it
GINI = "creator_gini"
UNITS = {
    "watch_s": "seconds watched per viewer and day",
    "long_views": "long views per viewer and day",
    "long_view_rate": "share of impressions viewed long",
    "days_visited": "share of days on which a viewer came",
    "day_n_return": "share of those who came on the first day who came on the last",
    "tags_per_slot": "distinct main tags per slot of a slate",
    "new_creators": "share of impressions with creators whose first upload is at most a week older than the experiment",
    GINI: "inequality of the impressions over creators, 0 equal",
}


@dataclass(frozen=True)
class ArmFigures:
    """Sums of an arm by viewer.

    users (U,)              rows of the viewers in the world
    ratios                  figure > numerators (U,) and denominators (U,)
    by_creator (U, R)       impressions by creator
    watch_s, came (U, days) seconds watched and whether the viewer came, by day
    videos                  number of distinct videos that were shown
    requests                their number
    """

    users: np.ndarray
    ratios: Mapping[str, tuple[np.ndarray, np.ndarray]]
    by_creator: np.ndarray
    watch_s: np.ndarray
    came: np.ndarray
    videos: int
    requests: int

    @classmethod
    def of(cls, shown: pl.DataFrame, simulation: Simulation, users: np.ndarray) -> "ArmFigures":
        """Sum up those of the impressions `shown` (columns of `traffic.COLUMNS`) that the viewers `users` (U,) saw."""
        shown = shown.filter(pl.col("viewer").is_in(users))
        videos, count, days = simulation.world.catalogue, len(users), simulation.days
        at = np.searchsorted(users, shown["viewer"].to_numpy())
        rows, day = shown["video"].to_numpy(), (shown["time_ms"].to_numpy() - simulation.start_ms) // DAY_MS
        watch_s, came = np.zeros((count, days)), np.zeros((count, days), bool)
        np.add.at(watch_s, (at, day), shown["watch_ms"].to_numpy() / 1000.0)
        came[at, day] = True
        creators = videos["creator"]
        first_ms = np.full(creators.max() + 1, np.iinfo(np.int64).max)
        np.minimum.at(first_ms, creators, videos["upload_ms"])
        by_creator = np.zeros((count, len(first_ms)))
        np.add.at(by_creator, (at, creators[rows]), 1.0)
        new = first_ms >= simulation.start_ms - NEW_DAYS * DAY_MS
        tagged = shown.with_columns(tag=videos["tags"][rows, 0]).group_by("viewer", "request").agg(pl.col("tag").n_unique())
        tags = np.bincount(np.searchsorted(users, tagged["viewer"].to_numpy()), tagged["tag"].to_numpy(), count)
        long_views = np.bincount(at, shown["long_view"].to_numpy(), count)
        impressions, all_days = by_creator.sum(axis=1), np.full(count, float(days))
        ratios = {
            "watch_s": (watch_s.sum(axis=1), all_days),
            "long_views": (long_views, all_days),
            "long_view_rate": (long_views, impressions),
            "days_visited": (came.sum(axis=1).astype(float), all_days),
            "day_n_return": ((came[:, 0] & came[:, -1]).astype(float), came[:, 0].astype(float)),
            "tags_per_slot": (tags, impressions),
            "new_creators": (by_creator[:, new].sum(axis=1), impressions),
        }
        return cls(users, ratios, by_creator, watch_s, came, len(np.unique(rows)), shown["request"].n_unique())

    def sampled(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return figure > values (R,) under `weights` (R, U) of the viewers; nan where a denominator is 0."""
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {name: (weights @ above) / (weights @ below) for name, (above, below) in self.ratios.items()}
        return values | {GINI: np.array([gini(counts) for counts in weights @ self.by_creator])}

    def daily(self) -> dict[str, list]:
        """Return by day the mean seconds per viewer with twice its standard error, and the share of the viewers who came."""
        errors = self.watch_s.std(axis=0) / len(self.users) ** 0.5
        by_day = {"watch_s": self.watch_s.mean(axis=0), "watch_s_2se": 2 * errors, "came": self.came.mean(axis=0)}
        return {name: values.tolist() for name, values in by_day.items()}


def resamples(viewers: int, seed: int) -> np.ndarray:
    """Draw bootstrap weights (RESAMPLES + 1, viewers); the first row is the sample itself, all 1."""
    random = np.random.default_rng([seed, viewers])
    return np.concatenate([np.ones((1, viewers)), random.multinomial(viewers, np.full(viewers, 1 / viewers), RESAMPLES)])


def spread(values: np.ndarray) -> Spread:
    """Return the first of `values` with the 95% interval of the others; nan where one of them is undefined."""
    return Spread(float(values[0]), *np.percentile(values[1:], [2.5, 97.5]).tolist())


def summarised(arms: Mapping[str, ArmFigures], *, seed: int) -> dict:
    """Return arms > figure > value and interval, and differences "a - b" of every later arm and the first ones.

    Arms of the same viewers share their resamples. A relative difference is of the second arm's value.
    """
    values = {name: each.sampled(resamples(len(each.users), _seed(arms, name, seed))) for name, each in arms.items()}
    pairs = [(a, b) for at, a in enumerate(arms) for b in list(arms)[at + 1 :]]
    return {
        "arms": {
            name: {"viewers": len(each.users), "requests": each.requests, "videos_shown": each.videos}
            | {figure: list(spread(sampled)) for figure, sampled in values[name].items()}
            for name, each in arms.items()
        },
        "differences": {f"{a} - {b}": _differences(values[a], values[b]) for a, b in pairs},
    }


def _seed(arms: Mapping[str, ArmFigures], name: str, seed: int) -> int:
    """Return one seed for all arms with the same viewers, others for arms with their own."""
    same = [other for other, each in arms.items() if np.array_equal(each.users, arms[name].users)]
    return 1000 * seed + list(arms).index(same[0])


def _differences(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, dict]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            name: {
                "difference": list(spread(first[name] - second[name])),
                "relative": list(spread(first[name] / second[name] - 1)),
            }
            for name in first
        }

"""Outcomes > targets. Serving may not import this: a label at answer time is a leak."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS
from watchnext.types import TARGETS


def watch_ratio(impressions: pl.DataFrame, duration_ms: np.ndarray) -> np.ndarray:
    """(N,) float64, watched part of the video, above 1 where it repeated; nan where its duration is unknown."""
    known = np.where(duration_ms > 0, duration_ms, np.nan)
    return impressions["watch_ms"].to_numpy() / known


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What counts as which outcome.

    long_view_s       a view of at least so many seconds is long
    long_view_ratio   so is one of at least this part of the video; both None: a view is long where the log flags it
    completion_ratio  from which part of the video on it counts as completed
    """

    long_view_s: float | None = None
    long_view_ratio: float | None = None
    completion_ratio: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise ValueError(f"labels.{name} is {value}, expected more than 0")

    @property
    def by_flag(self) -> bool:
        """Whether a view is long where the log says so."""
        return self.long_view_s is None and self.long_view_ratio is None

    def targets(self, impressions: pl.DataFrame, duration_ms: np.ndarray) -> np.ndarray:
        """(N, T) float32, columns as in TARGETS: 0/1 outcomes, then watched seconds. `duration_ms` (N,) of the video shown,
        nan (or 0) where unknown: no view of it is long for its ratio."""
        named = impressions.with_columns(
            pl.Series("long_view", self._long_view(impressions, duration_ms)),
            (pl.col("watch_ms") / 1000.0).alias("watch_s"),
        )
        return np.stack([named[name].to_numpy() for name in TARGETS], axis=1, dtype=np.float32, casting="unsafe")

    def _long_view(self, impressions: pl.DataFrame, duration_ms: np.ndarray) -> np.ndarray:
        if self.by_flag:
            return impressions["long_view"].to_numpy()
        long = np.zeros(len(impressions), bool)
        if self.long_view_s is not None:
            long |= impressions["watch_ms"].to_numpy() >= 1000 * self.long_view_s
        if self.long_view_ratio is not None:
            long |= watch_ratio(impressions, duration_ms) >= self.long_view_ratio
        return long

    def sums(self, targets: np.ndarray, ratio: np.ndarray) -> dict[str, float]:
        """What `rates` adds up, of `targets` (N, T) and watch `ratio` (N,): the rows, each target, and of the rows whose ratio
        is known how many, their completions, and their ratios with a repeat counted as 1."""
        known = ratio[~np.isnan(ratio)]
        found = {label: float(targets[:, place].sum(dtype=np.float64)) for place, label in enumerate(TARGETS)}
        completed, watched = float((known >= self.completion_ratio).sum()), float(np.minimum(known, 1.0).sum())
        return {"rows": float(len(ratio)), **found, "known": float(len(known)), "completion": completed, "watch_ratio": watched}


def rates(parts: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Split > label > its mean, None over nobody, of (split, `Labels.sums`) of parts of a log."""
    found = {}
    parts = list(parts)
    for index, name in enumerate(SPLITS):
        mine = [sums for split, sums in parts if split == index]
        total = {key: sum(sums[key] for sums in mine) for key in ("rows", *TARGETS, "known", "completion", "watch_ratio")}
        means = {label: _mean(total[label], total["rows"]) for label in TARGETS}
        found[name] = means | {label: _mean(total[label], total["known"]) for label in ("completion", "watch_ratio")}
    return found


def _mean(total: float, over: float) -> float | None:
    return round(total / over, 6) if over else None

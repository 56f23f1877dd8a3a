"""Outcomes > targets. Serving may not import this module: a label at serving time is a leak."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS
from watchnext.types import TARGETS


def watch_ratio(impressions: pl.DataFrame, duration_ms: np.ndarray) -> np.ndarray:
    """Return the watched share of each video (N,) float64: above 1 for replays, nan for an unknown duration."""
    known = np.where(duration_ms > 0, duration_ms, np.nan)
    return impressions["watch_ms"].to_numpy() / known


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Definitions of the labels.

    long_view_s       least seconds of a long view
    long_view_ratio   least watch ratio of a long view, as an alternative; both None: the log's flag decides
    completion_ratio  least watch ratio of a completed view
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
        """True if the log's own flag defines a long view."""
        return self.long_view_s is None and self.long_view_ratio is None

    def targets(self, impressions: pl.DataFrame, duration_ms: np.ndarray) -> np.ndarray:
        """Return the targets (N, T) float32, columns as in TARGETS: 0/1 outcomes, then watched seconds.

        duration_ms  (N,) of the videos, nan or 0 if unknown; then no view is long by its ratio
        """
        labelled = impressions.with_columns(
            pl.Series("long_view", self._long_view(impressions, duration_ms)),
            (pl.col("watch_ms") / 1000.0).alias("watch_s"),
        )
        return np.stack([labelled[name].to_numpy() for name in TARGETS], axis=1, dtype=np.float32, casting="unsafe")

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
        """Sum `targets` (N, T) and watch `ratio` (N,) for `rates`.

        The sums are: rows, each target, and over rows of known ratio their number, completions, and ratios clipped to 1.
        """
        known = ratio[~np.isnan(ratio)]
        sums = {label: float(targets[:, i].sum(dtype=np.float64)) for i, label in enumerate(TARGETS)}
        completed, watched = float((known >= self.completion_ratio).sum()), float(np.minimum(known, 1.0).sum())
        return {"rows": float(len(ratio)), **sums, "known": float(len(known)), "completion": completed, "watch_ratio": watched}


def rates(parts: Iterable[tuple[int, Mapping[str, float]]]) -> dict[str, dict[str, float | None]]:
    """Return split > label > mean (None without rows) from (split, `Labels.sums`) of the parts of a log."""
    result = {}
    parts = list(parts)
    for index, name in enumerate(SPLITS):
        of_split = [sums for split, sums in parts if split == index]
        total = {key: sum(sums[key] for sums in of_split) for key in ("rows", *TARGETS, "known", "completion", "watch_ratio")}
        means = {label: _mean(total[label], total["rows"]) for label in TARGETS}
        result[name] = means | {label: _mean(total[label], total["known"]) for label in ("completion", "watch_ratio")}
    return result


def _mean(total: float, over: float) -> float | None:
    return round(total / over, 6) if over else None

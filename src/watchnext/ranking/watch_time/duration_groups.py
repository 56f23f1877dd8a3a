"""Duration groups, and the tables over them that watch-time heads fit on training rows."""

from collections.abc import Callable

import numpy as np

from watchnext.nn.trainable import NothingToLearnError
from watchnext.ranking.watch_time.expectation import group_of

SHORTEST_S = 1e-3  # shorter durations count as unknown


def checked(watch_s: np.ndarray, duration_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Validate and convert to float64; unknown durations (nan, or below SHORTEST_S) become 0. Raises ValueError for unusable
    values, NothingToLearnError without rows."""
    watch_s = np.asarray(watch_s, np.float64)
    duration_s = np.nan_to_num(np.asarray(duration_s, np.float64))
    duration_s = np.where(duration_s >= SHORTEST_S, duration_s, 0.0)
    if watch_s.ndim != 1 or watch_s.shape != duration_s.shape:
        raise ValueError(f"watch_s {watch_s.shape} and duration_s {duration_s.shape} differ, expected (N,) both")
    if not len(watch_s):
        raise NothingToLearnError("no training rows for the watch-time head; check data.split")
    if not (np.isfinite(watch_s) & (watch_s >= 0)).all():
        bad = watch_s[~(np.isfinite(watch_s) & (watch_s >= 0))][0]
        raise ValueError(f"watch_s holds {bad}, expected seconds of at least 0; run `python -m watchnext.data check PATH`")
    return watch_s, duration_s


def duration_edges(duration_s: np.ndarray, groups: int) -> np.ndarray:
    """Return the lower edges (groups,) of duration groups of equal size; equal edges leave a group empty."""
    known = duration_s[duration_s > 0]
    parts = np.quantile(known, np.arange(1, groups) / groups) if len(known) else np.arange(1.0, groups)
    return np.append(SHORTEST_S, parts)


def table(of_rows: Callable[[np.ndarray], np.ndarray], values: np.ndarray, duration_s: np.ndarray, edges: np.ndarray):
    """Apply `of_rows` to the `values` (N,) of unknown duration and of each duration group: (1 + G, ...). A group without rows
    uses all rows."""
    group = group_of(duration_s, edges)
    parts = [values[group == number] for number in range(len(edges) + 1)]
    return np.stack([of_rows(part if len(part) else values) for part in parts])


def middle_quantile(watch: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Compute the quantile (N,) of `watch` (N,) among ascending `knots` (N, Q) of its row, by linear interpolation. Equal
    knots, as many watches of 0 or of the whole video produce, give the middle of their range."""
    below, upto = (knots < watch[:, None]).sum(1), (knots <= watch[:, None]).sum(1)
    last = knots.shape[1] - 1
    left, right = np.clip(below - 1, 0, last), np.clip(upto, 0, last)
    rows = np.arange(len(watch))
    low, high = knots[rows, left], knots[rows, right]
    part = np.divide(watch - low, high - low, out=np.zeros(len(watch)), where=high > low)
    position = np.where(upto > below, (below + upto - 1) / 2.0, left + np.clip(part, 0.0, 1.0))
    return np.clip(position / last, 0.0, 1.0)

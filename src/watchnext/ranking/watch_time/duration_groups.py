"""What a watch-time head learns of the training rows before the network does: duration groups, and tables over them."""

from collections.abc import Callable

import numpy as np

from watchnext.nn.training import NothingToLearnError
from watchnext.ranking.watch_time.expectation import group_of

SHORTEST_S = 1e-3  # a duration below it is unknown


def checked(watch_s: np.ndarray, duration_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As float64, an unknown duration (nan, or hardly any) as 0. Raises ValueError for what no head can be fitted on,
    NothingToLearnError for no rows."""
    watch_s = np.asarray(watch_s, np.float64)
    duration_s = np.nan_to_num(np.asarray(duration_s, np.float64))
    duration_s = np.where(duration_s >= SHORTEST_S, duration_s, 0.0)
    if watch_s.ndim != 1 or watch_s.shape != duration_s.shape:
        raise ValueError(f"watch_s {watch_s.shape} and duration_s {duration_s.shape} differ, expected (N,) both")
    if not len(watch_s):
        raise NothingToLearnError("a watch-time head was given no training rows; check data.split")
    if not (np.isfinite(watch_s) & (watch_s >= 0)).all():
        bad = watch_s[~(np.isfinite(watch_s) & (watch_s >= 0))][0]
        raise ValueError(f"watch_s holds {bad}, expected seconds of at least 0; run `python -m watchnext.data check PATH`")
    return watch_s, duration_s


def duration_edges(duration_s: np.ndarray, groups: int) -> np.ndarray:
    """(groups,) durations from which the next group begins, of equal size over known ones; equal edges leave a group empty."""
    known = duration_s[duration_s > 0]
    parts = np.quantile(known, np.arange(1, groups) / groups) if len(known) else np.arange(1.0, groups)
    return np.append(SHORTEST_S, parts)


def table(of_rows: Callable[[np.ndarray], np.ndarray], values: np.ndarray, duration_s: np.ndarray, edges: np.ndarray):
    """(1 + G, ...) `of_rows` of the `values` (N,) of unknown duration, and of those of every duration group; a group without
    rows takes all rows."""
    group = group_of(duration_s, edges)
    parts = [values[group == place] for place in range(len(edges) + 1)]
    return np.stack([of_rows(part if len(part) else values) for part in parts])


def middle_quantile(watch: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """(N,) quantile in [0, 1] of `watch` (N,) among own ascending `knots` (N, Q), linear between them; the middle of the
    range where knots are equal, as many watches of 0 or of the whole video make them."""
    below, upto = (knots < watch[:, None]).sum(1), (knots <= watch[:, None]).sum(1)
    last = knots.shape[1] - 1
    left, right = np.clip(below - 1, 0, last), np.clip(upto, 0, last)
    rows = np.arange(len(watch))
    low, high = knots[rows, left], knots[rows, right]
    part = np.divide(watch - low, high - low, out=np.zeros(len(watch)), where=high > low)
    place = np.where(upto > below, (below + upto - 1) / 2.0, left + np.clip(part, 0.0, 1.0))
    return np.clip(place / last, 0.0, 1.0)

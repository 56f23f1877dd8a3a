"""Popular source: the videos with the most of an outcome lately, over the whole catalogue."""

from collections.abc import Callable

import numpy as np

from watchnext.retrieval.sources.refreshed import Refreshed
from watchnext.retrieval.sources.source import decayed, ranked, slot_of
from watchnext.retrieval.sources.trending import RANKED
from watchnext.schema import StateSpec
from watchnext.types import Query

DAY_H = 24.0


def half_lives_of(state: StateSpec) -> dict[str, float]:
    """Return the half-life in hours of each popular source: the longest of the state, the shortest of a day or more, and the
    shortest."""
    days = [half_life for half_life in state.half_lives_h if half_life >= DAY_H]
    recent = min(days, default=max(state.half_lives_h))
    return {"popular": max(state.half_lives_h), "popular_recently": recent, "popular_now": min(state.half_lives_h)}


class PopularSource:
    """Propose the videos with the highest decayed count of an outcome, ranked again every `refresh_s`.

    videos        () > the counters of all videos (V, 1 + block), as folded so far
    count         outcome, one of the state's counts
    half_life_h   hours after which an outcome weighs half, one of the state's
    """

    def __init__(
        self, *, videos: Callable[[], np.ndarray], state: StateSpec, count: str, half_life_h: float, refresh_s: float
    ) -> None:
        self._videos, self._slot = videos, 1 + slot_of(state, count, half_life_h)
        self._half_life_h, self._ranked = half_life_h, Refreshed(self._rank, refresh_s=refresh_s)

    def candidates(self, query: Query, k: int) -> np.ndarray:
        return self._ranked.of(query.as_of_ms)[:k]

    def refresh(self, as_of_ms: float) -> None:
        self._ranked.refresh(as_of_ms)

    def _rank(self, as_of_ms: float) -> np.ndarray:
        counts = decayed(self._videos(), self._slot, as_of_ms, self._half_life_h)
        counted = np.flatnonzero(counts > 0)
        return counted[ranked(counted, counts[counted], RANKED)]

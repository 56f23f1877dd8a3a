"""Sources that need no model, and the merge of all sources into one set of candidates."""

import math
from collections.abc import Mapping

import numpy as np

from watchnext.features.counters import LN2
from watchnext.schema import StateSpec
from watchnext.types import SOURCES, Candidates

Found = tuple[np.ndarray, np.ndarray]  # rows (n,) int64 and scores (n,), best first


class PopularSource:
    """What is watched most now: one decayed count of every video, ranked anew whenever `refresh_s` have passed."""

    def __init__(self, *, state: StateSpec, count: str, half_life_h: float, refresh_s: float) -> None:
        if count not in state.counts or half_life_h not in state.half_lives_h:
            raise ValueError(
                f"popularity by {count!r} at {half_life_h} h is not kept; "
                f"the state has {', '.join(state.counts)} at {list(state.half_lives_h)} h"
            )
        self._slot = 1 + state.counts.index(count) * len(state.half_lives_h) + state.half_lives_h.index(half_life_h)
        self._half_life_ms = half_life_h * 3_600_000.0
        self._refresh_ms = refresh_s * 1000.0
        self._ranked: tuple[float, np.ndarray, np.ndarray] = (-math.inf, np.zeros(0, np.int64), np.zeros(0))

    def candidates(self, as_of_ms: float, videos: np.ndarray, k: int) -> Found:
        """The best `k` of the video records `videos` (V, 1 + block) as of `as_of_ms`; a video nobody watched is not popular."""
        at, rows, scores = self._ranked
        if not at <= as_of_ms < at + self._refresh_ms:
            scores = videos[:, self._slot] * np.exp(-np.maximum(as_of_ms - videos[:, 0], 0.0) * LN2 / self._half_life_ms)
            rows = np.argsort(-scores, kind="stable")
            rows = rows[scores[rows] > 0]
            scores = scores[rows]
            self._ranked = (as_of_ms, rows, scores)
        return rows[:k], scores[:k]


class FreshSource:
    """The latest uploads, newest first; videos of unknown upload time never count as fresh."""

    def __init__(self, *, upload_ms: np.ndarray) -> None:
        known = np.flatnonzero(np.isfinite(upload_ms))
        self._rows = known[np.argsort(upload_ms[known], kind="stable")]
        self._upload_ms = upload_ms[self._rows]

    def candidates(self, as_of_ms: float, videos: np.ndarray, k: int) -> Found:
        """The last `k` uploads strictly before `as_of_ms`; the score is minus the age in hours. `videos` is not looked at."""
        end = int(np.searchsorted(self._upload_ms, as_of_ms))
        chosen = slice(max(end - k, 0), end)
        return self._rows[chosen][::-1], (self._upload_ms[chosen][::-1] - as_of_ms) / 3_600_000.0


def merge(found: Mapping[str, Found], quotas: Mapping[str, int], *, upload_ms: np.ndarray, as_of_ms: float) -> Candidates:
    """Each source's best up to its quota, once each, in the order of SOURCES; later sources fill in what earlier ones lack.

    Videos uploaded after `as_of_ms` do not exist yet and are dropped, as is the padding -1. A score is that of the first
    source naming the video.
    """
    order: dict[int, tuple[int, float]] = {}
    for bit, name in enumerate(SOURCES):
        rows, scores = found.get(name, ((), ()))
        taken = 0
        for row, score in zip(rows, scores, strict=True):  # hundreds a request, whatever the catalogue
            row = int(row)
            if taken >= quotas[name]:
                break
            if row < 0 or upload_ms[row] > as_of_ms:
                continue
            bits, first = order.get(row, (0, float(score)))
            order[row] = (bits | 1 << bit, first)
            taken += 1
    rows = np.fromiter(order, np.int64, len(order))
    sources = np.array([bits for bits, _ in order.values()], np.uint16)
    return Candidates(rows, sources, np.array([score for _, score in order.values()], np.float32))

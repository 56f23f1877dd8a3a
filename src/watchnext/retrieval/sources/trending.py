"""Trending source: decayed counts of every video by surface and region, updated while serving."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from watchnext.features.state.fold import HOUR_MS
from watchnext.retrieval.sources.refreshed import Refreshed
from watchnext.retrieval.sources.source import ranked
from watchnext.types import Query

EVERYWHERE = 0
FAR = 64.0  # half-lives after which the landmark is moved
RANKED = 2_000  # depth of a kept ranking


@dataclass(frozen=True)
class TrendingCounts:
    """Trending counts as plain arrays.

    regions (R,), segments (S, 2)  names of the most active regions, and pairs of surface and region
    table (1 + R + S, V) float32   global, by region, by segment; an event at `landmark_ms` counts 1, later ones more
    landmark_ms, half_life_h       (1,) each
    """

    regions: np.ndarray
    segments: np.ndarray
    table: np.ndarray
    landmark_ms: np.ndarray
    half_life_h: np.ndarray

    @classmethod
    def nothing(cls, *, regions: Sequence[str], segments: Sequence[tuple[str, str]], videos: int, landmark_ms: float,
                half_life_h: float) -> "TrendingCounts":  # fmt: skip
        table = np.zeros((1 + len(regions) + len(segments), videos), np.float32)
        named = np.array(regions, np.str_), np.array(segments, np.str_).reshape(-1, 2)
        return cls(*named, table, np.array([landmark_ms]), np.array([half_life_h]))


class Trending:
    """Live trending counts and their ranking, with `room` for videos that are posted later.

    Counts decay by a landmark (forward decay: Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009): an event at t adds
    2^((t - landmark) / half-life) and nothing else changes, so late events and rankings need no correction. float32: a
    count stops growing near 16 million decayed events.
    """

    def __init__(self, counted: TrendingCounts, *, room: int = 0) -> None:
        self._names = counted.regions, counted.segments
        lines, videos = counted.table.shape
        self._table = np.zeros((lines, videos + room), np.float32)
        self._table[:, :videos] = counted.table
        self._landmark_ms, self.half_life_ms = float(counted.landmark_ms[0]), float(counted.half_life_h[0]) * HOUR_MS
        regions = 1 + len(counted.regions)
        self._regions = {str(region): line for line, region in enumerate(counted.regions, 1)}
        self._segments = {(str(s), str(r)): line for line, (s, r) in enumerate(counted.segments, regions)}
        self._writing = threading.Lock()

    def levels(self, surface: str | None, region: str | None) -> tuple[int, ...]:
        """Return the table rows of a surface and region, from global to specific; names without a row are omitted."""
        surface, region = surface or "", region or ""
        down = self._regions.get(region), self._segments.get((surface, region))
        return (EVERYWHERE, *(line for line in down if line is not None))

    def all_levels(self) -> set[tuple[int, ...]]:
        """Return every answer of `levels`."""
        surfaces = {surface for surface, _ in self._segments}
        regions = {*self._regions, *(region for _, region in self._segments), None}
        return {self.levels(surface, region) for surface in (None, *surfaces) for region in regions}

    def lines(self, places: Sequence[tuple[str | None, str | None]]) -> np.ndarray:
        """Return `levels` of several (surface, region) pairs: (N, 3), padded with -1."""
        found = [self.levels(*line) for line in places]
        return np.array([each + (-1,) * (3 - len(each)) for each in found], np.int64).reshape(-1, 3)

    def count(self, rows: np.ndarray, known_at: np.ndarray, lines: np.ndarray) -> None:
        """Count events: video rows (N,), times in ms (N,), and table rows (N, 3) from `lines`."""
        if not len(rows):
            return
        event, level = np.nonzero(lines >= 0)
        with self._writing:
            self._approach(float(known_at.max()))
            weights = np.exp2((known_at - self._landmark_ms) / self.half_life_ms).astype(np.float32)
            np.add.at(self._table, (lines[event, level], rows[event]), weights[event])

    def _approach(self, now_ms: float) -> None:
        """Move the landmark before weights overflow float32."""
        if now_ms - self._landmark_ms > FAR * self.half_life_ms:
            self._table *= np.float32(np.exp2((self._landmark_ms - now_ms) / self.half_life_ms))
            self._landmark_ms = now_ms

    def shares(self, levels: Sequence[int], as_of_ms: float, prior: float) -> np.ndarray:
        """Estimate each video's share of watches (V,) float32 at the last of `levels`, smoothed by `prior` events distributed
        as at the level above (hierarchical Dirichlet prior: MacKay and Peto, Natural Language Engineering 1995)."""
        shares = np.zeros(self._table.shape[1], np.float32)
        weight = np.float32(0.0)
        with self._writing:
            for line in levels:
                counts = self._table[line]
                total = counts.sum(dtype=np.float64) + weight
                shares = (counts + weight * shares) / np.float32(max(total, 1e-30))
                weight = np.float32(prior * np.exp2(min((as_of_ms - self._landmark_ms) / self.half_life_ms, FAR)))
        return shares

    def counted(self) -> TrendingCounts:
        """Return a copy of the current counts for saving."""
        with self._writing:
            when = np.array([self._landmark_ms]), np.array([self.half_life_ms / HOUR_MS])
            return TrendingCounts(*self._names, self._table.copy(), *when)


class TrendingSource:
    """Propose the most watched videos of the request's surface and region, ranked again every `refresh_s`. Unknown or rare
    surfaces and regions fall back to the level above: region, then global."""

    def __init__(self, *, trending: Trending, prior: float, refresh_s: float) -> None:
        self._trending, self._prior = trending, prior
        self._ranked = {each: Refreshed(partial(self._rank, each), refresh_s=refresh_s) for each in trending.all_levels()}

    def candidates(self, query: Query, k: int) -> np.ndarray:
        return self._ranked[self._trending.levels(query.request.surface, query.region)].of(query.as_of_ms)[:k]

    def refresh(self, as_of_ms: float) -> None:
        for each in self._ranked.values():
            each.refresh(as_of_ms)

    def _rank(self, levels: tuple[int, ...], as_of_ms: float) -> np.ndarray:
        shares = self._trending.shares(levels, as_of_ms, self._prior)
        watched = np.flatnonzero(shares > 0)
        return watched[ranked(watched, shares[watched], RANKED)]

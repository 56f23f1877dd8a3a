"""Baselines that cost nothing and must be beaten: popularity over three spans of time, and chance."""

import hashlib

import numpy as np

from watchnext.retrieval.sources.popular import half_lives_of
from watchnext.retrieval.sources.source import decayed, slot_of
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import Request


class Baselines:
    """Rank the whole catalogue for a request, `depth` videos, without seen and not yet uploaded ones.

    popular         long views flagged by the log before the held-out days, with the longest half-life of the state, the
                    nearest to no decay
    recent popular  with the shortest half-life of at least a day
    popular now     with the shortest half-life
    random          at random, seeded by the request
    """

    def __init__(self, release: Release, store: Store, *, depth: int) -> None:
        self._release, self._store, self._depth = release, store, depth
        state = release.pipeline.schema.state
        count = "long_view" if "long_view" in state.counts else state.counts[0]
        self._half_lives = half_lives_of(state)
        self._slots = {name: 1 + slot_of(state, count, half_life_h) for name, half_life_h in self._half_lives.items()}
        self._popular = self._decayed("popular", release.state.videos, release.as_of_ms)
        self._upload_ms = np.nan_to_num(np.array(release.catalogue.upload_ms), nan=-np.inf)

    def rank(self, request: Request) -> dict[str, np.ndarray]:
        """Return baseline name > rows (at most depth,), best first."""
        allowed = self._upload_ms <= request.as_of_ms
        allowed[self._store.seen(request.user_id).rows] = False
        seed = int.from_bytes(hashlib.sha256(request.request_id.encode()).digest()[:8], "big")
        values = {
            "popular": self._popular,
            "recent popular": self._decayed("popular_recently", self._store.videos, request.as_of_ms),
            "popular now": self._decayed("popular_now", self._store.videos, request.as_of_ms),
            "random": np.random.default_rng(seed).random(len(allowed)),
        }
        return {name: best(value, allowed, self._depth) for name, value in values.items()}

    def _decayed(self, name: str, videos: np.ndarray, as_of_ms: float) -> np.ndarray:
        return decayed(videos, self._slots[name], as_of_ms, self._half_lives[name])


def best(values: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """Return at most `k` rows with the highest `values` (V,) among the `allowed` (V,), best first; of ties, the lower row.

    The time grows with V, not with V log V.
    """
    rows = np.flatnonzero(allowed)
    values = values[rows]
    if len(rows) > k:
        least = np.partition(values, len(values) - k)[len(values) - k]
        above, ties = np.flatnonzero(values > least), np.flatnonzero(values == least)
        kept = np.concatenate([above, ties[: k - len(above)]])
        rows, values = rows[kept], values[kept]
    return rows[np.argsort(-values, kind="stable")]

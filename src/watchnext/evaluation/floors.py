"""What costs nothing and must be beaten: popularity, recent popularity, chance."""

import hashlib

import numpy as np

from watchnext.features import history
from watchnext.features.counters import LN2
from watchnext.features.fold import HOUR_MS
from watchnext.serving.release import Release
from watchnext.serving.store import Store
from watchnext.types import Request

KEPT = 1000  # how deep a floor's ranking is followed


class Floors:
    """Rankings of the whole catalogue for a request, seen and not yet uploaded videos left out.

    popular         by long views of the training log, undecayed as nearly as the state keeps it (its longest half-life)
    recent popular  by the shortest half-life of at least a day
    random          by chance, seeded by the request
    """

    def __init__(self, release: Release, store: Store) -> None:
        self._release, self._store = release, store
        state = release.pipeline.schema.state
        self._half_lives = state.half_lives_h
        count = "long_view" if "long_view" in state.counts else state.counts[0]
        self._first = 1 + state.counts.index(count) * len(self._half_lives)
        self._popular = self._decayed(release.state.videos, release.as_of_ms, max(self._half_lives))
        self._recent = min((h for h in self._half_lives if h >= 24), default=max(self._half_lives))
        self._upload_ms = np.nan_to_num(np.array(release.catalogue.upload_ms), nan=-np.inf)

    def of(self, request: Request) -> dict[str, np.ndarray]:
        """Floor name > rows (KEPT,), best first."""
        layout = self._release.layout
        barred = self._upload_ms > request.as_of_ms
        barred[history.seen(self._store.viewer(request.user_id), layout.at_seen, layout.seen)] = True
        seed = int.from_bytes(hashlib.sha256(request.request_id.encode()).digest()[:8], "big")
        values = {
            "popular": self._popular,
            "recent popular": self._decayed(self._store.videos, request.as_of_ms, self._recent),
            "random": np.random.default_rng(seed).random(len(barred)),
        }
        return {name: np.argsort(np.where(barred, np.inf, -value), kind="stable")[:KEPT] for name, value in values.items()}

    def _decayed(self, videos: np.ndarray, as_of_ms: float, half_life_h: float) -> np.ndarray:
        slot = self._first + self._half_lives.index(half_life_h)
        return videos[:, slot] * np.exp(-np.maximum(as_of_ms - videos[:, 0], 0.0) * LN2 / (half_life_h * HOUR_MS))

"""Count what one arm of a canary did: answers, failures, times, and the seconds that its viewers watched."""

from collections import deque
from collections.abc import Hashable

import numpy as np

TIMES_KEPT = 2_000
VIEWERS_KEPT = 20_000  # of an arm; later ones are answered and not counted for watch time
RESULTS = ("errors", "degraded", "short")


class ArmCounts:
    """Counts of one arm. Threads may count at once: a lost update of one in thousands decides nothing.

    answers   answers, and errors in their place
    errors    answers that failed
    degraded  answers of which a part failed
    short     answers with fewer videos than were asked for
    unruly    answers that would have broken a hard rule, by the rule, and were not shown
    """

    def __init__(self) -> None:
        self.answers = 0
        self.results = dict.fromkeys(RESULTS, 0)
        self.unruly: dict[str, int] = {}
        self._times_ms: deque[float] = deque(maxlen=TIMES_KEPT)
        self._watched: dict[Hashable, list[float]] = {}  # viewer > [impressions, seconds]

    def failed(self) -> None:
        self.answers += 1
        self.results["errors"] += 1

    def broke(self, rules: list[str]) -> None:
        for name in rules:
            self.unruly[name] = self.unruly.get(name, 0) + 1

    def answered(self, *, ms: float, degraded: bool, short: bool) -> None:
        self.answers += 1
        self.results["degraded"] += degraded
        self.results["short"] += short
        self._times_ms.append(ms)

    def shown(self, viewer: Hashable, impressions: int) -> None:
        """Count impressions of a viewer."""
        if viewer in self._watched or len(self._watched) < VIEWERS_KEPT:
            self._watched.setdefault(viewer, [0.0, 0.0])[0] += impressions

    def watched(self, viewer: Hashable, seconds: float) -> None:
        """Count seconds of a viewer who was shown something."""
        if (counted := self._watched.get(viewer)) is not None:
            counted[1] += seconds

    def forget(self, viewer: Hashable) -> None:
        self._watched.pop(viewer, None)

    @property
    def times_ms(self) -> np.ndarray:
        """Times of the last answers (n,)."""
        return np.array(self._times_ms.copy())

    @property
    def watch(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds and impressions by viewer, each (U,)."""
        counted = np.array(list(self._watched.copy().values())).reshape(-1, 2)
        return counted[:, 1], counted[:, 0]

    def summary(self) -> dict:
        """Return the counts, JSON-ready; times and seconds are null where there are none."""
        times, (seconds, impressions) = self.times_ms, self.watch
        quantiles = np.quantile(times, (0.5, 0.99)).tolist() if len(times) else (None, None)
        return {
            "answers": self.answers,
            **self.results,
            "unruly": dict(self.unruly),
            "p50_ms": quantiles[0],
            "p99_ms": quantiles[1],
            "viewers": len(impressions),
            "impressions": int(impressions.sum()),
            "watch_s_per_impression": float(seconds.sum() / impressions.sum()) if impressions.sum() else None,
        }

"""Limit the rate of each key with a token bucket."""

import time
from collections.abc import Callable

BURST_S = 2.0  # a bucket holds what these seconds refill
BUCKETS_MOST = 10_000  # names of keys that a changing file may bring


class RateLimit:
    """Let each name through `rate_per_s` times a second, and in bursts of two seconds' worth."""

    def __init__(self, rate_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate_per_s, clock
        self._most = max(rate_per_s * BURST_S, 1.0)
        self._buckets: dict[str, tuple[float, float]] = {}  # name > tokens, and when they were counted

    def wait_s(self, name: str) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        now = self._clock()
        if len(self._buckets) >= BUCKETS_MOST:
            self._buckets.clear()
        tokens, at = self._buckets.get(name, (self._most, now))
        tokens = min(tokens + (now - at) * self._rate, self._most)
        taken = tokens >= 1.0
        self._buckets[name] = (tokens - taken, now)
        return 0.0 if taken else (1.0 - tokens) / self._rate

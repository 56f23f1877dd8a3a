"""A value computed from the whole catalogue and kept for a while. A server computes it again before it is too old, so that no
request waits for work that grows with the catalogue."""

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")
EARLIER_MS = 2000.0  # a request may have got its time before a value was computed, and reach the value after that


class Refreshed(Generic[T]):
    """Keep the result of `compute(as_of_ms)` for `refresh_s`. Any thread may call it."""

    def __init__(self, compute: Callable[[float], T], *, refresh_s: float) -> None:
        self._compute, self._refresh_ms = compute, 1000.0 * refresh_s
        self._kept: tuple[float, T | None] = (-np.inf, None)

    def of(self, as_of_ms: float) -> T:
        """Return the value that is kept at a time; where it is too old or of later, compute it."""
        at, value = self._kept
        earlier_ms = min(EARLIER_MS, self._refresh_ms)
        return value if at - earlier_ms <= as_of_ms < at + self._refresh_ms else self.refresh(as_of_ms)

    def refresh(self, as_of_ms: float) -> T:
        """Compute the value as of a time, and keep it."""
        value = self._compute(as_of_ms)
        self._kept = (as_of_ms, value)
        return value

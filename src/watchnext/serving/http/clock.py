"""The clock of the server."""

import threading
import time

BACK_MOST_MS = 60_000


class Clock:
    """Return milliseconds, later at every call: an event is known strictly before the time of the next request.

    `start_ms` None is the wall clock. Above a thousand calls a second the clock runs ahead; it waits when calls are fewer, and
    where the wall clock is set back. One that is set back by more than BACK_MOST_MS is followed, the one moment that is not
    later: it had been wrong, and waiting for it would refuse true times of events, perhaps for days.
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._lock = threading.Lock()
        self._last, self._is_wall = -1, start_ms is None
        self._offset_ms = (_wall_ms() if start_ms is None else start_ms) - _monotonic_ms()  # the largest, of the wall clock

    def __call__(self) -> int:
        with self._lock:
            now = self._wall() if self._is_wall else _monotonic_ms() + self._offset_ms
            self._last = max(now, self._last + 1)
            return self._last

    def _wall(self) -> int:
        """Read the wall clock. One that was set back is known by the monotonic clock: `_last` may run ahead by itself."""
        now = _wall_ms()
        offset_ms = now - _monotonic_ms()
        if offset_ms < self._offset_ms - BACK_MOST_MS:
            self._last, self._offset_ms = -1, offset_ms
        self._offset_ms = max(self._offset_ms, offset_ms)
        return now

    def advance_to(self, start_ms: int) -> None:
        """Let a clock that is not the wall's show `start_ms` at least, where a release's state ends."""
        with self._lock:
            if not self._is_wall:
                self._offset_ms = max(self._offset_ms, start_ms - _monotonic_ms())


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000

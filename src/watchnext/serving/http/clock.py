"""The clock of the server."""

import threading
import time


class Clock:
    """Return milliseconds, later at every call: an event is known strictly before the time of the next request.

    `start_ms` None is the wall clock. Above a thousand calls a second the clock runs ahead; it waits when calls are fewer.
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._lock = threading.Lock()
        self._last = -1
        self._offset_ms = None if start_ms is None else start_ms - _monotonic_ms()

    def __call__(self) -> int:
        with self._lock:
            now = time.time_ns() // 1_000_000 if self._offset_ms is None else _monotonic_ms() + self._offset_ms
            self._last = max(now, self._last + 1)
            return self._last

    def advance_to(self, start_ms: int) -> None:
        """Let a clock that is not the wall's show `start_ms` at least, where a release's state ends."""
        with self._lock:
            if self._offset_ms is not None:
                self._offset_ms = max(self._offset_ms, start_ms - _monotonic_ms())


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000

"""Repeat a piece of work in a thread beside the requests, such as ranking the whole catalogue."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Refresher:
    """Call `refresh()` every `every_s` until `close`; a call that fails is logged, and the next one is made in its time."""

    def __init__(self, refresh: Callable[[], None], *, every_s: float) -> None:
        self._refresh, self._every_s = refresh, every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="refresher", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(self._every_s):
            try:
                self._refresh()
            except Exception:
                log.exception("the rankings of the whole catalogue were not refreshed")

    def close(self) -> None:
        """Stop after the call that is running; a second call does nothing."""
        self._closed.set()
        self._thread.join()

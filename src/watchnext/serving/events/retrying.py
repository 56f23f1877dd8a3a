"""Try again what fails for a while, until it works or the process is to end."""

import logging
import math
import signal
import threading
from collections.abc import Callable
from typing import TypeVar

import httpx

from watchnext.client import ApiError
from watchnext.serving.events.event_log import EventLogError
from watchnext.serving.store.engines.engine import StoreError

log = logging.getLogger(__name__)
R = TypeVar("R")

FIRST_S, LONGEST_S = 0.2, 10.0  # waits between two tries


class StoppedError(Exception):
    """The process is to end, and what it tried has not worked yet."""


class Retrying:
    """Call functions until they work. `stop` ends the waiting."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    @classmethod
    def until_signal(cls) -> "Retrying":
        """Return one that SIGTERM and Ctrl-C end."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        return cls(stop)

    def __call__(self, act: Callable[[], R], *, failures: float = math.inf) -> R:
        """Return what `act` returns once it works. Raises StoppedError, and whatever does not pass by itself: also an answer
        500, once there were as many `failures` of the server at what it was sent."""
        wait_s = FIRST_S
        while True:
            try:
                return act()
            except (EventLogError, StoreError, httpx.TransportError, ApiError, OSError) as error:  # the last of a full disk
                if isinstance(error, ApiError):
                    failures -= error.status == 500
                    if failures <= 0 or (error.status != 429 and error.status < 500):
                        raise
                log.warning("%s; tried again in %g s", str(error) or repr(error), wait_s)
            if self.stop.wait(wait_s):
                raise StoppedError
            wait_s = min(2 * wait_s, LONGEST_S)

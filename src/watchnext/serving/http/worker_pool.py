"""A bounded thread pool for CPU work: calls above its capacity are rejected at once, so the queue cannot grow."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class OverloadedError(Exception):
    """All threads are busy and the queue is full."""


class TooSlowError(Exception):
    """The call did not end in time; it occupies its slot until it does."""


# Priority > share of the waiting places that its calls may fill: low is refused first, high last.
WAITING_SHARE = {"low": 0.5, "normal": 1.0, "high": 1.25}
PRIORITIES = tuple(WAITING_SHARE)


class WorkerPool:
    """Run at most `threads` calls at once, while at most `waiting` more wait; of other priorities by WAITING_SHARE."""

    def __init__(self, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="watchnext")
        self._capacity = {priority: threads + int(share * waiting) for priority, share in WAITING_SHARE.items()}
        self._lock = threading.Lock()
        self._calls: set[Future] = set()
        self.in_use = 0

    def _submit(self, call: Callable[[], T], priority: str) -> Future[T]:
        most = self._capacity[priority]
        with self._lock:
            if self.in_use >= most:
                raise OverloadedError(f"{self.in_use} requests are running or waiting, expected at most {most}")
            self.in_use += 1
        try:
            future = self._pool.submit(copy_context().run, call)  # with the id of the request, for the log
        except RuntimeError as error:  # shut down in the meantime
            self._free(None)
            raise OverloadedError("the server is stopping") from error
        with self._lock:
            self._calls.add(future)
        # Freed when the call ends, not when its client gives up: a busy thread cannot take more.
        future.add_done_callback(self._free)
        return future

    def _free(self, done: Future | None) -> None:
        with self._lock:
            self._calls.discard(done)
            self.in_use -= 1

    async def run(self, call: Callable[[], T], *, timeout_s: float, priority: str = "normal") -> T:
        """Return the result of `call()` in a thread of the pool. Raises OverloadedError and TooSlowError."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._submit(call, priority)), timeout_s)
        except TimeoutError as error:
            raise TooSlowError(f"no answer within {timeout_s:g} s") from error

    def drain(self) -> None:
        """Wait for the calls that are running or waiting now; later ones may come meanwhile."""
        with self._lock:
            calls = list(self._calls)
        wait(calls)

    def close(self) -> None:
        """Drop waiting calls, and wait for running ones."""
        self._pool.shutdown(wait=True, cancel_futures=True)

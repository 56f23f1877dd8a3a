"""A bounded thread pool for CPU work: calls above its capacity are rejected at once, so the queue cannot grow."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")


class OverloadedError(Exception):
    """All threads are busy, and the queue is full or does not move."""


class TooSlowError(Exception):
    """The call did not end in time; it occupies its slot until it does."""


# Priority > share of the queue, in calls and in time, that its calls may fill: low is refused first, high last.
WAITING_SHARE = {"low": 0.5, "normal": 1.0, "high": 1.25}
PRIORITIES = tuple(WAITING_SHARE)


class WorkerPool:
    """Run at most `threads` calls at once, while at most `waiting` more wait, the first of them no longer than `wait_s`.

    By WAITING_SHARE these are other bounds for another priority. Where a call takes long, a short queue takes long too: one
    bounded by number alone would run calls whose clients gave up.
    """

    def __init__(self, *, threads: int, waiting: int, wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="watchnext")
        self._capacity = {priority: threads + int(share * waiting) for priority, share in WAITING_SHARE.items()}
        self._wait_s = {priority: share * wait_s for priority, share in WAITING_SHARE.items()}
        self._clock, self._lock, self._numbers = clock, threading.Lock(), itertools.count()
        self._queued: dict[int, float] = {}  # number of a call that waits > since when, in the order in which they came
        self._calls: set[Future] = set()
        self.in_use = 0

    def refusal(self, priority: str, coming: int = 0) -> str | None:
        """Say why a call of this priority would be rejected now, behind `coming` others; None where it would be taken."""
        most, wait_s, taken = self._capacity[priority], self._wait_s[priority], self.in_use + coming
        if taken >= most:
            return f"{taken} requests are running or waiting, expected at most {most}"
        now = self._clock()
        with self._lock:
            waited_s = now - next(iter(self._queued.values()), now)
        if waited_s > wait_s:
            return f"a request has waited {waited_s:.1f} s for a thread, expected at most {wait_s:g} s"
        return None

    def _submit(self, call: Callable[[], T], priority: str) -> Future[T]:
        if (why := self.refusal(priority)) is not None:
            raise OverloadedError(why)
        number = next(self._numbers)
        with self._lock:
            self.in_use += 1
            self._queued[number] = self._clock()

        def started() -> T:
            with self._lock:
                del self._queued[number]
            return call()

        try:
            future = self._pool.submit(copy_context().run, started)  # with the id of the request, for the log
        except RuntimeError as error:  # shut down in the meantime
            self._free(number, None)
            raise OverloadedError("the server is stopping") from error
        with self._lock:
            self._calls.add(future)
        # Freed when the call ends, not when its client gives up: a busy thread cannot take more.
        future.add_done_callback(partial(self._free, number))
        return future

    def _free(self, number: int, done: Future | None) -> None:
        with self._lock:
            self._queued.pop(number, None)  # given up before it ran
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

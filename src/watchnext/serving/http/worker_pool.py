"""A bounded pool for work that holds the processor: what does not fit is refused at once, never queued without end."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OverloadedError(Exception):
    """All threads are busy and the queue is full."""


class TooSlowError(Exception):
    """The work did not end in time; it still holds its place until it does."""


class Work:
    def __init__(self, *, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="watchnext")
        self._places = threads + waiting
        self._lock = threading.Lock()
        self.taken = 0

    def _submit(self, call: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self.taken >= self._places:
                raise OverloadedError(f"{self.taken} requests are at work or waiting, at most {self._places} may")
            self.taken += 1
        try:
            future = self._pool.submit(call)
        except RuntimeError as error:  # shut down meanwhile
            self._free(None)
            raise OverloadedError("the server is stopping") from error
        # Freed when the work ends, not when its asker gives up: a thread that is still busy has no room for more.
        future.add_done_callback(self._free)
        return future

    def _free(self, _: Future | None) -> None:
        with self._lock:
            self.taken -= 1

    async def run(self, call: Callable[[], T], *, timeout_s: float) -> T:
        """The result of `call()` in a thread of the pool. Raises OverloadedError and TooSlowError."""
        try:
            return await asyncio.wait_for(asyncio.wrap_future(self._submit(call)), timeout_s)
        except TimeoutError as error:
            raise TooSlowError(f"no answer within {timeout_s:g} s") from error

    def close(self) -> None:
        """Drop what waits, let what runs end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

"""Group commit: calls of many threads > one transaction, and so one wait for the disk, for all that wait at the time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from watchnext.serving.store.engines.engine import StoreDownError, StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.live_videos import changes_catalogue

GROUPED = 1_000  # events a transaction, unless one call has more: the first of a group waits for the fold of them all


class StoreBusyError(StoreError):
    """More events wait for the disk than may; the call was refused and may be repeated."""


class GroupCommit:
    """Hand events to a store from any thread; one thread writes them, in the order of the calls.

    At most `most_waiting` events wait: a call that would make them more is refused.

    waiting  number of events that wait for their transaction
    """

    def __init__(self, store: Store, *, most_waiting: int) -> None:
        self._store, self._most = store, most_waiting
        self._lock, self._calls = threading.Lock(), deque()
        self._last: dict[int | str, Future] = {}  # owner > the last of its calls, until it is on disk
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="group-commit")
        self.waiting = 0

    def submit(self, events: Sequence[Event], *, owner: int | str | None = None) -> Future[list[str]]:
        """Return the results of `Store.apply`, or its StoreError, once the events are on disk; `settle` waits for an owner's.

        A call that is canceled before its transaction starts counts nothing. Raises StoreBusyError, and StoreError after a
        failed write or after `close`; then no event was taken.
        """
        self._store.require_writable()
        future: Future = Future()
        with self._lock:
            if self.waiting + len(events) > self._most:
                raise StoreBusyError(f"{self.waiting} events wait for the disk, expected at most {self._most}")
            try:
                self._writer.submit(self._commit)  # a step a call; one that finds no call left does nothing
            except RuntimeError as error:
                raise StoreError("the store is closing; no events were taken") from error
            self._calls.append((events, future))
            self.waiting += len(events)
            if owner is not None:
                self._last[owner] = future
                future.add_done_callback(partial(self._forget, owner))
        return future

    def settle(self, owner: int | str, timeout_s: float) -> None:
        """Wait until the owner's last call is on disk, `timeout_s` at most."""
        if (last := self._last.get(owner)) is not None:
            wait([last], timeout_s)

    def hand_over(self, successor: Callable[[], Store]) -> Future[None]:
        """Write all later calls to the store that `successor()` returns; no call is written while it runs. Where it raises, the
        store stays. Raises StoreError after `close`."""
        try:
            return self._writer.submit(self._replace, successor)
        except RuntimeError as error:
            raise StoreError("the store is closing; it is handed over no more") from error

    def _replace(self, successor: Callable[[], Store]) -> None:
        self._store = successor()

    def _forget(self, owner: int | str, done: Future) -> None:
        with self._lock:
            if self._last.get(owner) is done:
                del self._last[owner]

    def close(self) -> None:
        """Write all that waits, then stop; a second call does nothing. The store stays open."""
        self._writer.shutdown(wait=True)

    def _commit(self) -> None:
        group = [(events, future) for events, future in self._taken() if future.set_running_or_notify_cancel()]
        if group and not self._applied(group):
            for call in group:  # each alone, so that a call that cannot be stored costs only itself
                self._applied([call])

    def _taken(self) -> list[tuple[Sequence[Event], Future]]:
        taken, size = [], 0
        with self._lock:
            while self._calls and (not taken or self._fit(taken[-1][0], self._calls[0][0], size)):
                taken.append(self._calls.popleft())
                size += len(taken[-1][0])
            self.waiting -= size
        return taken

    @staticmethod
    def _fit(last: Sequence[Event], events: Sequence[Event], size: int) -> bool:
        """Return True if `events` may join a group of `size` that ends with `last`; those that change videos stay alone."""
        return size + len(events) <= GROUPED and not changes_catalogue(last) and not changes_catalogue(events)

    def _applied(self, group: list[tuple[Sequence[Event], Future]]) -> bool:
        """Apply the calls of a group in one transaction. Returns False where they may still be applied one by one."""
        try:
            results = iter(self._store.apply([event for events, _ in group for event in events]))
        except Exception as error:
            if len(group) > 1 and not self._store.failed and not isinstance(error, StoreDownError):
                return False
            for _, future in group:
                future.set_exception(error)
            return True
        for events, future in group:
            future.set_result([next(results) for _ in events])
        return True

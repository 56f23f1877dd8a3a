"""Group commit: calls of many threads > one transaction, and so one wait for the disk, for all that wait at the time."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from itertools import islice
from typing import NamedTuple

from watchnext.serving.store.engines.engine import StoreDownError, StoreError
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.live_videos import changes_catalogue

GROUPED = 1_000  # events a transaction, unless one call has more: the first of a group waits for the fold of them all
GATHER_S = 0.05  # calls for which nobody waits yet wait this long for others: a transaction costs as much as 50 events


class StoreBusyError(StoreError):
    """More events wait for the disk than may; the call was refused and may be repeated."""


class _Call(NamedTuple):
    """Events to apply, perhaps of an owner, or a store to go on with. `due` is the time (monotonic) at which it has waited long
    enough; `alone` says that no other call may join it."""

    events: Sequence[Event]
    future: Future
    due: float
    owner: int | str | None = None
    alone: bool = False
    successor: Callable[[], Store] | None = None


class GroupCommit:
    """Hand events to a store from any thread; one thread writes them, in the order of the calls.

    At most `most_waiting` events wait: a call that would make them more is refused. Calls of owners are gathered for GATHER_S,
    unless another call, `settle` or `close` asks for their transaction.

    waiting  number of events that wait for their transaction
    """

    def __init__(self, store: Store, *, most_waiting: int) -> None:
        self._store, self._most = store, most_waiting
        self._changed, self._calls = threading.Condition(), deque()
        self._last: dict[int | str, Future] = {}  # owner > the last of its calls, until it is on disk
        self._is_awaited = self._is_closed = False
        self.waiting = 0
        self._writer = threading.Thread(target=self._run, name="group-commit", daemon=True)  # begins with the first call

    def submit(self, events: Sequence[Event], *, owner: int | str | None = None) -> Future[list[str]]:
        """Return the results of `Store.apply`, or its StoreError, once the events are on disk; `settle` waits for an owner's.

        A call that is canceled before its transaction starts counts nothing. Raises StoreBusyError, and StoreError after a
        failed write or after `close`; then no event was taken.
        """
        self._store.require_writable()
        with self._changed:
            if self._is_closed:
                raise StoreError("the store is closing; no events were taken")
            if self.waiting + len(events) > self._most:
                raise StoreBusyError(f"{self.waiting} events wait for the disk, expected at most {self._most}")
            self.waiting += len(events)
            call = _Call(events, Future(), time.monotonic() + GATHER_S, owner, owner is None and changes_catalogue(events))
            self._queue(call, is_awaited=owner is None or self.waiting >= GROUPED)
            if owner is not None:
                self._last[owner] = call.future
        return call.future

    def _queue(self, call: _Call, *, is_awaited: bool) -> None:
        """Queue a call, with the lock held. The writer is woken for the first of a group, and for one that is awaited."""
        if self._writer.ident is None:
            self._writer.start()
        self._calls.append(call)
        if (is_awaited and not self._is_awaited) or len(self._calls) == 1:
            self._is_awaited |= is_awaited
            self._changed.notify()

    def is_settled(self, owner: int | str) -> bool:
        """Return True if all of the owner's calls are on disk."""
        return owner not in self._last

    def settle(self, owner: int | str, timeout_s: float) -> None:
        """Wait until the owner's last call is on disk, `timeout_s` at most."""
        if (last := self._last.get(owner)) is not None:
            self._hurry()
            wait([last], timeout_s)

    def _hurry(self) -> None:
        with self._changed:
            self._is_awaited = True
            self._changed.notify()

    def hand_over(self, successor: Callable[[], Store]) -> Future[None]:
        """Write all later calls to the store that `successor()` returns; no call is written while it runs. Where it raises, the
        store stays. Raises StoreError after `close`."""
        with self._changed:
            if self._is_closed:
                raise StoreError("the store is closing; it is handed over no more")
            call = _Call((), Future(), time.monotonic(), alone=True, successor=successor)
            self._queue(call, is_awaited=True)
        return call.future

    def _forget(self, calls: Sequence[_Call]) -> None:
        """Let the owners of calls that are done be settled, but for those with a later call."""
        with self._changed:
            for call in calls:
                if call.owner is not None and self._last.get(call.owner) is call.future:
                    del self._last[call.owner]

    def close(self) -> None:
        """Write all that waits, then stop; a second call does nothing. The store stays open."""
        with self._changed:
            self._is_closed = True
        self._hurry()
        if self._writer.ident is not None:
            self._writer.join()

    def _run(self) -> None:
        while calls := self._due():
            group = [call for call in calls if call.future.set_running_or_notify_cancel()]
            if len(group) < len(calls):
                self._forget([call for call in calls if call.future.cancelled()])
            if group and group[0].successor is not None:
                self._replace(*group)
            elif group and not self._applied(group):
                for call in group:  # each alone, so that a call that cannot be stored costs only itself
                    self._applied([call])

    def _due(self) -> list[_Call]:
        """Wait for calls and take those of the next transaction; none are left where the list is empty."""
        with self._changed:
            while not (self._is_closed or (self._calls and (self._is_awaited or self._calls[0].due <= time.monotonic()))):
                self._changed.wait(self._calls[0].due - time.monotonic() if self._calls else None)
            taken, size = [], 0
            while self._calls and (not taken or self._fit(taken[-1], self._calls[0], size)):
                taken.append(self._calls.popleft())
                size += len(taken[-1].events)
            self.waiting -= size
            self._is_awaited &= bool(self._calls)
        return taken

    @staticmethod
    def _fit(last: _Call, call: _Call, size: int) -> bool:
        """Return True if `call` may join a group of `size` that ends with `last`."""
        return size + len(call.events) <= GROUPED and not (last.alone or call.alone)

    def _replace(self, call: _Call) -> None:
        try:
            self._store = call.successor()
        except BaseException as error:
            call.future.set_exception(error)
        else:
            call.future.set_result(None)

    def _applied(self, group: list[_Call]) -> bool:
        """Apply the calls of a group in one transaction. Returns False where they may still be applied one by one."""
        try:
            results = iter(self._store.apply([event for call in group for event in call.events]))
        except Exception as error:
            if len(group) > 1 and not self._store.failed and not isinstance(error, StoreDownError):
                return False
            self._forget(group)
            for call in group:
                call.future.set_exception(error)
            return True
        self._forget(group)
        for call in group:
            call.future.set_result([*islice(results, len(call.events))])
        return True

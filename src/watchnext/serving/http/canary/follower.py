"""Keep the store of a challenger up to date with the one that serves."""

import logging
import threading
from collections.abc import Callable

from watchnext.serving.store.engines.engine import Changes
from watchnext.serving.store.store import Store

log = logging.getLogger(__name__)
LOOK_S = 1.0  # a commit wakes the thread; this is for one that was missed
RETRY_S = 1.0


class StoreFollower:
    """Call `follow()` in a thread after each commit of the store that serves, until `close`.

    failed  message of the last call, where it failed
    lock    held while events are taken over
    """

    def __init__(self, store: Store, follow: Callable[[], None]) -> None:
        self._store, self._follow = store, follow
        self.failed: str | None = None
        self.lock = threading.Lock()
        self._reached = -1  # position of the serving store up to which events are taken over
        self._changed, self._wake, self._closed = threading.Condition(), threading.Event(), threading.Event()
        store.listeners.append(self)
        self._thread = threading.Thread(target=self._run, name="challenger-follows", daemon=True)
        self._thread.start()

    def has(self, position: int, timeout_s: float) -> bool:
        """Wait until the events before `position` are taken over, `timeout_s` at most; return False where they are not."""
        if self._reached >= position:
            return True
        with self._changed:
            return self._changed.wait_for(lambda: self._reached >= position, timeout_s)

    def close(self) -> None:
        """Stop after the call that is running; a second call does nothing."""
        self._closed.set()
        self._wake.set()
        self._thread.join()
        if self in self._store.listeners:
            self._store.listeners.remove(self)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._wake.clear()
            position = self._store.position
            try:
                with self.lock:
                    self._follow()
            except Exception as error:
                log.exception("the challenger's store does not follow")
                self.failed = f"{type(error).__name__}: {error}"
                self._closed.wait(RETRY_S)
                continue
            self.failed = None
            with self._changed:
                self._reached = position
                self._changed.notify_all()
            self._wake.wait(LOOK_S)

    # ---- what an engine tells ----------------------------------------------------------------------------------------

    def publish(self, changes: Changes) -> None:
        self._wake.set()

    def reload(self) -> None:
        self._wake.set()

    def catch_up(self) -> None:
        self._wake.set()

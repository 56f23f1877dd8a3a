"""Let one process at a time do what two must not: run the loop, compare releases, or move what serves."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HeldError(RuntimeError):
    """Another process does it already; the message names that process."""


@contextmanager
def only_one(path: Path, does: str, *, waits: bool = False) -> Iterator[int]:
    """Hold the lock of a file; yield its descriptor.

    does   end of the message "process 7 ..." to a second process
    waits  until the lock is free, instead of raising HeldError
    A stage that gets the descriptor holds the lock too, and may outlive a process that was killed. Dead processes hold nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as error:
            lock.seek(0)
            raise HeldError(f"process {lock.read().strip() or 'unknown'} {does}; wait until it has ended") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()

"""Let one process at a time do what two must not: run the loop, compare releases, or move what serves."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

POLL_S = 0.05
ROLLBACK_S = 10.0  # longest wait of a rollback for another process that moves what serves


class HeldError(RuntimeError):
    """Another process does it already; the message names that process."""


@contextmanager
def only_one(path: Path, does: str, *, wait_s: float = 0.0) -> Iterator[int]:
    """Hold the lock of a file; yield its descriptor.

    does    end of the message "process 7 ..." to a second process
    wait_s  how long to wait for the lock before HeldError is raised
    A stage that gets the descriptor holds the lock too, and may outlive a process that was killed. Dead processes hold nothing.
    """
    path, until = Path(path), time.monotonic() + wait_s
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        while not _locked(lock):
            if time.monotonic() >= until:
                lock.seek(0)
                raise HeldError(f"process {lock.read().strip() or 'unknown'} {does}; wait until it has ended")
            time.sleep(POLL_S)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock.fileno()


def moving(releases: Path, *, wait_s: float = 0.0) -> AbstractContextManager[int]:
    """Hold the lock of `current` and the registry's aliases, which agree only if one process moves both. Raises HeldError."""
    return only_one(Path(releases) / ".lock", f"decides which release of {releases} serves", wait_s=wait_s)


def _locked(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Processes that write to a real store and are killed, watched, or meet a disk that fails: `live`, `record`, `fail`.

python -m tests.faults.writer COMMAND RELEASE ...
"""

import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

from tests.faults.disk import control
from tests.faults.traffic import THREADS, Name, call_of

from watchnext.serving.release.release import Release
from watchnext.serving.store.building import opening
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.store import Store

CALLS = 3  # of a thread, to a disk that fails


class Writer:
    """Threads that send calls to a store through its group commit, each the next one when the last is acknowledged."""

    def __init__(self, folder: Path, release: Release, seed: int) -> None:
        self._release, self._seed = release, seed
        self._acks = os.open(folder / "acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.store = Store.open(folder / "store", release)
        self._commits = GroupCommit(self.store, most_waiting=5_000)
        self.errors: dict[Name, str] = {}

    def send(self, name: Name) -> None:
        try:
            results = self._commits.submit(call_of(self._release, self._seed, name)).result()
        except StoreError as error:
            self.errors[name] = str(error)
        else:
            os.write(self._acks, f"{json.dumps([*name, results])}\n".encode())

    def run(self, numbers: Sequence[Iterable[int]]) -> None:
        """Send the calls of every thread, by their numbers."""
        threads = [threading.Thread(target=self._run, args=each) for each in enumerate(numbers)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _run(self, thread: int, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.send((thread, number))

    def close(self) -> None:
        self._commits.close()
        self.store.close()
        os.close(self._acks)


def unchecked(at: int, every: int) -> None:
    """Leave the check of a store to the test that opens it after the crash, except at each `every`th opening: it is a process
    of its own, which takes a second."""
    if at % every:
        opening.require_sound = lambda path: None


def warm(release: Release) -> None:
    """Compile, import and allocate what the first calls of a process need, so that its forks write at once."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder) / "store", release, durable=False)
        for number in range(20):
            store.apply(call_of(release, 0, (1, number)))
        store.close()


def live(release: Release) -> None:
    """Fork a process for each line FOLDER SEED NUMBER FIRST..., which writes until it is killed, a thread from each FIRST
    call on. Print its id, "writes" once its store is open, and how it ended."""
    warm(release)
    for line in sys.stdin:
        folder, seed, at, *first = line.split()
        if (pid := os.fork()) == 0:
            unchecked(int(at), 50)
            writer = Writer(Path(folder), release, int(seed))
            print("writes", flush=True)
            writer.run([count(int(each)) for each in first])
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def record(release: Release, folder: str, seed: str, number: str) -> None:
    """Write a few calls to each of as many stores: FOLDER/0, FOLDER/1, ..."""
    for each in range(int(number)):
        at, draw = Path(folder) / str(each), random.Random(f"{seed}/{each}")
        at.mkdir()
        writer = Writer(at, release, int(seed) + each)
        writer.run([range(draw.randint(1, 3) + (thread == 0) * 3) for thread in range(THREADS)])
        writer.close()


def fail(release: Release, folder: str, page: str) -> None:
    """For each line NAME SEED FIRST LEFT ERROR STAYS, open the store NAME, send calls from FIRST on and close it, while the
    LEFT-th change of a file fails with ERROR, and if it STAYS all later ones. Print the number of changes and what was
    refused."""
    warm(release)
    disk = control(Path(page))
    for line in sys.stdin:
        name, seed, first, left, error, stays = line.split()
        at = Path(folder) / name
        disk.calls, disk.left, disk.error, disk.stays = 0, int(left), int(error), int(stays)
        said = met(at, release, int(seed), int(first))
        print(json.dumps({"calls": disk.calls, **said}), flush=True)
        disk.left = 0


def met(at: Path, release: Release, seed: int, first: int) -> dict:
    """Return how a writer meets a disk: the error with which it ends, the failure that the store reports, refused calls."""
    unchecked(1, 2)
    try:
        writer = Writer(at, release, seed)
    except (StoreError, OSError) as error:
        return {"ended": f"{type(error).__name__}: {error}", "failed": None, "refused": []}
    for number in range(first, first + CALLS):
        writer.run([[number]] * THREADS)
    said = {"failed": writer.store.failed, "refused": list(writer.errors)}
    try:
        writer.close()
    except Exception as error:
        return said | {"ended": f"{type(error).__name__}: {error}"}
    return said | {"ended": None}


if __name__ == "__main__":
    command, given, *words = sys.argv[1:]
    {"live": live, "record": record, "fail": fail}[command](Release.load(Path(given)), *words)

"""A process that writes to a store is killed at seeded moments, over and over: nothing acknowledged is lost, nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.traffic import THREADS, Oracle, acks_of, require_sound_store, require_whole_calls

from watchnext.serving.store.building.integrity import damages
from watchnext.serving.store.engines.environment import Environment
from watchnext.serving.store.tables.journal import journal_of

ROOT = Path(__file__).parents[2]
SEED = 23
OPENING_S, WRITING_S = 0.05, 0.1  # a moment of death is drawn from so long
CHECKED = 100  # kills between two looks at every record
MAP_BYTES = 1 << 30


class Killed:
    """Lives of a writer over one store, each ended by SIGKILL; the next one sends first what was not acknowledged."""

    def __init__(self, release, folder: Path) -> None:
        self._release, self._folder = release, folder
        self._acks, self._journal = {}, []
        self._oracle = Oracle(release, folder)
        command = [sys.executable, "-m", "tests.faults.writer", "live", release.folder]
        self._forks = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._forks.stdin.close()
        assert self._forks.wait(20) == 0
        self._forks.stdout.close()

    def _first(self, thread: int) -> int:
        """Return the first number of a thread's calls that is not acknowledged."""
        return 1 + max((number for each, number in self._acks if each == thread), default=-1)

    def kill(self, number: int, after_s: float, *, writes: bool) -> None:
        """Let the writer live for so long, since it was started or since it `writes`."""
        first = [self._first(thread) for thread in range(THREADS)]
        print(self._folder, SEED, number, *first, file=self._forks.stdin, flush=True)
        pid = int(self._forks.stdout.readline())
        if writes:
            assert self._forks.stdout.readline() == "writes\n"
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
        while (line := self._forks.stdout.readline()) == "writes\n":
            pass
        assert int(line) == -signal.SIGKILL, "the writer had ended before"
        acks = self._folder / "acks"
        self._acks = acks_of(acks.read_text()) if acks.exists() else {}

    def check(self) -> None:
        """Look at what came to the journal since the last look, and for damages."""
        current = self._folder / "store" / "current"
        if not current.exists():  # killed while it was built
            assert not self._acks
            return
        with closing(Environment(current, durable=False, map_bytes=MAP_BYTES, readonly=True)) as environment:
            assert damages(environment, 1_000) == []
            with environment.read() as txn:
                self._journal += [event for _, event in journal_of(txn, len(self._journal))]
        require_whole_calls(self._journal, self._release, SEED, self._acks, self._was_sent)

    def check_all(self) -> int:
        return require_sound_store(self._folder / "store", self._release, self._oracle, SEED, self._acks, self._was_sent)

    def _was_sent(self, name) -> bool:
        thread, number = name
        return number <= self._first(thread)  # the last one may be under way


def require_kills(release, folder: Path, kills: int) -> None:
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    with closing(Killed(release, folder)) as killed:
        for number in range(kills):
            writes = draw.random() < 0.8
            killed.kill(number, draw.random() * (WRITING_S if writes else OPENING_S), writes=writes)
            killed.check()
            if number % CHECKED == CHECKED - 1:
                killed.check_all()
        events = killed.check_all()
    print(f"{kills} kills, {events} events")
    assert events > kills


def test_twenty_kills(release, tmp_path):
    require_kills(release, tmp_path, 20)


@pytest.mark.full
def test_a_thousand_kills(release, tmp_path):
    require_kills(release, tmp_path, 1_000)

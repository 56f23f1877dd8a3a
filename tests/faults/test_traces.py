"""Every prefix of recorded writes and syncs, as `kill -9` and as a power cut leave it: what was acknowledged is there."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.faults.disk import RENAME, Call, Disk, built, trace_of, variables
from tests.faults.traffic import Oracle, acks_of, require_sound_store

ROOT = Path(__file__).parents[2]
SEED = 11


def recorded(release, folder: Path, count: int) -> Path:
    """Let a process write to `count` stores on a watched disk; return the trace."""
    disk, trace = folder / "disk", folder / "trace"
    disk.mkdir()
    command = [sys.executable, "-m", "tests.faults.writer", "record", release.folder, disk, str(SEED), str(count)]
    environment = os.environ | variables(built(folder), disk, trace=trace)
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ran.returncode == 0, ran.stderr
    return trace


def linked(calls: Sequence[Call]) -> int:
    """Return the number of the call that makes the store `current`."""
    return next(at for at, call in enumerate(calls) if call.kind == RENAME and call.more == b"store/current")


def require_every_prefix(calls: Sequence[Call], release, oracle: Oracle, seed: int, folder: Path, *, since: int) -> int:
    """Check both states after each call from `since` on; return their number."""
    disk, draw, checked = Disk(), random.Random(seed), 0
    for at, call in enumerate(calls):
        disk.take(call)
        if at < since or call.path == "acks":
            continue
        for cut in (None, draw):
            disk.leave(left := folder / "left", cut)
            require_sound_store(left / "store", release, oracle, seed, acks_of(disk.text("acks")))
            shutil.rmtree(left)
            checked += 1
    return checked


def require_traces(release, folder: Path, count: int, *, whole: int) -> None:
    """Check every prefix of `count` traces; of the first `whole`, also of the building of the store."""
    print(f"seed {SEED}")
    trace, oracle = recorded(release, folder, count), Oracle(release, folder)
    checked = 0
    for number in range(count):
        calls = trace_of(trace, folder / "disk" / str(number))
        since = 1 if number < whole else linked(calls)
        checked += require_every_prefix(calls, release, oracle, SEED + number, folder, since=since)
    print(f"{checked} states of {count} traces")


def test_every_prefix_of_a_few_traces(release, tmp_path):
    require_traces(release, tmp_path, 2, whole=1)


@pytest.mark.full
def test_every_prefix_of_two_hundred_traces(release, tmp_path):
    require_traces(release, tmp_path, 200, whole=10)

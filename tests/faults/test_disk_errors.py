"""A disk that is full, fails or writes half, at each call of a store's life: the store says so and loses nothing."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tests.faults.disk import built, variables
from tests.faults.traffic import Oracle, acks_of, require_sound_store
from tests.faults.writer import CALLS

ROOT = Path(__file__).parents[2]
SEED = 31
HALF = 0
ERRORS = (errno.ENOSPC, errno.EIO, HALF)


class Failing:
    """A process that opens a store, writes and closes it while a call of its disk fails."""

    def __init__(self, release, folder: Path) -> None:
        self.folder, page = folder / "disk", folder / "page"
        self.folder.mkdir()
        page.write_bytes(bytes(4096))
        command = [sys.executable, "-m", "tests.faults.writer", "fail", release.folder, self.folder, page]
        environment = os.environ | variables(built(folder), self.folder, page=page)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def met(self, name: str, left: int, error: int, *, first: int, stays: bool) -> dict:
        print(name, SEED, first, left, error, int(stays), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._process.stdout.close()


def require_said(said: dict, end: int, case: tuple) -> None:
    """Fail unless a store that refused a call says why and refuses all later ones: a thread sends its calls one by one."""
    refused = {tuple(name) for name in said["refused"]}
    assert bool(refused) <= bool(said["failed"]), (case, said)
    assert all((thread, later) in refused for thread, number in refused for later in range(number, end)), (case, said)
    assert not said["failed"] or "cannot be written" in said["failed"], (case, said)


def require_errors(release, folder: Path, *, share: float) -> None:
    """Let calls of a new store's life fail, and of one that is there: a `share` of all pairs of a call and an error."""
    print(f"seed {SEED}")
    oracle, draw, met, refused = Oracle(release, folder), random.Random(SEED), 0, 0
    with closing(Failing(release, folder)) as failing:
        for kind in ("new", "there"):
            before = failing.folder / f"before-{kind}"
            before.mkdir()
            if first := CALLS * (kind == "there"):
                failing.met(before.name, 0, HALF, first=0, stays=False)
            calls = failing.met(copy(before, "whole"), 0, HALF, first=first, stays=False)["calls"]
            cases = [(left, error, stays) for left in range(1, calls + 1) for error in ERRORS for stays in (False, True)]
            for left, error, stays in draw.sample(cases, int(share * len(cases))):
                said = failing.met(copy(before, "left"), left, error, first=first, stays=stays)
                require_said(said, first + CALLS, (kind, left, errno.errorcode.get(error), stays))
                acks = failing.folder / "left" / "acks"
                given = acks_of(acks.read_text()) if acks.exists() else {}
                require_sound_store(failing.folder / "left" / "store", release, oracle, SEED, given)
                met, refused = met + 1, refused + bool(said["refused"])
    print(f"{met} errors, {refused} of them refused calls")
    assert refused


def copy(folder: Path, name: str) -> str:
    shutil.rmtree(folder.parent / name, ignore_errors=True)
    shutil.copytree(folder, folder.parent / name, symlinks=True)
    return name


def test_an_error_at_some_calls(release, tmp_path):
    require_errors(release, tmp_path, share=0.04)


@pytest.mark.full
def test_an_error_at_every_call(release, tmp_path):
    require_errors(release, tmp_path, share=1.0)

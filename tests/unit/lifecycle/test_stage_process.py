"""A command runs in a process of its own, started or forked, with the same exit status, output and folder."""

import os
import sys
from pathlib import Path

import pytest

from watchnext.lifecycle.stage_process import Forks, started

PROGRAM = """
import os, sys, time
from pathlib import Path
print("said", os.environ.get("NAME"), flush=True)
Path("ran.txt").write_text(" ".join(sys.argv[1:]))
if sys.argv[1] == "busy":
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
if sys.argv[1] == "nested":
    from watchnext.lifecycle.stage_process import started
    ended = started([sys.executable, "program.py", "busy"], Path.cwd())
    sys.exit(10 + ended.code + (ended.processor_s > 0.25))
if sys.argv[1] == "killed":
    os.kill(os.getpid(), 9)
if sys.argv[1] == "fails":
    raise ValueError("no")
sys.exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
"""


@pytest.fixture(params=["started", "forked"])
def start(request, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return started if request.param == "started" else Forks(tmp_path / "log.txt")


def run(start, folder: Path, *words: str):
    return start([sys.executable, "program.py", *words], folder, {**os.environ, "NAME": "me"})


def test_status_folder_and_processor_time_are_the_programs(start, tmp_path):
    ended = run(start, tmp_path, "busy", "2")
    assert ended.code == 2
    assert ended.processor_s > 0.25
    assert (tmp_path / "ran.txt").read_text() == "busy 2"
    if start is not started:
        assert "said me" in (tmp_path / "log.txt").read_text()


def test_an_error_and_a_kill_are_told(start, tmp_path):
    assert run(start, tmp_path, "fails").code == 1
    assert run(start, tmp_path, "killed").code == -9


def test_a_command_of_a_command_counts_too(start, tmp_path):
    ended = run(start, tmp_path, "nested")
    assert ended.code == 11
    assert ended.processor_s > 0.25

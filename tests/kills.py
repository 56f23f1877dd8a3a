"""A build that dies at a chosen step: a step is a call that changes a file, and after the death nothing changes any more."""

import builtins
import io
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

SRC = str(Path(__file__).resolve().parents[1] / "src")
CALLS = [(os, name) for name in ("mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate", "fsync", "symlink")] + [
    (pl.DataFrame, "write_parquet")
]


def _lines() -> Iterator[str]:
    """The lines of the package that are running."""
    frame = sys._getframe(1)
    while frame := frame.f_back:
        if frame.f_code.co_filename.startswith(SRC):
            yield f"{frame.f_code.co_filename[len(SRC) :]}:{frame.f_lineno}"


class KilledError(BaseException):
    """No `except Exception` survives it."""


class Steps:
    """Counts the steps of a run, by the lines of the package that took them; at step `at`, the run dies."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.lines, self._lock = at, [], threading.Lock()

    def take(self) -> None:
        with self._lock:
            self.lines.append(tuple(_lines()))
            if self.at is not None and len(self.lines) > self.at:
                raise KilledError

    def counting(self, honest: Callable) -> Callable:
        def call(*args, **kwargs):
            self.take()
            return honest(*args, **kwargs)

        return call

    def opening(self, honest: Callable) -> Callable:
        """A file is there, and empty, before the first of its bytes is."""

        def call(file, mode="r", *args, **kwargs):
            opened = honest(file, mode, *args, **kwargs)
            if set(mode) & set("wxa+"):
                try:
                    self.take()
                except KilledError:
                    opened.close()
                    raise
            return opened

        return call


def taken(run: Callable[[], object], at: int | None = None) -> list[tuple]:
    """Run, and die before step `at`. Returns the lines that took each step."""
    steps = Steps(at)
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in CALLS:
            patched.setattr(owner, name, steps.counting(getattr(owner, name)))
        for owner in (builtins, io):
            patched.setattr(owner, "open", steps.opening(owner.open))
        if at is None:
            run()
        else:
            with pytest.raises(KilledError):
                run()
    return steps.lines


def one_each(lines: list[tuple]) -> list[int]:
    """A step of each of the `lines` that took any."""
    draw = random.Random(0)
    return [draw.choice([step for step, each in enumerate(lines) if each == line]) for line in dict.fromkeys(lines)]

"""Programs in processes of their own that need not import what is slow to: each is a fork of one process that has.

A start costs a hundredth of `python ...`, five seconds of which are imports of torch, Lightning, MLflow and Evidently. Nothing
of this package is imported before the fork: what a program lacks, it lacks here too.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TextIO

SLOW = (
    "evidently.metrics",
    "hydra",
    "matplotlib.pyplot",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "numba",
    "pandera.polars",
    "polars",
    "pytorch_lightning.loggers",
    "torch",
    "xgboost",
)
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([*SLOW])


class Program:
    """`python WORD ...`, where the words are -m MODULE ..., -c CODE ... or FILE ...; as subprocess.Popen with pipes of text."""

    def __init__(self, *words: str, folder: Path | None = None, environment: Mapping[str, str] = os.environ) -> None:
        (out, to_out), (errors, to_errors) = (FORKED.Pipe(duplex=False) for _ in range(2))
        given = (words, str(folder or Path.cwd()), dict(environment), to_out, to_errors)
        self._process = FORKED.Process(target=_become, args=given)
        self._process.start()
        self.pid = self._process.pid
        self.stdout, self.stderr = (open(os.dup(pipe.fileno())) for pipe in (out, errors))  # noqa: SIM115
        for pipe in (out, to_out, errors, to_errors):
            pipe.close()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what it prints until it ends; killed and refused where that lasts longer than `timeout` seconds."""
        with ThreadPoolExecutor(2) as readers:
            printed = [readers.submit(_whole, stream) for stream in (self.stdout, self.stderr)]
            self._process.join(timeout)
            if late := self.poll() is None:
                self.kill()
            out, errors = (each.result() for each in printed)
        self._process.join()
        if late:
            raise subprocess.TimeoutExpired("python", timeout, out, errors)
        return out, errors


def _whole(stream: TextIO) -> str:
    with stream:
        return stream.read()


def run(*words: str, timeout: float = 1800, **given: object) -> subprocess.CompletedProcess:
    """A program to its end."""
    program = Program(*words, **given)
    out, errors = program.communicate(timeout)
    return subprocess.CompletedProcess(words, program.returncode, out, errors)


def _become(words: tuple[str, ...], folder: str, environment: dict[str, str], out: Connection, errors: Connection) -> None:
    for number, pipe in ((1, out), (2, errors)):
        os.dup2(pipe.fileno(), number)
        pipe.close()
    multiprocessing.set_start_method("fork", force=True)  # as in every program; this one's own would import all anew
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        _python(*words)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


# For a program given by -c that runs several commands in its one process, so that imports are paid once.
EXIT_CODE = """
def exit_code(command):
    import runpy, shlex, sys
    words = shlex.split(command)[1:]
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[0] == "-m":
            runpy.run_module(words[1] + ".__main__", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stopped:
        return stopped.code
"""


def _python(first: str, *words: str) -> None:
    """Do what the interpreter does with its command line."""
    if first in ("-c", "-m"):
        what, *words = words
        sys.argv, sys.path[:0] = [first if first == "-c" else what, *words], [""]
        if first == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[:0] = [first, *words], [str(Path(first).parent)]
        runpy.run_path(first, run_name="__main__")

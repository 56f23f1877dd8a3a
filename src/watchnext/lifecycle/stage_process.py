"""Run a command of Python in a process of its own, and count the processor time that it and its children took.

`started` starts an interpreter. `Forks` forks one process that has imported what is slow to import: a start costs a hundredth,
and a command that was forked forks its own commands the same way.
"""

import atexit
import ctypes
import multiprocessing
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

SLOW = (
    "evidently.metrics", "hydra", "matplotlib.figure", "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store", "numba", "openvino", "pandera.polars", "polars", "pytorch_lightning.loggers",
    "sklearn.isotonic", "torch", "xgboost",
)  # fmt: skip
PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
    """The exit status of a command, and its processor time in seconds."""

    code: int
    processor_s: float


Start = Callable[[Sequence[str], Path, Mapping[str, str] | None, Sequence[int]], Ended]
_twin: "Twin | None" = None  # in a process that was forked


def started(
    words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, keeps: Sequence[int] = ()
) -> Ended:
    """Run `words` in a folder, with the open descriptors `keeps`: forked where this process was, else in a new interpreter."""
    if _twin is not None:
        return _twin(words, folder, environment)
    before = _children_s()
    code = subprocess.run(words, cwd=folder, check=False, env=environment, pass_fds=keeps).returncode
    return Ended(code, _children_s() - before)


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


class Forks:
    """Run commands as forks of one process that has the slow imports.

    log      file to which they write what they print
    without  variables of the environment that they do not get
    Commands end with this process, also when it is killed.
    """

    def __init__(self, log: Path, *, without: Collection[str] = ()) -> None:
        self._log, self._without = Path(log), without
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*SLOW])

    def __call__(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, keeps: Sequence[int] = ()
    ) -> Ended:
        """Run `[python, -m, MODULE, ...]` or `[python, FILE, ...]` in a folder; none outlives this process, which may hold a
        lock, so that it need not keep one."""
        receiver, sender = self._context.Pipe(duplex=False)
        variables = {name: value for name, value in (environment or os.environ).items() if name not in self._without}
        given = (list(words[1:]), str(folder), variables, str(self._log), sender)
        process = self._context.Process(target=_become, args=given)
        process.start()
        sender.close()
        process.join()
        ended = receiver.recv() if receiver.poll() and not process.exitcode else Ended(process.exitcode, 0.0)
        receiver.close()
        return ended


class Twin:
    """A copy of a forked process from before its program began, without threads: it forks the commands of the program."""

    def __init__(self, log: str) -> None:
        self._log, self.processor_s = log, 0.0
        self._ours, theirs = multiprocessing.Pipe()
        if os.fork() == 0:
            self._ours.close()
            _serve(theirs)
        theirs.close()

    def __call__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Ended:
        self._ours.send((list(words[1:]), str(Path(folder).resolve()), dict(environment or os.environ), self._log))
        ended = self._ours.recv()
        self.processor_s += ended.processor_s
        return ended


def _serve(requests: Connection) -> None:
    """Fork a process for every request until the program ends."""
    _die_with_parent()
    while True:
        try:
            given = requests.recv()
        except EOFError:
            os._exit(0)
        if (child := os.fork()) == 0:
            _become(*given, requests)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:  # it was killed, and has sent nothing
            requests.send(Ended(os.waitstatus_to_exitcode(status), 0.0))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _become(words: list[str], folder: str, environment: dict[str, str], log: str, report: Connection) -> None:
    """Be the program in this new process, and tell its exit status and processor time at the end."""
    global _twin
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # as in every program
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    _twin = Twin(log)
    began, before = time.process_time(), _children_s()
    code = _exit_code(words)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    report.send(Ended(code, time.process_time() - began + _children_s() - before + _twin.processor_s))


def _exit_code(words: list[str]) -> int:
    """Run the program as an interpreter does, and return its exit status."""
    sys.path.insert(0, "")
    sys.argv = words[1:] if words[0] == "-m" else words
    try:
        if words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
        return stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

"""Apache Spark as an engine: a session that answers or says why it does not, and work that runs in its tasks.

This is the only module that imports pyspark. Nothing here is distributed by hand: Spark shuffles the rows, starts the workers
and runs a failed task again. Work is a module's function with the values that it needs. It writes its result to files that all
workers and the driver see under the same path; a task that runs twice writes the same bytes twice.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from watchnext.code_digest import code_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

TRIES = 4  # of a task; `local[N]` alone would try once
WAIT_S = 60.0  # for a worker
CONNECT_S = 10.0  # to a master
INSTALL = "pip install 'watchnext[spark]', and a Java runtime of version 17 or later, as Debian's default-jre-headless"


class SparkError(RuntimeError):
    """Spark is not installed, does not answer, or gave up a task."""


class Spark:
    """A session of Spark, see `opened`."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session

    @classmethod
    @contextmanager
    def opened(cls, master: str, *, wait_s: float = WAIT_S, **settings: str) -> Iterator[Spark]:
        """Open a session on `master`: local[N] for N processes of this machine, or the address of a cluster.

        wait_s    seconds in which a worker must have answered
        settings  further settings of Spark, by name with `_` for `.`
        Raises SparkError.
        """
        _require_installed()
        _require_answer(master)
        session = _session(master, {name.replace("_", "."): value for name, value in settings.items()})
        try:
            _require_worker(session, master, wait_s)
            yield cls(session)
        finally:
            session.stop()

    @property
    def parallelism(self) -> int:
        """Number of tasks that run at once."""
        return self._session.sparkContext.defaultParallelism

    def by_task(self, rows: Path, tasks: Sequence[str], count: int, work: Callable[[int, pa.Table], None]) -> None:
        """Call `work(task, table)` for each task number below `count`, with the rows of the Parquet file `rows` that name it.

        A row goes to the tasks that its columns `tasks` name, -1 is none; a task has at least one row. Raises SparkError.
        """
        from pyspark.sql.functions import array, col, explode

        with _named_failures():
            frame = self._session.read.parquet(rows.resolve().as_uri())
            frame = frame.withColumn("task", explode(array(*tasks))).drop(*tasks).filter("task >= 0")
            frame = frame.repartitionById(count, col("task").cast("int"))
            done = frame.mapInArrow(partial(_whole_task, _code(work), work), "task long").collect()
        if sorted(task for (task,) in done) != list(range(count)):
            raise SparkError(f"Spark ended {len(done)} tasks of {count}; give the same command again")

    def each(self, numbers: Sequence[int], work: Callable[[int], None]) -> None:
        """Call `work` with each number, in a task of its own. Raises SparkError."""
        with _named_failures():
            self._session.sparkContext.parallelize(numbers, len(numbers)).foreach(partial(_one_number, _code(work), work))


@contextmanager
def engine(name: str, master: str) -> Iterator[Spark | None]:
    """Open the engine that the configuration names: `local` is this machine without an engine, None. Raises SparkError."""
    if name == "local":
        yield None
    elif name == "spark":
        with Spark.opened(master) as spark:
            yield spark
    else:
        raise SparkError(f"engine is {name!r}, expected local or spark")


# ---- in the driver -------------------------------------------------------------------------------------------------------


def _require_installed() -> None:
    try:
        import pyspark  # noqa: F401
    except ImportError as error:
        raise SparkError(f"engine=spark needs pyspark, which is not installed; run {INSTALL}") from error
    home = os.environ.get("JAVA_HOME")
    if not (home and Path(home, "bin", "java").exists()) and not shutil.which("java"):
        raise SparkError(f"engine=spark needs Java, which is not installed; run {INSTALL}")


def _require_answer(master: str) -> None:
    """Raise SparkError if `master` is no address of Spark, or one of Spark's own masters and takes no connection."""
    if not re.match(r"local(-cluster)?(\[|$)|spark://.|yarn$|k8s://.", master):
        raise SparkError(f"master is {master!r}, expected local[N], spark://HOST:PORT, k8s://URL or yarn")
    addresses, reasons = re.findall(r"([^/,:]+):(\d+)", master) if master.startswith("spark://") else [], []
    for host, port in addresses:
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
            return
        except OSError as error:
            reasons.append(str(error))
    if addresses:
        raise SparkError(f"master {master} does not answer ({'; '.join(reasons)}); start it, or use master=local[2]")


def _session(master: str, settings: dict[str, str]) -> SparkSession:
    from pyspark.sql import SparkSession

    local = re.fullmatch(r"local(?:\[(\d+|\*)\])?", master)
    builder = SparkSession.builder.appName("watchnext").master(f"local[{local[1] or 1},{TRIES}]" if local else master)
    settings = {
        "spark.ui.enabled": "false",  # it would listen on every address, without keys
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.adaptive.enabled": "false",  # it would join tasks, whose memory is bounded one by one
        **({"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"} if master.startswith("local") else {}),
        **settings,
    }
    if master.startswith("local"):
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # else the first python3 of PATH, which may lack watchnext
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        session = builder.getOrCreate()
    except _failures() as error:
        raise SparkError(f"master {master} gives no session: {_reason(error)}") from error
    session.sparkContext.setLogLevel("ERROR")
    return session


def _require_worker(session: SparkSession, master: str, wait_s: float) -> None:
    """Run a task that does nothing. Raises SparkError if no worker took it within `wait_s`."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(session.range(1).count)
        try:
            waiting.result(wait_s)
        except TimeoutError as error:
            session.sparkContext.cancelAllJobs()  # so that the thread ends
            raise SparkError(f"master {master} has no worker that took a task within {wait_s:g} s; start one") from error
        except _failures() as error:
            raise SparkError(f"master {master} gives no session: {_reason(error)}") from error


@contextmanager
def _named_failures() -> Iterator[None]:
    """Raise SparkError for a task that failed TRIES times."""
    try:
        yield
    except _failures() as error:
        raise SparkError(f"a task failed {TRIES} times: {_reason(error)}") from error


def _failures() -> tuple[type[Exception], ...]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError


def _reason(error: Exception) -> str:
    """Return the last line of Python's or Java's traceback that names an exception, else the first line."""
    raised = re.findall(r"^(?:: |Caused by: )?(?:[\w$]+\.)*(\w*(?:Error|Exception): .+)$", str(error), re.MULTILINE)
    return raised[-1] if raised else str(error).strip().partition("\n")[0]


# ---- in a worker ---------------------------------------------------------------------------------------------------------


def _code(work: Callable) -> tuple[str, str]:
    """Return the module of some work and the digest of its code."""
    module = getattr(work, "func", work).__module__
    return module, _digest_here(module)


def _require_code(module: str, digest: str) -> None:
    """Raise RuntimeError on a worker with other code than the driver's."""
    if (here := _digest_here(module)) != digest:
        raise RuntimeError(
            f"code of {module} is {here} on the worker {socket.gethostname()} and {digest} on the driver; "
            "install the same version of watchnext on both"
        )


_digest_here = cache(code_of)  # of a process: its sources may be edited later


def _whole_task(code: tuple[str, str], work: Callable, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    _require_code(*code)
    if parts := list(batches):
        rows = pa.Table.from_batches(parts)
        task = rows["task"][0].as_py()
        work(task, rows)
        yield pa.RecordBatch.from_pydict({"task": [task]})


def _one_number(code: tuple[str, str], work: Callable, number: int) -> None:
    _require_code(*code)
    work(number)

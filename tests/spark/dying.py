"""Workers of Spark that are killed while they work."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from watchnext.spark import Spark


class DyingSpark:
    """A session whose workers die once in each of the first tasks: before the work of task 0 and after that of task 1."""

    def __init__(self, spark: Spark, folder: Path) -> None:
        self._spark, self._folder, self.parallelism = spark, folder, spark.parallelism

    def by_task(self, rows: Path, tasks: list[str], count: int, work: Callable) -> None:
        self._spark.by_task(rows, tasks, count, partial(_dying, self._folder, work))

    def each(self, numbers: list[int], work: Callable) -> None:
        self._spark.each(numbers, partial(_dying, self._folder, work))


def _dying(folder: Path, work: Callable, task: int, *rows: object) -> None:
    if task == 0:
        _die_once(folder / "before")
    work(task, *rows)
    if task == 1:
        _die_once(folder / "after")


def _die_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

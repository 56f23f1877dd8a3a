"""Compute the parts of a batch in tasks of Spark: the slates of `batch.computed`.

A worker opens the release and the store by path or URL, once. What it computes of a part lies beside the part's place: the
Parquet file, and the slates as the store keeps them, which the driver loads. A part whose slates lie there is computed no more.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import polars as pl

from watchnext.serving.funnel.ahead.batch import Batch, Worker
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import batched
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.store import Store
from watchnext.spark import Spark

PARTS_A_JOB = 16  # for each task that runs at once; after a job, its slates are loaded


@dataclass(frozen=True)
class SparkBatch:
    """The parts of a batch, computed on `spark`."""

    spark: Spark

    def computed(self, parts: Sequence[int], about: tuple, processes: int) -> Iterator[tuple[int, list]]:
        """Yield the parts as `batch.computed` does, job by job; Spark knows the number of processes. Raises SparkError."""
        release, store, run, folder = about
        about = release.resolve(), store if is_url(store) else Path(store).resolve(), run, folder.resolve()
        for job in batched(parts, PARTS_A_JOB * self.spark.parallelism):
            if missing := [part for part in job if not _slates_path(run, folder, part).exists()]:
                self.spark.each(missing, partial(_compute, about))
            for part in job:
                slates = _slates_path(run, folder, part)
                yield part, pl.read_parquet(slates).rows()
                slates.unlink()


def _slates_path(run: Batch, folder: Path, part: int) -> Path:
    return run.path(folder, part).with_suffix(".slates")


# ---- in a worker ---------------------------------------------------------------------------------------------------------


def _compute(about: tuple, part: int) -> None:
    """Compute a part, and write its slates as a table of `user_id` and `slate`."""
    *_, run, folder = about
    _, slates = _worker(*about)(part)
    path = _slates_path(run, folder, part)
    aside = path.with_suffix(f".{os.getpid()}")
    pl.DataFrame(slates, schema=["user_id", "slate"], orient="row").write_parquet(aside)
    aside.replace(path)


@lru_cache(1)
def _worker(release: Path, store: Path | str, run: Batch, folder: Path) -> Worker:
    """Open the release and the store, once in a process."""
    opened = Release.load(release)
    return Worker(Recommender(opened, Store.reader(store, opened)), run, folder)

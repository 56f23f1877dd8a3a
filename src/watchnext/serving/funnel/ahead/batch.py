"""Compute every viewer's slate ahead of time, by several processes, into the store and as Parquet, beside a running server.

A run may be killed at any moment. The next one goes on where it was: as of the same moment, with the parts that are missing.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import polars as pl
from tqdm import tqdm

from watchnext.files import removed, replaced, synced
from watchnext.serving.funnel.ahead.precomputed import DAY_MS, packed
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.ranking_stage import VideoValues
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import batched
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.slate_table import SlateTable
from watchnext.types import Request

VIEWERS_A_PART = 1_000
PARTS = 16  # of few viewers, so that all processes end at the same time
VIEWERS_A_PROCESS = 200  # to start another one for fewer takes longer than to answer them
BLOCK = 100  # viewers whose queries are made together
NEWCOMERS = "newcomers.json"
RESUMED_MS = DAY_MS // 2  # an older run begins again: its slates would not be valid for long


@dataclass(frozen=True)
class Batch:
    """One batch: slates of `k` videos for the first `viewers` viewers of a release as of one moment, `part` at a time, and for
    `newcomers` whom only the store knew when it began."""

    release: str
    store: str
    k: int
    viewers: int
    as_of_ms: int
    part: int = VIEWERS_A_PART
    newcomers: int = 0

    @classmethod
    def begun(cls, run: "Batch", folder: Path, newcomers: Sequence[int | str] = ()) -> "Batch":
        """Return the run below `folder` that was interrupted and is `run` but for its moment, else begin `run` with the
        `newcomers`."""
        for path in sorted(folder.glob("*/run.json"), reverse=True):
            kept = cls(**json.loads(path.read_text()))
            age_ms = run.as_of_ms - kept.as_of_ms
            alike = replace(run, as_of_ms=kept.as_of_ms, newcomers=kept.newcomers) == kept
            if alike and 0 <= age_ms <= RESUMED_MS and kept.missing(folder):
                return kept
        run = replace(run, newcomers=len(newcomers))
        removed(run.folder(folder))
        run.folder(folder).mkdir(parents=True)
        replaced(run.folder(folder) / NEWCOMERS, json.dumps(newcomers))
        replaced(run.folder(folder) / "run.json", json.dumps(asdict(run), indent=1))
        return run

    def folder(self, folder: Path) -> Path:
        return folder / f"{self.release}-{self.as_of_ms}"

    def path(self, folder: Path, part: int) -> Path:
        return self.folder(folder) / f"part-{part:06d}.parquet"

    def users(self, part: int) -> range:
        """Return the rows of the viewers of a part; those of newcomers follow the others'."""
        return range(part * self.part, min((part + 1) * self.part, self.viewers + self.newcomers))

    def missing(self, folder: Path) -> list[int]:
        """Return the numbers of the parts that are not done."""
        parts = -(-(self.viewers + self.newcomers) // self.part)
        return [part for part in range(parts) if not self.path(folder, part).exists()]

    def request(self, user_id: int | str) -> Request:
        """Make the request for a viewer's slate; what is drawn for it follows from release, moment and viewer."""
        return Request(f"batch-{self.release}-{self.as_of_ms}-{user_id}", user_id, self.k, self.as_of_ms)


@dataclass(frozen=True)
class BatchReport:
    """Number of viewers, slates stored (an empty one is not), and how many of these are degraded or shorter than k."""

    users: int
    slates: int
    degraded: int
    short: int

    @classmethod
    def of(cls, run: Batch, folder: Path) -> "BatchReport":
        """Count the parts of a run."""
        paths = sorted(run.folder(folder).glob("*.parquet"))
        short = pl.col("video_ids").list.len() < run.k
        frames = [pl.read_parquet(path, columns=["video_ids", "degraded"]) for path in paths]
        counts = [(len(each), each["degraded"].sum(), each.select(short.sum()).item()) for each in frames]
        return cls(run.viewers + run.newcomers, *(sum(column) for column in zip(*counts, (0, 0, 0), strict=False)))


class Worker:
    """Compute parts of a run, each into a file beside its place. No impression is recorded."""

    def __init__(self, recommender: Recommender, run: Batch, folder: Path) -> None:
        self._recommender, self._run, self._folder = recommender, run, folder
        self._newcomers = json.loads((run.folder(folder) / NEWCOMERS).read_text())
        self._shared = recommender.ranking.shared(run.as_of_ms)  # its store is a reader, whose counters stay

    def __call__(self, part: int) -> tuple[int, list[tuple[int | str, bytes]]]:
        """Return the part and its slates as the store keeps them."""
        ids, known = self._recommender.release.user_ids, self._run.viewers
        users = [ids.value(row) if row < known else self._newcomers[row - known] for row in self._run.users(part)]
        present = [user for user in users if user is not None]  # one who was erased leaves a gap
        answers = answers_of(self._recommender, self._run, present, self._shared)
        aside = self._run.path(self._folder, part).with_suffix(".new")
        frame_of(answers).write_parquet(aside)
        synced(aside)
        return part, slates_of(answers)


def answers_of(
    recommender: Recommender, run: Batch, users: Sequence[int | str], shared: VideoValues | None = None
) -> list[Answer]:
    """Return the slates of a run for some viewers, without empty ones and those of viewers who were erased."""
    erased, shared = recommender.store.erased(users), shared or recommender.ranking.shared(run.as_of_ms)
    blocks = batched([run.request(user) for user in users if user not in erased], BLOCK)
    return [answer for block in blocks for answer in recommender.recommend_all(block, shared) if answer.ids]


def slates_of(answers: Sequence[Answer]) -> list[tuple[int | str, bytes]]:
    """Return viewers and slates as the store keeps them."""
    return [(answer.request.user_id, packed(answer)) for answer in answers]


def recommend_all(
    release: Release,
    store: Path | str,
    folder: Path,
    *,
    k: int,
    now_ms: int,
    viewers: int | None = None,
    processes: int | None = None,
    viewers_a_part: int | None = None,
    compute: Callable | None = None,
) -> BatchReport:
    """Compute the slates of viewers into `store` and below `folder`, or what an interrupted run left to do.

    viewers         number of viewers, the first of the release; None is all, and those whom only the store knows
    processes       number of processes that compute; None is one a core, of few viewers fewer
    viewers_a_part  None is VIEWERS_A_PART, or less where there would be fewer than PARTS
    compute         None is `computed`; an engine has its own
    Raises StoreError.
    """
    newcomers = [] if viewers else _newcomers(release, store)
    viewers = min(viewers or len(release.user_ids.ids), len(release.user_ids.ids))
    with (
        SlateTable.opened(store, release.state_fingerprint) as slates,
        tqdm(desc="recommendations", unit=" users") as progress,
    ):
        part = viewers_a_part or min(VIEWERS_A_PART, max(1, -(-viewers // PARTS)))  # a new platform has no viewers
        run = Batch.begun(Batch(release.id, slates.store, k, viewers, now_ms, part), folder, newcomers)
        missing = run.missing(folder)
        progress.reset(total=run.viewers + run.newcomers)
        progress.update(progress.total - sum(len(run.users(part)) for part in missing))
        for part, computed_slates in (compute or computed)(
            missing,
            (release.folder, store, run, folder),
            processes or min(os.cpu_count(), -(-progress.total // VIEWERS_A_PROCESS)),
        ):
            slates.put(computed_slates)
            path = run.path(folder, part)
            os.replace(path.with_suffix(".new"), path)  # only now is the part done
            progress.update(len(run.users(part)))
    for other in folder.iterdir():
        if other != run.folder(folder):
            removed(other)
    return BatchReport.of(run, folder)


def _newcomers(release: Release, store: Path | str) -> list[int | str]:
    """Return the viewers of a store whom the release does not know, without anonymous sessions. Raises StoreError."""
    with closing(Store.reader(store, release)) as reader:
        ids = reader.viewer_ids(sys.maxsize)
    return [user for user, row in zip(ids, release.user_ids.rows(ids).tolist(), strict=True) if row < 0]


def computed(parts: Sequence[int], about: tuple, processes: int) -> Iterator[tuple[int, list]]:
    """Yield the parts as they are computed; few wait for the store at a time."""
    processes = min(processes, len(parts))
    if not processes:
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of the networks hold
    with ProcessPoolExecutor(processes, context, _begin, about) as pool:
        left, running = iter(parts), set[Future]()
        try:
            while running := running | {pool.submit(_part, part) for part in islice(left, 2 * processes - len(running))}:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        finally:
            pool.shutdown(cancel_futures=True)


_worker: Worker | None = None  # of this process


def _begin(release: Path, store: Path | str, run: Batch, folder: Path) -> None:
    global _worker
    opened = Release.load(release)
    _worker = Worker(Recommender(opened, Store.reader(store, opened)), run, folder)


def _part(part: int) -> tuple[int, list]:
    return _worker(part)


def frame_of(answers: Sequence[Answer]) -> pl.DataFrame:
    """Return one row a slate: user_id, release, as_of_ms, degraded, and the lists video_ids and values, best first."""
    return pl.DataFrame(
        {
            "user_id": [answer.request.user_id for answer in answers],
            "release": [answer.release for answer in answers],
            "as_of_ms": [answer.as_of_ms for answer in answers],
            "degraded": [answer.degraded for answer in answers],
            "video_ids": [list(answer.ids) for answer in answers],
            "values": [answer.slate.values.tolist() for answer in answers],
        },
        schema_overrides={
            "release": pl.String,
            "as_of_ms": pl.Int64,
            "degraded": pl.Boolean,
            "video_ids": pl.List,
            "values": pl.List(pl.Float64),
        },
    )

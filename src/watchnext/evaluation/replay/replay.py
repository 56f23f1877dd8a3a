"""Replay held-out days: each request at its own time, through the code that will serve, with the state that the regime allows.

Every held-out impression is scored (AUC, GAUC, logloss). Each viewer's first request of a day, or an even sample of these, is
traced through the funnel, to see how many of the videos that the viewer watches later that day each stage keeps.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.evaluation.replay.event_stream import EventStream, events_of, fresh_store
from watchnext.evaluation.replay.funnel_trace import FunnelTrace, FunnelTracer
from watchnext.evaluation.replay.held_out_log import HeldOutLog, LogPart
from watchnext.features.dataset.freshness import day_starts, request_groups
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.types import TARGETS, Request

Given = Mapping[tuple[int | str, date], Sequence[int | str]]  # (viewer, day) > videos that another recommender gave, best first


@dataclass(frozen=True)
class ReplayResult:
    """`scores` (N, T) of the held-out impressions in table order, nan for unknown videos and those that were not scored; the
    traces; and the `groups` (N,) of impressions that were scored together."""

    scores: np.ndarray
    traces: list[FunnelTrace]
    groups: np.ndarray


@dataclass(frozen=True)
class HeldOutRequest:
    """A held-out request, its impressions, and what its viewer watches from then to the end of the day.

    positions  (n,) of its impressions among all held-out rows
    rows       (n,) video rows of these, -1 unknown
    watched    (W,) video rows, perhaps repeated, -1 unknown; none where the request is not to be traced
    long_view  (W,) bool
    propensity (W,) of the log's policy, nan unknown
    """

    request: Request
    day: date
    positions: np.ndarray
    rows: np.ndarray
    watched: np.ndarray
    long_view: np.ndarray
    propensity: np.ndarray


@dataclass(frozen=True)
class Replay:
    """Replay held-out days of a log through a release.

    slate     K of the slates
    requests  largest number of traced requests; 0 only scores impressions
    depth     number of videos of each source and baseline
    """

    release: Release
    regime: str
    slate: int
    requests: int
    depth: int

    def run(self, log: HeldOutLog, given: Given | None = None, *, traced_only: bool = False) -> ReplayResult:
        """Score the held-out impressions and trace requests, or with `traced_only` trace alone, which is many times faster.

        The state counts the flags of the log, as it will count those of clients; recall uses the label of `log`. With `given`,
        each request is traced beside the videos that another recommender gave its viewer on its day.
        """
        scores, groups = np.full((len(log), len(TARGETS)), np.nan, np.float32), np.zeros(len(log), np.int64)
        traces = []
        with self.opened(log, traced_only=traced_only) as (recommender, requests):
            tracer = FunnelTracer(recommender, depth=self.depth)
            for each in requests:
                if not traced_only:
                    scores[each.positions] = recommender.score(each.request, each.rows)
                groups[each.positions] = each.positions[0]
                if len(each.watched):
                    others = None if given is None else self._rows(given.get((each.request.user_id, each.day), ()))
                    traces.append(tracer.trace(each.request, each.watched, each.long_view, others))
        return ReplayResult(scores, traces, groups)

    def _rows(self, video_ids: Sequence[int | str]) -> np.ndarray:
        """Return the rows (n,) of some videos, -1 unknown."""
        return self.release.video_ids.rows(video_ids) if len(video_ids) else np.zeros(0, np.int64)

    @contextmanager
    def opened(self, log: HeldOutLog, *, traced_only: bool = False) -> Iterator[tuple[Recommender, Iterator[HeldOutRequest]]]:
        """Yield a recommender, and the held-out requests in time order, or those alone that are to be traced.

        At each request, the recommender's store has seen the events that the regime allows, from the release's `as_of` on.
        """
        with fresh_store(self.release) as store:
            stream = EventStream(store, regime=self.regime)
            # Processor time: what else runs on the machine must not decide which release is slow.
            yield Recommender(self.release, store, timer=time.process_time), self._requests(log, stream, traced_only)

    def _requests(self, log: HeldOutLog, stream: EventStream, traced_only: bool) -> Iterator[HeldOutRequest]:
        traced = Sample(log.viewer_days() if self.requests else 0, self.requests)
        with tqdm(total=len(log), desc=f"evaluation: {self.regime}", unit=" impressions") as bar:
            for part in log.parts():
                test = part.impressions.filter(pl.Series(part.held_out))
                stream.add(events_of(part.impressions, self.release.as_of_ms), day_starts(test))  # some are late outcomes
                for each in self._of_part(part, test, traced, traced_only):
                    stream.advance(each.request.as_of_ms)
                    yield each
                    bar.update(len(each.positions))
                bar.update(part.first + len(test) - bar.n)

    def groups(self, test: pl.DataFrame) -> np.ndarray:
        """Return the group (N,) of each impression: those of a group are scored together, as the first of them."""
        if self.regime == "request":
            return request_groups(test, day_starts(test))
        return test.with_row_index("first").select(pl.col("first").min().over("request_id"))["first"].to_numpy()

    def _of_part(self, part: LogPart, test: pl.DataFrame, traced: "Sample", traced_only: bool) -> Iterator[HeldOutRequest]:
        """Yield the requests of a part's held-out rows `test` in time order, with the k of the slates."""
        context = [f.name for f in self.release.pipeline.schema.columns("context")]
        rows, long_view = self.release.video_ids.rows_of(test["video_id"]), part.long_view[part.held_out]
        propensity = test["propensity"].fill_null(np.nan).to_numpy()
        watched = traced.watched_after(test)
        keyed = test.with_row_index("test_row").group_by(pl.Series("group", self.groups(test)), maintain_order=True)
        first = keyed.agg(
            pl.col("request_id", "user_id", "time_ms", "surface", "day").first(),
            pl.col(context).first().name.prefix("context."),
            pl.col("test_row"),
        )
        if traced_only:  # a log has far more requests than a sample
            first = first.filter(pl.col("request_id").cast(pl.String).is_in([*watched]))
        for row in first.sort("time_ms", maintain_order=True).iter_rows(named=True):
            given = {name: row[f"context.{name}"] for name in context if row[f"context.{name}"] is not None}
            at, after = np.array(row["test_row"]), np.array(watched.get(str(row["request_id"]), ()), np.int64)
            request = Request(str(row["request_id"]), row["user_id"], self.slate, row["time_ms"], row["surface"], None, given)
            yield HeldOutRequest(
                request, row["day"], part.first + at, rows[at], rows[after], long_view[after], propensity[after]
            )


class Sample:
    """Take about `most` of `count` things that come in parts, evenly spaced."""

    def __init__(self, count: int, most: int) -> None:
        self._step, self._met = (-(-count // most) or 1) if most else 0, 0

    def watched_after(self, test: pl.DataFrame) -> dict[str, list[int]]:
        """Return sampled first requests of a day: request id > positions in `test` of the videos watched from then on that
        day."""
        if not self._step:
            return {}
        watched = test.with_row_index("test_row").filter(pl.col("watch_ms") > 0)
        days = test.group_by("user_id", "day", maintain_order=True).agg(pl.col("request_id").first())
        joined = days.join(
            watched.group_by("user_id", "day").agg("test_row"), on=["user_id", "day"], how="inner", maintain_order="left"
        )
        chosen = joined.gather_every(self._step, -self._met % self._step)
        self._met += len(joined)
        return {str(request): positions for request, positions in chosen.select("request_id", "test_row").iter_rows()}

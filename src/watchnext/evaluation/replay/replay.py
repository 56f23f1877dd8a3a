"""Replay held-out days: each request at its own time, through the code that will serve, with the state that the regime allows.

Every test impression is scored (AUC, GAUC, logloss). Each viewer's first request of a day, or an even sample of these, is
traced through the funnel, to see how many of the videos that the viewer watches later that day each stage keeps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext import metrics
from watchnext.data.splits import SPLITS
from watchnext.data.tables import OUTCOMES, Tables, known_at
from watchnext.evaluation.replay.funnel_trace import FunnelTrace, FunnelTracer
from watchnext.features.dataset.freshness import day_starts, request_groups
from watchnext.features.state.event_order import in_order
from watchnext.features.state.fold import SHOWN
from watchnext.ranking.heads import WATCH
from watchnext.ranking.target_metrics import apart, of_head
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS, Request

PROBABILITIES = TARGETS[:WATCH]


@dataclass(frozen=True)
class ReplayResult:
    """`scores` (N, T) of the test impressions in table order, nan for unknown videos; the traces; and the `groups` (N,) of
    impressions that were scored together."""

    scores: np.ndarray
    traces: list[FunnelTrace]
    groups: np.ndarray


def events_of(impressions: pl.DataFrame, since_ms: int = 0) -> list[Event]:
    """Return the events of the impressions in fold order, without those known before `since_ms`."""
    later = impressions.filter(known_at() >= since_ms)
    times = later.select("time_ms", known_at()).cast(pl.Float64)
    ids, at = in_order(*(times[name].to_numpy() for name in times.columns))
    rows = later.select("user_id", "video_id", pl.col("surface").fill_null(""), "watch_ms", *OUTCOMES).rows()
    chosen = at >= since_ms
    return [_event(rows[id >> 1], id & 1, known) for id, known in zip(ids[chosen].tolist(), at[chosen].tolist(), strict=True)]


def _event(row: tuple, kind: int, at: float) -> Event:
    user_id, video_id, surface, watch_ms, *flags = row
    shared = {"user_id": user_id, "video_id": video_id, "surface": surface, "known_at": int(at)}
    if kind == SHOWN:
        return Event(kind="shown", **shared)
    return Event(kind="outcome", watch_ms=watch_ms, **shared, **dict(zip(OUTCOMES, flags, strict=True)))


class EventStream:
    """Apply held-out events to the store, as far as the regime allows for a request."""

    def __init__(self, store: Store, events: list[Event], *, regime: str, days_ms: np.ndarray) -> None:
        """Read `events`; `days_ms` are the times of the first request of each day, ascending."""
        self._store, self._events, self._regime, self._days_ms = store, events, regime, days_ms
        self._next = 0

    def advance(self, as_of_ms: int) -> None:
        """Apply every event that a request at `as_of_ms` may see."""
        if self._regime == "frozen":
            return
        day = np.searchsorted(self._days_ms, as_of_ms, side="right") - 1
        until = self._days_ms[day] if self._regime == "daily" else as_of_ms
        end = self._next
        while end < len(self._events) and self._events[end].known_at < until:
            end += 1
        if end > self._next:
            self._store.apply(self._events[self._next : end])
            self._next = end


@dataclass(frozen=True)
class Replay:
    """Replay held-out days of a log through a release.

    held_out  the split, an index in SPLITS: rows of later splits are not read
    slate     K of the slates
    requests  largest number of traced requests; 0 only scores impressions
    depth     number of videos of each source and baseline
    """

    release: Release
    regime: str
    slate: int
    requests: int
    depth: int
    held_out: int = SPLITS.index("test")

    def run(self, tables: Tables, split: np.ndarray, long_view: np.ndarray) -> ReplayResult:
        """Replay the held-out rows, after the events known from the release's `as_of` on.

        `split` and `long_view` (N,) are those of the feature stage. The state counts the flags of the log, as it will count
        those of clients; recall uses the label `long_view`.
        """
        test = tables.impressions.filter(pl.Series(split == self.held_out))
        rows = self.release.video_ids.rows_of(test["video_id"])
        scores = np.full((len(test), len(TARGETS)), np.nan, np.float32)
        watched_after, long_view = self.watched_after(test), long_view[split == self.held_out] > 0
        groups, title, traces = self.groups(test), f"evaluation: {self.regime}", []
        with self.opened(tables, split) as (recommender, requests):
            tracer = FunnelTracer(recommender, depth=self.depth)
            for request, rows_of_request in tqdm(requests, total=len(np.unique(groups)), desc=title, unit=" requests"):
                scores[rows_of_request] = recommender.score(request, rows[rows_of_request])
                if request.request_id in watched_after:
                    watched = np.array(watched_after[request.request_id])
                    traces.append(tracer.trace(request, rows[watched], long_view[watched]))
        return ReplayResult(scores, traces, groups)

    @contextmanager
    def opened(self, tables: Tables, split: np.ndarray) -> Iterator[tuple[Recommender, Iterator[tuple[Request, np.ndarray]]]]:
        """Yield a recommender, and the held-out requests in time order with their positions among the test impressions.

        At each request, the recommender's store has seen the events that the regime allows.
        """
        test = tables.impressions.filter(pl.Series(split == self.held_out))
        known = tables.impressions.filter(pl.Series(split <= self.held_out))
        events = events_of(known, self.release.as_of_ms)  # some are late outcomes of earlier impressions
        with TemporaryDirectory(prefix="watchnext-replay-") as folder:
            store = Store.open(Path(folder), self.release, durable=False)
            try:
                stream = EventStream(store, events, regime=self.regime, days_ms=day_starts(test))
                yield Recommender(self.release, store), self._streamed(stream, test)
            finally:
                store.close()

    def _streamed(self, stream: EventStream, test: pl.DataFrame) -> Iterator[tuple[Request, np.ndarray]]:
        for request, positions in self._requests(test):
            stream.advance(request.as_of_ms)
            yield request, positions

    def groups(self, test: pl.DataFrame) -> np.ndarray:
        """Return the group (N,) of each impression: those of a group are scored together, as the first of them."""
        if self.regime == "request":
            return request_groups(test, day_starts(test))
        return test.with_row_index("first").select(pl.col("first").min().over("request_id"))["first"].to_numpy()

    def _requests(self, test: pl.DataFrame) -> Iterator[tuple[Request, np.ndarray]]:
        """Yield (request, its positions in `test`) in time order, with the k of the slates."""
        context = [f.name for f in self.release.pipeline.schema.columns("context")]
        keyed = test.with_row_index("test_row").group_by(pl.Series("group", self.groups(test)), maintain_order=True)
        first = keyed.agg(
            pl.col("request_id", "user_id", "time_ms", "surface").first(),
            pl.col(context).first().name.prefix("context."),
            pl.col("test_row"),
        )
        for row in first.sort("time_ms", maintain_order=True).iter_rows(named=True):
            given = {name: row[f"context.{name}"] for name in context if row[f"context.{name}"] is not None}
            yield (
                Request(str(row["request_id"]), row["user_id"], self.slate, row["time_ms"], row["surface"], None, given),
                np.array(row["test_row"]),
            )

    def watched_after(self, test: pl.DataFrame) -> dict[str, list[int]]:
        """Return first requests of a day: request id > positions in `test` of the videos watched from then on that day."""
        watched = test.with_row_index("test_row").filter(pl.col("watch_ms") > 0)
        days = test.group_by("user_id", "day", maintain_order=True).agg(pl.col("request_id").first())
        joined = days.join(
            watched.group_by("user_id", "day").agg("test_row"), on=["user_id", "day"], how="inner", maintain_order="left"
        )
        step = max(1, -(-len(joined) // max(self.requests, 1)))
        chosen = joined.gather_every(step) if self.requests else joined.clear()
        return {str(request): positions for request, positions in chosen.select("request_id", "test_row").iter_rows()}


def ranking_metrics(scores: np.ndarray, targets: np.ndarray, users: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute AUC, GAUC over viewers, logloss and calibration error of each probability, and the errors in seconds.

    `targets` (N, T) are the labels of the test impressions of `users` (N,). Rows without scores are left out.
    """
    scored = np.isfinite(scores).all(axis=1)
    scores, targets, users = scores[scored], targets[scored], users[scored]
    by_target = {}
    for column, name in enumerate(PROBABILITIES):
        label, score = targets[:, column], scores[:, column]
        by_target[name] = of_head(score, label, users) | {"ece": metrics.ece(label, score)}
    seconds, watch = targets[:, WATCH], scores[:, WATCH]
    return by_target | {"watch_s": {"mae_s": metrics.mean_absolute_error(seconds, watch), "xauc": metrics.xauc(seconds, watch)}}


def request_metrics(scores: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute GAUC, nDCG@5 and MRR of each probability inside request groups, and the number of groups with both labels.

    Rows without scores are left out.
    """
    scored = np.isfinite(scores).all(axis=1)
    by_target = {}
    for column, name in enumerate(PROBABILITIES):
        figures = metrics.RequestFigures.of(targets[scored, column], scores[scored, column], groups[scored])
        by_target[name] = {"groups_request": len(figures.first), **figures.means()}
    return by_target


def skew(scores: np.ndarray, offline: np.ndarray) -> dict[str, float]:
    """Measure the largest differences between the served network on replayed state and the trained one on built features.

    `scores` and `offline` are (N, T); rows of videos that the catalogue lacks are left out.
    """
    scored = ~np.isnan(scores).all(axis=1)
    largest = apart(scores[scored], offline[scored])
    return {"skew": largest["probability"], "skew_watch_s": largest["watch_s"]}

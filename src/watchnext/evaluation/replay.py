"""Replay of held-out days: each request at its own time, through the code that will answer, on state as the regime allows.

Every test impression is scored (AUC, GAUC, logloss). Each viewer's first request of a day, or an even sample of those, is
followed through the funnel: how much of what the viewer watches from then until the end of that day survives it.
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
from watchnext.data.tables import OUTCOMES, Tables, known_at
from watchnext.evaluation.funnel import Follower, Funnel
from watchnext.features.dataset.freshness import day_starts
from watchnext.features.state.events import in_order
from watchnext.features.state.fold import SHOWN
from watchnext.ranking.heads import WATCH
from watchnext.ranking.target_metrics import apart, of_head
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.events import Event
from watchnext.serving.store.store import Store
from watchnext.types import TARGETS, Request

PROBABILITIES = TARGETS[:WATCH]


@dataclass(frozen=True)
class Replayed:
    """All that a replay saw. `scores` (N, T) of the test impressions in table order; nan where the log names an unknown
    video."""

    scores: np.ndarray
    funnels: list[Funnel]


def events_of(impressions: pl.DataFrame, since_ms: int = 0) -> list[Event]:
    """The events of the impressions, as the fold takes them, but those known before `since_ms`."""
    later = impressions.filter(known_at() >= since_ms)
    times = later.select("time_ms", known_at()).cast(pl.Float64)
    ids, at = in_order(*(times[name].to_numpy() for name in times.columns))
    rows = later.select("user_id", "video_id", pl.col("surface").fill_null(""), "watch_ms", *OUTCOMES).rows()
    chosen = at >= since_ms
    return [_event(rows[id >> 1], id & 1, known) for id, known in zip(ids[chosen].tolist(), at[chosen].tolist(), strict=True)]


def _event(row: tuple, kind: int, at: float) -> Event:
    user_id, video_id, surface, watch_ms, *flags = row
    about = {"user_id": user_id, "video_id": video_id, "surface": surface, "known_at": int(at)}
    if kind == SHOWN:
        return Event(kind="shown", **about)
    return Event(kind="outcome", watch_ms=watch_ms, **about, **dict(zip(OUTCOMES, flags, strict=True)))


class Stream:
    """Held-out events, applied to the store up to where the regime lets a request see."""

    def __init__(self, store: Store, events: list[Event], *, regime: str, days_ms: np.ndarray) -> None:
        """`days_ms` are the times of the first request of each day, ascending."""
        self._store, self._events, self._regime, self._days_ms = store, events, regime, days_ms
        self._next = 0

    def advance(self, as_of_ms: int) -> None:
        """Apply every event known strictly before what a request at `as_of_ms` may see."""
        if self._regime == "frozen":
            return
        day = np.searchsorted(self._days_ms, as_of_ms, side="right") - 1
        until = as_of_ms if self._regime == "streaming" else self._days_ms[day]
        end = self._next
        while end < len(self._events) and self._events[end].known_at < until:
            end += 1
        if end > self._next:
            self._store.apply(self._events[self._next : end])
            self._next = end


@dataclass(frozen=True)
class Replay:
    """slate  K of the slates; requests  how many requests are followed through the funnel at most, 0 only scores; depth  how
    many videos of each source and floor."""

    release: Release
    regime: str
    slate: int
    requests: int
    depth: int

    def run(self, tables: Tables, split: np.ndarray, long_view: np.ndarray) -> Replayed:
        """`split` and `long_view` (N,) as the feature stage saw them; rows of split 2 are replayed, after those known at the
        release's as_of. The state counts the flags of the log, as it will those of clients; the label `long_view` judges."""
        test = tables.impressions.filter(pl.Series(split == 2))
        rows = self.release.video_ids.rows_of(test["video_id"])
        scores = np.full((len(test), len(TARGETS)), np.nan, np.float32)
        followed, long_view = self._followed(test), long_view[split == 2] > 0
        count, title, funnels = test["request_id"].n_unique(), f"evaluation: {self.regime}", []
        with self.opened(tables, split) as (recommender, requests):
            follower = Follower(recommender, depth=self.depth)
            for request, place in tqdm(requests, total=count, desc=title, unit=" requests"):
                scores[place] = recommender.score(request, rows[place])
                if request.request_id in followed:
                    watched = np.array(followed[request.request_id])
                    funnels.append(follower.follow(request, rows[watched], long_view[watched]))
        return Replayed(scores, funnels)

    @contextmanager
    def opened(self, tables: Tables, split: np.ndarray) -> Iterator[tuple[Recommender, Iterator[tuple[Request, np.ndarray]]]]:
        """A recommender, and the held-out requests in time order with their places among the test impressions. When a request
        comes, the recommender's store has seen what the regime allows."""
        test = tables.impressions.filter(pl.Series(split == 2))
        events = events_of(tables.impressions, self.release.as_of_ms)  # some are late outcomes of earlier impressions
        with TemporaryDirectory(prefix="watchnext-replay-") as folder:
            store = Store.open(Path(folder), self.release, durable=False)
            try:
                stream = Stream(store, events, regime=self.regime, days_ms=day_starts(test))
                yield Recommender(self.release, store), self._streamed(stream, test)
            finally:
                store.close()

    def _streamed(self, stream: Stream, test: pl.DataFrame) -> Iterator[tuple[Request, np.ndarray]]:
        for request, place in self._requests(test):
            stream.advance(request.as_of_ms)
            yield request, place

    def _requests(self, test: pl.DataFrame) -> Iterator[tuple[Request, np.ndarray]]:
        """(request, its places in `test`), in time order. A log's request may show anything: k is the slate's."""
        context = [f.name for f in self.release.pipeline.schema.columns("context")]
        keyed = test.with_row_index("place").group_by("request_id", maintain_order=True)
        first = keyed.agg(
            pl.col("user_id", "time_ms", "surface").first(), pl.col(context).first().name.prefix("context."), pl.col("place")
        )
        for row in first.sort("time_ms", maintain_order=True).iter_rows(named=True):
            given = {name: row[f"context.{name}"] for name in context if row[f"context.{name}"] is not None}
            yield (
                Request(str(row["request_id"]), row["user_id"], self.slate, row["time_ms"], row["surface"], None, given),
                np.array(row["place"]),
            )

    def _followed(self, test: pl.DataFrame) -> dict[str, list[int]]:
        """Request id > places in `test` of what its viewer watched from it until the end of the day: first requests of a
        day."""
        watched = test.with_row_index("place").filter(pl.col("watch_ms") > 0)
        days = test.group_by("user_id", "day", maintain_order=True).agg(pl.col("request_id").first())
        joined = days.join(
            watched.group_by("user_id", "day").agg("place"), on=["user_id", "day"], how="inner", maintain_order="left"
        )
        step = max(1, -(-len(joined) // max(self.requests, 1)))
        chosen = joined.gather_every(step) if self.requests else joined.clear()
        return {str(request): places for request, places in chosen.select("request_id", "place").iter_rows()}


def ranking_metrics(scores: np.ndarray, targets: np.ndarray, users: np.ndarray) -> dict[str, dict[str, float]]:
    """AUC, GAUC over viewers, logloss and calibration error of each probability, and the error in seconds, against the labels
    `targets` (N, T) of the test impressions of `users` (N,). What could not be scored is left out."""
    scored = np.isfinite(scores).all(axis=1)
    scores, targets, users = scores[scored], targets[scored], users[scored]
    found = {}
    for place, name in enumerate(PROBABILITIES):
        label, score = targets[:, place], scores[:, place]
        found[name] = of_head(score, label, users) | {"ece": metrics.ece(label, score)}
    seconds, watch = targets[:, WATCH], scores[:, WATCH]
    return found | {"watch_s": {"mae_s": metrics.mean_absolute_error(seconds, watch), "xauc": metrics.xauc(seconds, watch)}}


def skew(scores: np.ndarray, offline: np.ndarray) -> dict[str, float]:
    """How far the served graph on replayed state is `apart` from the training network on built features, (N, T) each; rows that
    could not be scored, as the catalogue lacks their video, are left out."""
    scored = ~np.isnan(scores).all(axis=1)
    found = apart(scores[scored], offline[scored])
    return {"skew": found["probability"], "skew_watch_s": found["watch_s"]}

"""Prometheus metrics of the server, for `/metrics`. No label takes values that a client can invent."""

import threading
import time
from collections import Counter as Counts
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from watchnext.serving.funnel.answer import Answer, counts_by_source
from watchnext.types import SOURCES, TARGETS

PROBABILITIES = TARGETS[:3]  # the others are seconds
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
VALUES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SUMMED = 64  # answers that wait until they are counted together, or for a scrape


class BulkHistogram(Collector):
    """A histogram that takes many values at once, in series by the values of `label`, or in one. Any thread may call it."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], *, registry: CollectorRegistry, label: str | None = None
    ) -> None:
        self._about, self._bounds, self._labels = (f"watchnext_{name}", text), bounds, [] if label is None else [label]
        self._lock = threading.Lock()
        self._counts: dict[str, np.ndarray] = {}  # series > values in each bucket, those above the last bound included
        self._sums: dict[str, float] = {}
        if label is None:
            self.observe((), "")
        registry.register(self)

    def observe(self, values: Sequence[float], series: str = "") -> None:
        counts = np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._bounds) + 1)
        with self._lock:
            self._counts[series] = self._counts.get(series, 0) + counts
            self._sums[series] = self._sums.get(series, 0.0) + float(np.sum(values))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family, bounds = HistogramMetricFamily(*self._about, labels=self._labels), [*map(str, self._bounds), "+Inf"]
        with self._lock:
            for series, counts in self._counts.items():
                labels = [series] if self._labels else []
                family.add_metric(labels, [*zip(bounds, counts.cumsum().tolist(), strict=True)], self._sums[series])
        yield family


class ServerMetrics:
    """Count requests, slates and events in a registry of its own.

    What every answer is counted by waits in queues, and is summed for SUMMED answers at once: value by value it took a seventh
    of a look-up, as each series has a lock. A scrape sums what waits.
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "watchnext_requests", "Answers by route template and status.", ["route", "status"], registry=registry
        )
        seconds = {"bounds": BUCKETS_S, "registry": registry}
        self._seconds = BulkHistogram("request_seconds", "Time to answer.", label="route", **seconds)
        text = "Time in one stage of a slate, and in the commit of events."
        self._stages = BulkHistogram("stage_seconds", text, label="stage", **seconds)
        self._degraded = Counter("watchnext_degraded_slates", "Slates for which a stage failed.", registry=registry)
        self._reasons = Counter("watchnext_degradations", "Parts that failed of slates, by code.", ["code"], registry=registry)
        self._videos = Counter("watchnext_slate_videos", "Videos shown.", registry=registry)
        self._removed = Counter("watchnext_removed_candidates", "Candidates that a rule removed.", ["rule"], registry=registry)
        self._candidates = Counter(
            "watchnext_candidates", "Candidates that a source proposed; several may propose one.", ["source"], registry=registry
        )
        self._shown = Counter("watchnext_shown", "Videos shown that a source proposed.", ["source"], registry=registry)
        text, ratios = "Distinct creators of a slate, of its videos.", {"bounds": RATIOS, "registry": registry}
        self._creators = BulkHistogram("slate_creators", text, **ratios)
        self._value = BulkHistogram("slate_value", "Mean value of a slate.", VALUES, registry=registry)
        self._predicted = BulkHistogram("slate_prediction", "Mean prediction of a slate.", label="target", **ratios)
        self._lost = Counter("watchnext_impressions_lost", "Impressions that were not recorded.", registry=registry)
        self._events = Counter("watchnext_events", "Outcome events by result.", ["result"], registry=registry)
        self._arms = Counter(
            "watchnext_canary_answers", "Answers while a challenger is tried, by arm.", ["arm", "result"], registry=registry
        )
        self._arm_seconds = BulkHistogram("canary_seconds", "Time to answer, by arm.", label="arm", **seconds)
        self._overlap = BulkHistogram("shadow_overlap", "Share of a slate that a challenger's has too.", **ratios)
        for metric in (self._candidates, self._shown):
            for name in SOURCES:
                metric.labels(name)
        self._summing = threading.Lock()
        self._answered: deque[tuple[str, int, float]] = deque()
        self._committed: deque[float] = deque()
        self._slates: deque[tuple[Answer, Sequence[str], int]] = deque()

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a value that is read at every scrape."""
        Gauge(f"watchnext_{name}", text, registry=self._registry).set_function(read)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer by route template and status."""
        self._answered.append((route, status, seconds))
        self._sum_if_many(self._answered)

    def slate(self, answer: Answer, *, degraded: Sequence[str], creators: int) -> None:
        """Count a slate; `degraded` are the codes of its parts that failed, `creators` the number of different ones."""
        self._slates.append((answer, degraded, creators))
        self._sum_if_many(self._slates)

    def committed(self, seconds: float) -> None:
        """Observe the time from a call's place in the queue until it was on disk."""
        self._committed.append(seconds)
        self._sum_if_many(self._committed)

    # ---- sums --------------------------------------------------------------------------------------------------------

    def _sum_if_many(self, queue: deque) -> None:
        if len(queue) >= SUMMED:
            self._sum()

    def _sum(self) -> None:
        """Count what waits in the queues."""
        with self._summing:
            self._sum_answered(_taken(self._answered))
            if committed := _taken(self._committed):
                self._stages.observe(committed, "commit")
            if slates := _taken(self._slates):
                self._sum_slates(*zip(*slates, strict=True))

    def _sum_answered(self, answered: Sequence[tuple[str, int, float]]) -> None:
        for labels, count in Counts(each[:2] for each in answered).items():
            self._requests.labels(*labels).inc(count)
        by_route = defaultdict(list)
        for route, _, seconds in answered:
            by_route[route].append(seconds)
        for route, seconds in by_route.items():
            self._seconds.observe(seconds, route)

    def _sum_slates(self, answers: Sequence[Answer], degraded: Sequence[Sequence[str]], creators: Sequence[int]) -> None:
        self._degraded.inc(sum(map(bool, degraded)))
        for code, count in Counts(code for codes in degraded for code in codes).items():
            self._reasons.labels(code).inc(count)
        removed, stages = Counts(), defaultdict(list)
        for answer in answers:
            removed.update(answer.removed)
            for stage, ms in answer.timings_ms.items():
                stages[stage].append(ms / 1000.0)
        for rule, count in removed.items():
            self._removed.labels(rule).inc(count)
        for stage, seconds in stages.items():
            self._stages.observe(seconds, stage)
        if full := [(answer, count) for answer, count in zip(answers, creators, strict=True) if len(answer.ids)]:
            self._sum_composition(*zip(*full, strict=True))

    def _sum_composition(self, answers: Sequence[Answer], creators: Sequence[int]) -> None:
        """Observe where candidates and slates come from, how different and how good each slate is."""
        sources = [answer.scored.candidates.sources for answer in answers]
        shown = [each[answer.slate.picked] for each, answer in zip(sources, answers, strict=True)]
        for metric, parts in ((self._candidates, sources), (self._shown, shown)):
            for name, count in zip(SOURCES, counts_by_source(np.concatenate(parts)), strict=True):
                metric.labels(name).inc(count)
        lengths = np.array([*map(len, shown)])
        starts = lengths.cumsum() - lengths
        self._videos.inc(int(lengths.sum()))
        self._creators.observe(np.array(creators) / lengths)
        self._value.observe(np.add.reduceat(np.concatenate([answer.slate.values for answer in answers]), starts) / lengths)
        predictions = np.concatenate([answer.predictions for answer in answers]).astype(np.float64)
        means = np.add.reduceat(predictions, starts) / lengths[:, None]
        for target, mean in zip(TARGETS, means.T, strict=True):
            if target in PROBABILITIES and len(known := mean[np.isfinite(mean)]):  # nan where the ranker did not run
                self._predicted.observe(known, target)

    # ---- seldom, or once a call of many events ---------------------------------------------------------------------------

    def arm(self, arm: str, result: str, seconds: float | None = None) -> None:
        """Count an answer of one arm of a canary, or of a challenger aside; `seconds` it took, None of a failure."""
        self._arms.labels(arm, result).inc()
        if seconds is not None:
            self._arm_seconds.observe((seconds,), arm)

    def shadow(self, overlap: float, seconds: float, *, degraded: bool) -> None:
        """Count a slate that a challenger computed aside."""
        self._overlap.observe((overlap,))
        self.arm("shadow", "degraded" if degraded else "whole", seconds)

    def events(self, counts: Mapping[str, int]) -> None:
        for result, count in counts.items():
            self._events.labels(result).inc(count)

    def impressions_lost(self, count: int) -> None:
        self._lost.inc(count)

    def impressions_written(self, count: int, began: float, done: Future) -> None:
        """Observe the end of the write of `count` impressions, which waited from `began` on."""
        self.committed(time.perf_counter() - began)
        if done.exception():
            self.impressions_lost(count)

    def text(self) -> bytes:
        """Render all metrics in the Prometheus text format."""
        self._sum()
        return generate_latest(self._registry)


def _taken(queue: deque) -> list:
    """Empty a queue, to which others append meanwhile."""
    return [queue.popleft() for _ in range(len(queue))]

"""Prometheus metrics of the server, for `/metrics`. No label takes values that a client can invent."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from watchnext.serving.funnel.answer import Answer, counts_by_source
from watchnext.types import SOURCES, TARGETS

PROBABILITIES = TARGETS[:3]  # the others are seconds
RATIOS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
VALUES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class ServerMetrics:
    """Count requests, slates and events in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "watchnext_requests", "Answers by route template and status.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "watchnext_request_seconds", "Time to answer.", ["route"], buckets=BUCKETS_S, registry=registry
        )
        self._stages = Histogram(
            "watchnext_stage_seconds",
            "Time in one stage of a slate, and in the commit of events.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._degraded = Counter("watchnext_degraded_slates", "Slates for which a stage failed.", registry=registry)
        self._reasons = Counter("watchnext_degradations", "Parts that failed of slates, by code.", ["code"], registry=registry)
        self._videos = Counter("watchnext_slate_videos", "Videos shown.", registry=registry)
        self._removed = Counter("watchnext_removed_candidates", "Candidates that a rule removed.", ["rule"], registry=registry)
        self._candidates = Counter(
            "watchnext_candidates", "Candidates that a source proposed; several may propose one.", ["source"], registry=registry
        )
        self._shown = Counter("watchnext_shown", "Videos shown that a source proposed.", ["source"], registry=registry)
        self._creators = Histogram(
            "watchnext_slate_creators", "Distinct creators of a slate, of its videos.", buckets=RATIOS, registry=registry
        )
        self._value = Histogram("watchnext_slate_value", "Mean value of a slate.", buckets=VALUES, registry=registry)
        self._predicted = Histogram(
            "watchnext_slate_prediction", "Mean prediction of a slate.", ["target"], buckets=RATIOS, registry=registry
        )
        self._lost = Counter("watchnext_impressions_lost", "Impressions that were not recorded.", registry=registry)
        self._events = Counter("watchnext_events", "Outcome events by result.", ["result"], registry=registry)
        self._arms = Counter(
            "watchnext_canary_answers", "Answers while a challenger is tried, by arm.", ["arm", "result"], registry=registry
        )
        self._arm_seconds = Histogram(
            "watchnext_canary_seconds", "Time to answer, by arm.", ["arm"], buckets=BUCKETS_S, registry=registry
        )
        self._overlap = Histogram(
            "watchnext_shadow_overlap", "Share of a slate that a challenger's has too.", buckets=RATIOS, registry=registry
        )

        self._by_source = [[each.labels(name) for name in SOURCES] for each in (self._candidates, self._shown)]
        self._children: dict[tuple, Counter | Histogram] = {}

    def _labelled(self, metric: Counter | Histogram, *labels: str | int) -> Counter | Histogram:
        """Return `metric.labels(*labels)`, which takes a lock and makes texts, fifty times a slate."""
        if (child := self._children.get((metric, labels))) is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a value that is read at every scrape."""
        Gauge(f"watchnext_{name}", text, registry=self._registry).set_function(read)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._labelled(self._requests, route, status).inc()
        self._labelled(self._seconds, route).observe(seconds)

    def slate(self, answer: Answer, *, degraded: Sequence[str], creators: int) -> None:
        """Count an answer; `degraded` are the codes of its parts that failed, `creators` the number of different ones."""
        self._degraded.inc(bool(degraded))
        for code in degraded:
            self._labelled(self._reasons, code).inc()
        for rule, count in answer.removed.items():
            self._labelled(self._removed, rule).inc(count)
        for stage, ms in answer.timings_ms.items():
            self._labelled(self._stages, stage).observe(ms / 1000.0)
        if videos := len(answer.ids):
            self._videos.inc(videos)
            self._composition(answer, creators / videos)

    def _composition(self, answer: Answer, creators: float) -> None:
        """Observe where candidates and slate come from, how different and how good the slate is."""
        sources = answer.scored.candidates.sources
        for children, of_source in zip(self._by_source, (sources, sources[answer.slate.picked]), strict=True):
            for child, count in zip(children, counts_by_source(of_source), strict=True):
                if count:
                    child.inc(count)
        self._creators.observe(creators)
        self._value.observe(float(answer.slate.values.mean()))
        for target, mean in zip(TARGETS, answer.predictions.mean(axis=0).tolist(), strict=True):
            if math.isfinite(mean) and target in PROBABILITIES:  # nan where the ranker did not run
                self._labelled(self._predicted, target).observe(mean)

    def arm(self, arm: str, result: str, seconds: float | None = None) -> None:
        """Count an answer of one arm of a canary, or of a challenger aside; `seconds` it took, None of a failure."""
        self._labelled(self._arms, arm, result).inc()
        if seconds is not None:
            self._labelled(self._arm_seconds, arm).observe(seconds)

    def shadow(self, overlap: float, seconds: float, *, degraded: bool) -> None:
        """Count a slate that a challenger computed aside."""
        self._overlap.observe(overlap)
        self.arm("shadow", "degraded" if degraded else "whole", seconds)

    def events(self, counts: Mapping[str, int]) -> None:
        for result, count in counts.items():
            self._labelled(self._events, result).inc(count)

    def impressions_lost(self, count: int) -> None:
        self._lost.inc(count)

    def impressions_written(self, count: int, began: float, done: Future) -> None:
        """Observe the end of the write of `count` impressions, which waited from `began` on."""
        self.committed(time.perf_counter() - began)
        if done.exception():
            self.impressions_lost(count)

    def committed(self, seconds: float) -> None:
        """Observe the time from a call's place in the queue until it was on disk."""
        self._labelled(self._stages, "commit").observe(seconds)

    def text(self) -> bytes:
        """Render all metrics in the Prometheus text format."""
        return generate_latest(self._registry)

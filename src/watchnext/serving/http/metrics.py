"""Prometheus metrics of the server, for `/metrics`. No label takes values that a client can invent."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self._lost = Counter("watchnext_impressions_lost", "Impressions that were not recorded.", registry=registry)
        self._events = Counter("watchnext_events", "Outcome events by result.", ["result"], registry=registry)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Register a value that is read at every scrape."""
        Gauge(f"watchnext_{name}", text, registry=self._registry).set_function(read)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def slate(
        self, *, videos: int, removed: Mapping[str, int], degraded: Sequence[str], timings_ms: Mapping[str, float]
    ) -> None:
        self._videos.inc(videos)
        self._degraded.inc(bool(degraded))
        for code in degraded:
            self._reasons.labels(code).inc()
        for rule, count in removed.items():
            self._removed.labels(rule).inc(count)
        for stage, ms in timings_ms.items():
            self._stages.labels(stage).observe(ms / 1000.0)

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

    def committed(self, seconds: float) -> None:
        """Observe the time from a call's place in the queue until it was on disk."""
        self._stages.labels("commit").observe(seconds)

    def text(self) -> bytes:
        """Render all metrics in the Prometheus text format."""
        return generate_latest(self._registry)

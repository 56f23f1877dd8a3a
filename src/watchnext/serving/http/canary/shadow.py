"""Score requests with a challenger aside: answers stay as they are, and nothing is recorded as shown."""

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from watchnext.assignment import point_of
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.release.live_catalogue import LiveIds
from watchnext.types import Request

log = logging.getLogger(__name__)
WAITING = 16  # requests that may wait for the thread; more are dropped and counted


class _Waiting(NamedTuple):
    """A request that waits: what computes the challenger's answer, and the answer that was given."""

    compute: Callable[[], Answer]
    given: Answer


class Shadow:
    """Compute a challenger's answers to a sample of requests, in a thread that sleeps to stay within a share of a core.

    `ids` are those of the serving catalogue; `cpu` is the share of one core, in (0, 1]. `share` may be changed.

    scored, dropped, failed  requests
    """

    def __init__(
        self, recommender: Recommender, ids: LiveIds, *, name: str, share: float, cpu: float, metrics: ServerMetrics
    ) -> None:
        self._recommender, self._ids, self._name, self.share, self._cpu = recommender, ids, name, share, cpu
        self._metrics = metrics
        self.scored = self.dropped = self.failed = 0
        self._degraded, self._sums = 0, {"overlap": 0.0, "score_difference": 0.0, "ms": 0.0, "given_ms": 0.0}
        self._owed_s = 0.0  # time of requests' threads that the share of the core has to make up for
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(WAITING)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def inspect(self, request: Request) -> Callable[[Answer], None] | None:
        """Take a request of the sample, with the viewer's state as of now: the videos shown to it would be seen later.

        Returns what takes the answer that was given; None for a request that is not scored.
        """
        if not self.share or point_of(f"shadow {self._name}", request.request_id) >= self.share:
            return None
        if self._queue.full():
            self.dropped += 1
            return None
        began = time.perf_counter()
        try:
            compute = self._recommender.prepared(self._translated(request))
        except Exception:
            self._fail(request.request_id)
            return None
        finally:
            self._owed_s += time.perf_counter() - began

        def answered(given: Answer) -> None:
            try:
                self._queue.put_nowait(_Waiting(compute, given))
            except queue.Full:
                self.dropped += 1

        return answered

    def summary(self) -> dict:
        """Return counts and means, JSON-ready; means are null where nothing was scored.

        overlap           share of the slate that is in the challenger's too
        score_difference  mean absolute difference of the values of these videos
        ms, given_ms      mean time of the challenger's answer, and of the one that was given
        """
        counts = {name: getattr(self, name) for name in ("scored", "dropped", "failed")} | {"degraded": self._degraded}
        return counts | {name: total / self.scored if self.scored else None for name, total in self._sums.items()}

    def close(self) -> None:
        """Stop after the request that is being scored; those that wait are dropped. A second call does nothing."""
        self._closed.set()
        with contextlib.suppress(queue.Full):  # then the thread is awake
            self._queue.put_nowait(None)
        self._thread.join()

    def _translated(self, request: Request) -> Request:
        """Return the request with the challenger's rows of its videos."""
        rows = self._recommender.catalogue.ids.rows(self._ids.values(np.array(request.exclude, np.int64)))
        seed = None if request.seed is None else int(self._recommender.catalogue.ids.rows([self._ids.value(request.seed)])[0])
        return replace(request, exclude=tuple(rows[rows >= 0].tolist()), seed=None if seed == -1 else seed)

    def _run(self) -> None:
        while not self._closed.is_set():
            if (waiting := self._queue.get()) is None or self._closed.is_set():
                return
            began = time.perf_counter()
            try:
                self._score(waiting)
            except Exception:
                self._fail(waiting.given.request.request_id)
            busy_s, self._owed_s = time.perf_counter() - began + self._owed_s, 0.0
            self._closed.wait(busy_s * (1.0 / self._cpu - 1.0))

    def _score(self, waiting: _Waiting) -> None:
        given, answer = waiting.given, waiting.compute()
        own = dict(zip(answer.ids, answer.slate.values.tolist(), strict=True))
        both = [
            (value, own[video]) for video, value in zip(given.ids, given.slate.values.tolist(), strict=True) if video in own
        ]
        differences = [abs(first - second) for first, second in both]
        overlap, ms = len(both) / max(len(given.ids), 1), sum(answer.timings_ms.values())
        self.scored += 1
        self._degraded += answer.degraded
        self._sums["overlap"] += overlap
        self._sums["score_difference"] += sum(differences) / max(len(differences), 1)
        self._sums["ms"] += ms
        self._sums["given_ms"] += sum(given.timings_ms.values())
        self._metrics.shadow(overlap, ms / 1000.0, degraded=answer.degraded)

    def _fail(self, request_id: str) -> None:
        self.failed += 1
        log.exception("the challenger could not score request %s aside", request_id)

"""A request > a slate: the funnel, in plain Python. Evaluation replays through this very class; time is the request's own."""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from watchnext.features.encode.expressions import HOUR_MS
from watchnext.features.state import history
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.slate import Reranker
from watchnext.retrieval.index.queries import best_of
from watchnext.retrieval.sources.merge import merge
from watchnext.retrieval.sources.source import SourceQuery, eligible
from watchnext.serving.funnel.answer import Answer, Laps
from watchnext.serving.funnel.explanations import Reasons
from watchnext.serving.funnel.prefilter import Eligible
from watchnext.serving.funnel.query import ContextError, Inputs, Query, named
from watchnext.serving.funnel.sources import sources_of
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store, StoreError
from watchnext.types import TARGETS, Candidates, Request, Scored, Slate

__all__ = ["Answer", "ContextError", "Recommender"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalOrder:
    """The value of a candidate where there are no predictions: its place among the candidates, from 1 down."""

    def of(self, predictions: np.ndarray) -> np.ndarray:
        return 1.0 - np.arange(len(predictions)) / max(len(predictions), 1)


class Recommender:
    """One release over one store. Safe to call from any thread.

    timer      seconds, for the stages' timings only
    budget_ms  an answer that has taken longer before ranking goes out in retrieval order
    """

    def __init__(
        self,
        release: Release,
        store: Store,
        *,
        timer: Callable[[], float] = time.perf_counter,
        budget_ms: float = math.inf,
    ) -> None:
        self.release, self.store = release, store
        self._timer, self._budget_ms = timer, budget_ms
        self._inputs = Inputs(release, store)
        self._upload_ms = np.array(release.catalogue.upload_ms)
        state = release.pipeline.schema.state
        self._reasons = Reasons(state, release.layout)
        self._eligible = Eligible(release.reranker.rules, release.catalogue, release.region_bits)
        self._sources = sources_of(release, store)
        whole = release.reranker
        self._unranked = Reranker(
            value=RetrievalOrder(), rules=whole.rules, diversity=whole.diversity, exploration=whole.exploration
        )

    # ---- the whole funnel --------------------------------------------------------------------------------------------

    def recommend(self, request: Request) -> Answer:
        """A slate of `request.k` videos, or fewer where fewer are allowed. A part that fails costs quality, not the answer.

        Raises ContextError for a context that the schema does not declare.
        """
        laps, why = Laps(self._timer), []
        query = self._query(request, why)
        laps.end("state")
        candidates = self._retrieved(query, why)
        laps.end("retrieval")
        scored = self._ranked(query, candidates, laps, why)
        laps.end("ranking")
        slate = self._reranked(query, scored)
        laps.end("reranking")
        return self._answer(query, scored, slate, laps, tuple(why))

    # ---- stage by stage, for evaluation ------------------------------------------------------------------------------

    def retrieve(self, request: Request, k: int | None = None) -> Candidates:
        """What retrieval names for a request, before any rule. With `k` every source is asked for so many instead of its
        quota, and so many are kept."""
        return self._retrieved(self._strict(request), [], k)

    def found(self, request: Request, k: int | None = None) -> Mapping[str, np.ndarray]:
        """What each source names before the merge, source > rows (n,) best first: its quota, or `k`. Videos that do not exist
        yet, or were seen (but by `continue`), are left out, so there may be fewer."""
        return self._found(self._strict(request), [], k)

    def score(self, request: Request, rows: np.ndarray) -> np.ndarray:
        """Predictions (C, T) of the ranker for the videos `rows` (C,), whatever retrieval says."""
        return self._predicted(self._strict(request), np.asarray(rows, np.int64))

    def rank(self, request: Request, candidates: Candidates) -> Scored:
        return Scored(candidates, self.score(request, candidates.rows))

    def rerank(self, request: Request, scored: Scored) -> Slate:
        return self._reranked(self._strict(request), scored)

    def history(self, user_id: int | str, as_of_ms: int, limit: int) -> list[dict]:
        """A viewer's last watches, latest first."""
        layout = self.release.layout
        rows, values = np.empty(layout.history, np.int32), np.empty((layout.history, 3))
        history.read(self.store.viewer(user_id), layout.at_history, layout.history, float(as_of_ms), rows, values)
        return [
            {
                "video_id": self.release.video_ids.value(row),
                "ago_s": ago_s,
                "watch_s": watch_s,
                "outcomes": [name for name, bit in OUTCOME_BITS.items() if int(bits) & bit],
            }
            for row, (ago_s, watch_s, bits) in zip(rows.tolist(), values.tolist(), strict=True)
            if row >= 0
        ][:limit]

    def warm(self) -> None:
        """Compile and touch everything that a first request or event would otherwise wait for."""
        self.store.warm()
        self.recommend(Request("warm", 0, 20, self.release.as_of_ms))

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _strict(self, request: Request) -> Query:
        return self._inputs.query(request, self.store.viewer(request.user_id))

    def _query(self, request: Request, why: list[str]) -> Query:
        try:
            record = self.store.viewer(request.user_id)
        except StoreError:
            log.exception("request %s is answered as a newcomer's", request.request_id)
            why.append("the store could not be read: answered as for a new viewer")
            record = np.zeros(self.release.layout.viewer)
        return self._inputs.query(request, record)

    def _retrieved(self, query: Query, why: list[str], k: int | None = None) -> Candidates:
        settings = self.release.retrieval["merge"]
        return merge(self._found(query, why, k), **(settings if k is None else {**settings, "most": k}))

    def _found(self, query: Query, why: list[str], k: int | None = None) -> dict[str, np.ndarray]:
        asked, found = self._inputs.asked(query), {}
        for name, quota in self.release.retrieval["quotas"].items():
            most = quota if k is None else k
            seen = query.viewer.seen if name != "continue" else query.viewer.seen[:0]
            try:
                rows = self._named(name, query, asked, most, len(seen))
            except Exception:
                log.exception("request %s is answered without the source %s", query.request.request_id, name)
                why.append(f"the source {name} failed: answered from the others")
            else:
                found[name] = eligible(rows, most, seen=seen, upload_ms=self._upload_ms, as_of_ms=asked.as_of_ms)
        return found

    def _named(self, name: str, query: Query, asked: SourceQuery, most: int, seen: int) -> np.ndarray:
        """A source's list, longer by as many as may be `seen`."""
        if name == "two_tower":
            return self._nearest(query, most)[0]
        return self._sources[name].candidates(asked, most + seen)

    def _nearest(self, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best `k` by the better of the viewer's query vectors, all of which the filters will let through; of copies the
        nearest."""
        vectors = self.release.query_tower(self._inputs.of_viewer(query))
        if not vectors.any():  # a query without a direction is near nothing
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        allowed = self._eligible.of(query.viewer, as_of_ms=float(query.request.as_of_ms), unavailable=self.store.unavailable)
        wanted = k
        while True:
            found = self.release.index.search(vectors, wanted, allowed)
            rows, scores = best_of(*found)
            kept = self._eligible.without_copies(rows)[:k]
            if len(kept) == k or len(rows) < wanted:
                return rows[kept], scores[kept]
            wanted *= 2  # what copies left open

    def _ranked(self, query: Query, candidates: Candidates, laps: Laps, why: list[str]) -> Scored:
        """The candidates with their predictions, or with nan for all of them and the reason in `why`."""
        unknown = np.full((len(candidates), len(TARGETS)), np.nan, np.float32)
        if self.release.ranker is None:
            return Scored(candidates, unknown)
        if laps.total_ms > self._budget_ms:
            why.append("no time was left to rank: answered in retrieval order")
            return Scored(candidates, unknown)
        try:
            predictions = self._predicted(query, candidates.rows)
        except Exception:
            log.exception("request %s is answered in retrieval order", query.request.request_id)
            predictions = unknown
        if len(candidates) and not np.isfinite(predictions).any():
            why.append("the ranker failed: answered in retrieval order")
        return Scored(candidates, predictions)

    def _predicted(self, query: Query, rows: np.ndarray) -> np.ndarray:
        if self.release.ranker is None or not len(rows):  # a graph need not take zero rows
            return np.full((len(rows), len(TARGETS)), np.nan, np.float32)
        return self.release.calibration(self.release.ranker(self._inputs.of(query, rows)[0]))

    def _reranked(self, query: Query, scored: Scored) -> Slate:
        ranked = not len(scored) or np.isfinite(scored.predictions).any()
        reranker = self.release.reranker if ranked else self._unranked
        seed = int.from_bytes(hashlib.sha256(query.request.request_id.encode()).digest()[:8], "big")
        return reranker.rerank(scored, k=query.request.k, viewer=query.viewer, facts=self.release.catalogue,
                               region_bits=self.release.region_bits, seed=seed, unavailable=self.store.unavailable)  # fmt: skip

    def _answer(self, query: Query, scored: Scored, slate: Slate, laps: Laps, why: tuple[str, ...]) -> Answer:
        rows = scored.candidates.rows[slate.picked]
        inputs, counters = self._inputs.of(query, rows)
        age_h = (query.request.as_of_ms - self._upload_ms[rows]) / HOUR_MS
        # The best one has at least 1 - epsilon; whoever has less was drawn.
        explored = slate.propensities < 1.0 - self.release.reranker.exploration.epsilon
        reasons = self._reasons.of(
            counters, scored.candidates.sources[slate.picked], age_h, explored, has_history=query.has_history
        )
        laps.end("answer")
        return Answer(
            request=query.request,
            release=self.release.id,
            mode="online",
            as_of_ms=query.request.as_of_ms,
            scored=scored,
            slate=slate,
            ids=[self.release.video_ids.value(row) for row in rows],
            reasons=reasons,
            removed={name: len(positions) for name, positions in slate.removed.items()},
            funnel={"retrieved": len(scored), "ranked": len(scored), "slate": len(rows)},
            why=why,
            timings_ms=laps.ms,
            describe=partial(named, self.release.pipeline, inputs),
        )

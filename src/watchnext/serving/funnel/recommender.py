"""The funnel: a request > a slate. Evaluation replays through this class; the only time it knows is the request's."""

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
from watchnext.retrieval.sources.source import eligible
from watchnext.serving.funnel.answer import Answer, StageTimer
from watchnext.serving.funnel.explanations import Explanations
from watchnext.serving.funnel.query import ContextError, QueryEncoder, features_by_name
from watchnext.serving.funnel.release_sources import sources_of
from watchnext.serving.funnel.rule_prefilter import RulePreFilter
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store, StoreError
from watchnext.types import TARGETS, Candidates, Query, Request, Scored, Slate

__all__ = ["Answer", "ContextError", "Recommender"]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetrievalOrder:
    """Value candidates without predictions by their retrieval rank, from 1 down."""

    def of(self, predictions: np.ndarray) -> np.ndarray:
        return 1.0 - np.arange(len(predictions)) / max(len(predictions), 1)


class Recommender:
    """Recommend videos of one release to the viewers of one store. Safe to call from any thread.

    timer      returns seconds; only for the timings of the stages
    budget_ms  a request that has taken longer before ranking is answered in retrieval order
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
        self._encoder = QueryEncoder(release, store)
        self._upload_ms = np.array(release.catalogue.upload_ms)
        state = release.pipeline.schema.state
        self._explanations = Explanations(state, release.layout)
        self._prefilter = RulePreFilter(release.reranker.rules, release.catalogue, release.region_bits)
        self._sources = sources_of(release, store)
        whole = release.reranker
        self._unranked = Reranker(
            value=RetrievalOrder(), rules=whole.rules, diversity=whole.diversity, exploration=whole.exploration
        )

    # ---- the whole funnel --------------------------------------------------------------------------------------------

    def recommend(self, request: Request) -> Answer:
        """Return a slate of `request.k` videos, or of fewer where fewer are allowed. A part that fails degrades the answer.

        Raises ContextError for a context that the schema does not declare.
        """
        timer, degradations = StageTimer(self._timer), []
        query = self._query(request, degradations)
        timer.stop("state")
        candidates = self._retrieved(query, degradations)
        timer.stop("retrieval")
        scored = self._ranked(query, candidates, timer, degradations)
        timer.stop("ranking")
        slate = self._reranked(query, scored)
        timer.stop("reranking")
        return self._answer(query, scored, slate, timer, tuple(degradations))

    # ---- stage by stage, for evaluation ------------------------------------------------------------------------------

    def retrieve(self, request: Request, k: int | None = None) -> Candidates:
        """Return the merged candidates of a request, before any rule.

        With `k`, every source returns up to `k` videos instead of its quota, and `k` candidates are kept.
        """
        return self._retrieved(self._hydrated(request), [], k)

    def by_source(self, request: Request, k: int | None = None) -> Mapping[str, np.ndarray]:
        """Return source > rows (n,), best first, before the merge: each source's quota, or `k`.

        There may be fewer, as seen videos (except for `continue`) and those not uploaded yet are left out.
        """
        return self._by_source(self._hydrated(request), [], k)

    def score(self, request: Request, rows: np.ndarray) -> np.ndarray:
        """Return the ranker's predictions (C, T) for the videos `rows` (C,), retrieved or not."""
        return self._predicted(self._hydrated(request), np.asarray(rows, np.int64))

    def rank(self, request: Request, candidates: Candidates) -> Scored:
        return Scored(candidates, self.score(request, candidates.rows))

    def rerank(self, request: Request, scored: Scored) -> Slate:
        return self._reranked(self._hydrated(request), scored)

    def history(self, user_id: int | str, as_of_ms: int, limit: int) -> list[dict]:
        """Return a viewer's last watches, latest first."""
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
        """Compile and load everything that the first request or event would otherwise wait for."""
        self.store.warm()
        self.recommend(Request("warm", 0, 20, self.release.as_of_ms))

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _hydrated(self, request: Request) -> Query:
        return self._encoder.hydrate(request, self.store.viewer(request.user_id))

    def _query(self, request: Request, degradations: list[str]) -> Query:
        try:
            record = self.store.viewer(request.user_id)
        except StoreError:
            log.exception("request %s is answered as for a new viewer", request.request_id)
            degradations.append("the store could not be read: answered as for a new viewer")
            record = np.zeros(self.release.layout.viewer)
        return self._encoder.hydrate(request, record)

    def _retrieved(self, query: Query, degradations: list[str], k: int | None = None) -> Candidates:
        settings = self.release.retrieval["merge"]
        return merge(self._by_source(query, degradations, k), **(settings if k is None else {**settings, "most": k}))

    def _by_source(self, query: Query, degradations: list[str], k: int | None = None) -> dict[str, np.ndarray]:
        lists = {}
        for name, quota in self.release.retrieval["quotas"].items():
            most = quota if k is None else k
            seen = query.seen if name != "continue" else query.seen[:0]
            try:
                rows = self._source_rows(name, query, most, len(seen))
            except Exception:
                log.exception("request %s is answered without the source %s", query.request.request_id, name)
                degradations.append(f"the source {name} failed: answered from the others")
            else:
                lists[name] = eligible(rows, most, seen=seen, upload_ms=self._upload_ms, as_of_ms=query.as_of_ms)
        return lists

    def _source_rows(self, name: str, query: Query, most: int, seen: int) -> np.ndarray:
        """Return the list of one source, with `seen` more videos, as the seen ones are removed later."""
        if name == "two_tower":
            return self._nearest(query, most)[0]
        return self._sources[name].candidates(query, most + seen)

    def _nearest(self, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search the `k` videos nearest to any of the viewer's query vectors, pre-filtered; of copies, the nearest."""
        vectors = self.release.query_tower(self._encoder.viewer_inputs(query))
        if not vectors.any():  # a zero vector is near no video
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        allowed = self._prefilter.of(query, unavailable=self.store.unavailable)
        wanted = k
        while True:
            rows, scores = best_of(*self.release.index.search(vectors, wanted, allowed))
            kept = self._prefilter.without_copies(rows)[:k]
            if len(kept) == k or len(rows) < wanted:
                return rows[kept], scores[kept]
            wanted *= 2  # copies were excluded: search deeper

    def _ranked(self, query: Query, candidates: Candidates, timer: StageTimer, degradations: list[str]) -> Scored:
        """Return the candidates with their predictions, or all nan and a message in `degradations`."""
        unknown = np.full((len(candidates), len(TARGETS)), np.nan, np.float32)
        if self.release.ranker is None:
            return Scored(candidates, unknown)
        if timer.total_ms > self._budget_ms:
            degradations.append("no time was left to rank: answered in retrieval order")
            return Scored(candidates, unknown)
        try:
            predictions = self._predicted(query, candidates.rows)
        except Exception:
            log.exception("request %s is answered in retrieval order", query.request.request_id)
            predictions = unknown
        if len(candidates) and not np.isfinite(predictions).any():
            degradations.append("the ranker failed: answered in retrieval order")
        return Scored(candidates, predictions)

    def _predicted(self, query: Query, rows: np.ndarray) -> np.ndarray:
        if self.release.ranker is None or not len(rows):  # a compiled network may not accept zero rows
            return np.full((len(rows), len(TARGETS)), np.nan, np.float32)
        return self.release.calibration(self.release.ranker(self._encoder.candidate_inputs(query, rows)[0]))

    def _reranked(self, query: Query, scored: Scored) -> Slate:
        ranked = not len(scored) or np.isfinite(scored.predictions).any()
        reranker = self.release.reranker if ranked else self._unranked
        facts, bits = self.release.catalogue, self.release.region_bits
        return reranker.rerank(scored, query, facts=facts, region_bits=bits, unavailable=self.store.unavailable)

    def _answer(self, query: Query, scored: Scored, slate: Slate, timer: StageTimer, degradations: tuple[str, ...]) -> Answer:
        rows = scored.candidates.rows[slate.picked]
        inputs, counters = self._encoder.candidate_inputs(query, rows)
        age_h = (query.request.as_of_ms - self._upload_ms[rows]) / HOUR_MS
        # The best video has a propensity of at least 1 - epsilon; one with less was drawn at random.
        explored = slate.propensities < 1.0 - self.release.reranker.exploration.epsilon
        explanations = self._explanations.explain(
            counters, scored.candidates.sources[slate.picked], age_h, explored, has_history=len(query.history_rows) > 0
        )
        timer.stop("answer")
        return Answer(
            request=query.request,
            release=self.release.id,
            mode="online",
            as_of_ms=query.request.as_of_ms,
            scored=scored,
            slate=slate,
            ids=[self.release.video_ids.value(row) for row in rows],
            explanations=explanations,
            removed={name: len(positions) for name, positions in slate.removed.items()},
            funnel={"retrieved": len(scored), "ranked": len(scored), "slate": len(rows)},
            degradations=degradations,
            timings_ms=timer.ms,
            name_features=partial(features_by_name, self.release.pipeline, inputs),
        )

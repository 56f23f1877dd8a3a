"""The funnel: a request > a slate. Evaluation replays through this class; the only time it knows is the request's."""

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from watchnext.features.state.seen import SeenSet
from watchnext.reranking.rules.rule import Filter, RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.reranking.slate_policy import SlatePolicy
from watchnext.serving.funnel.answer import STORE_DOWN, Answer, Degradation, Retrieved, StageTimer
from watchnext.serving.funnel.candidates.retrieval_stage import RetrievalStage
from watchnext.serving.funnel.candidates.supply import Supply
from watchnext.serving.funnel.explanation.explanations import Explanations
from watchnext.serving.funnel.explanation.trace import VideoTraces, trace_of
from watchnext.serving.funnel.query import QueryEncoder, features_by_name
from watchnext.serving.funnel.ranking_stage import Hydrated, RankingStage, VideoValues
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.store import Store
from watchnext.types import Candidates, Query, Request, Scored, Slate, among

log = logging.getLogger(__name__)
NO_ROWS = np.zeros(0, np.int64)


class _Passed(NamedTuple):
    """One request, as far as it has passed the funnel."""

    request: Request
    hydrated: Hydrated
    inputs: dict[str, np.ndarray]
    scored: Scored
    slate: Slate
    degradations: list[Degradation]


class Recommender:
    """Recommend videos of one release to the viewers of one store. Safe to call from any thread.

    timer      returns seconds; only for the timings of the stages
    budget_ms  a request that has used up a part of it (`answer.LATEST`) asks no further source, and is not ranked
    """

    def __init__(
        self,
        release: Release,
        store: Store,
        *,
        timer: Callable[[], float] = time.perf_counter,
        budget_ms: float = math.inf,
    ) -> None:
        self.release, self.store, self.catalogue = release, store, store.catalogue
        self._timer, self._budget_ms = timer, budget_ms
        self._encoder = QueryEncoder(release, self.catalogue)
        self.retrieval, self.ranking = RetrievalStage(release, store), RankingStage(release, store)
        self._explanations, self._supply = Explanations(release, store), Supply(release, store)

    def recommend(self, request: Request) -> Answer:
        """Return a slate of `request.k` videos, or of fewer where fewer are allowed. A part that fails degrades the answer.

        Where too little unseen is left, seen videos return as `Supply` says; their sources name "again". Raises ContextError
        for a context that the schema does not declare.
        """
        return self._answers([request], self.retrieval.retrieve_all, self.rerank, refills=True)[0]

    def recommend_all(self, requests: Sequence[Request], shared: VideoValues | None = None) -> list[Answer]:
        """Return the answers of `recommend`, the same bit for bit, in less time: each stage takes all requests before the next
        one does. Timings are an equal share of a stage; that of the state is left out.

        `shared`, of `RankingStage.shared`, serves the requests of its moment. Raises ContextError.
        """
        try:
            hydrated = self._hydrated(requests)
            queries = self.retrieval.embedded([each.query for each in hydrated])
        except StoreError:  # so that one damaged record degrades one answer
            return [self.recommend(request) for request in requests]
        known = [each._replace(query=query, shared=shared) for each, query in zip(hydrated, queries, strict=True)]
        return self._answers(requests, self.retrieval.retrieve_all, self.rerank, refills=True, hydrated=known)

    def prepared(self, request: Request) -> Callable[[], Answer]:
        """Read the viewer's state now; return what computes the answer of `recommend` from it later. Raises ContextError and
        StoreError."""
        known = self._hydrated([request])
        return lambda: self._answers([request], self.retrieval.retrieve_all, self.rerank, refills=True, hydrated=known)[0]

    def retrieved(self, request: Request) -> Retrieved:
        """Return the first `request.k` candidates that `recommend` would rank, without those that a HARD filter removes.

        A part that fails degrades the answer. Raises ContextError.
        """
        timer, [degradations], [(query, *_)], [found] = self._candidates([request], self.retrieval.retrieve_all)
        kept, removed = self._reranker(query).permitted(found.rows, self._context(query))
        timer.stop("retrieval")
        counts = {name: len(positions) for name, positions in removed.items()}
        return Retrieved(found.take(kept[: request.k]), counts, tuple(dict.fromkeys(degradations)), timer.ms)

    def rank_given(self, request: Request, rows: np.ndarray) -> Answer:
        """Return the distinct videos `rows` (n,), retrieved or not, by their value for the viewer, as `recommend` values them.

        Only the filters of `Reranker.ordered` remove a video. A part that fails degrades the answer. Raises ContextError.
        """

        def given(queries: Sequence[Query], degradations: Sequence[list], *, late: Callable[[], bool]) -> list[Candidates]:
            parts = zip(queries, degradations, strict=True)
            return [self.retrieval.given(query, rows, found, late=late) for query, found in parts]

        return self._answers([request], given, self.order)[0]

    def _answers(
        self,
        requests: Sequence[Request],
        retrieve: Callable[..., list[Candidates]],
        rerank: Callable[[Query, Scored], Slate],
        *,
        refills: bool = False,
        hydrated: Sequence[Hydrated] | None = None,
    ) -> list[Answer]:
        """Take requests through the funnel, stage by stage: the code and columns of one stage stay in the processor's cache."""
        timer, degradations, hydrated, found = self._candidates(requests, retrieve, hydrated)
        timer.stop("retrieval")
        late = timer.is_late("ranking")
        inputs, scored = self._ranked(hydrated, found, degradations, late=late)
        settled = self.store.settled
        timer.stop("ranking")
        slates = [rerank(known.query, each) for known, each in zip(hydrated, scored, strict=True)]
        passed = [_Passed(*parts) for parts in zip(requests, hydrated, inputs, scored, slates, degradations, strict=True)]
        shown = [
            self._refilled(each, rerank, late=late) if refills and len(each.slate.picked) < each.request.k else each
            for each in passed
        ]
        timer.stop("reranking")
        reasons = [self._explanations.explain(each.hydrated.query, each.scored, each.slate) for each in shown]
        timer.stop("answer")
        return [
            self._answered(before, each, sentences, timer.ms, settled)
            for before, each, sentences in zip(passed, shown, reasons, strict=True)
        ]

    def _refilled(self, passed: "_Passed", rerank: Callable[[Query, Scored], Slate], *, late: bool) -> "_Passed":
        """Return the same with a slate that holds seen videos where too few others were left."""
        (query, seen, *_), candidates, picked = passed.hydrated, passed.scored.candidates, passed.slate.picked
        again = self._supply.again(query, seen, candidates.rows[picked], passing=partial(self.retrieval.passing, query))
        refilled, candidates = self._supply.refilled(query, seen, candidates, picked, again)
        known = passed.hydrated._replace(query=refilled)
        [inputs], [scored] = self._ranked([known], [candidates], [passed.degradations], late=late)
        return passed._replace(inputs=inputs, scored=scored, slate=rerank(refilled, scored))

    def _answered(
        self,
        passed: "_Passed",
        shown: "_Passed",
        explanations: list[list[str]],
        timings_ms: Mapping[str, float],
        settled: int | None,
    ) -> Answer:
        """Make the answer of what `passed` the funnel; `shown` differs where the slate was refilled."""
        request, query, position = passed.request, passed.hydrated.query, passed.hydrated.position
        picked = {**query.inputs, **{name: values[shown.slate.picked] for name, values in shown.inputs.items()}}
        rows, retrieved = shown.scored.candidates.rows[shown.slate.picked], len(passed.scored)
        return Answer(
            request=request,
            release=self.release.id,
            mode="online" if request.personalised else "not_personalised",
            as_of_ms=request.as_of_ms,
            scored=shown.scored,
            slate=shown.slate,
            ids=self.catalogue.ids.values(rows),
            explanations=explanations,
            removed={name: len(positions) for name, positions in passed.slate.removed.items()},
            funnel={"retrieved": retrieved, "ranked": retrieved, "slate": len(rows)},
            query=query,
            first=None if shown is passed else (passed.scored, passed.slate),
            degradations=tuple(dict.fromkeys(passed.degradations)),
            timings_ms=timings_ms,
            position=position if position == settled and shown is passed else None,  # what returns is no part of the log
            name_features=partial(features_by_name, self.release.pipeline, picked),
        )

    def _candidates(
        self,
        requests: Sequence[Request],
        retrieve: Callable[..., list[Candidates]],
        hydrated: Sequence[Hydrated] | None = None,
    ) -> tuple[StageTimer, list[list[Degradation]], Sequence[Hydrated], list[Candidates]]:
        """Hydrate requests, if they are not yet, and retrieve; the timer's stage of retrieval goes on."""
        budget_ms = min((request.budget_ms for request in requests), default=math.inf)
        timer = StageTimer(self._timer, min(self._budget_ms, budget_ms), len(requests))
        degradations: list[list[Degradation]] = [[] for _ in requests]
        hydrated = hydrated or [self._known(*parts) for parts in zip(requests, degradations, strict=True)]
        timer.stop("state")
        late = partial(timer.is_late, "retrieval")
        return timer, degradations, hydrated, retrieve([each.query for each in hydrated], degradations, late=late)

    def query(self, request: Request) -> Query:
        """Hydrate a request. Raises ContextError and StoreError."""
        return self._hydrated([request])[0].query

    def watched(self, request: Request) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the viewer's last watches (m,) with their ages in s. Raises StoreError."""
        return self._encoder.watched(self.store.viewer(request.user_id), float(request.as_of_ms))

    def similar(self, request: Request, row: int) -> Candidates:
        """Return up to `request.k` videos similar to `row`, for a request that is not personalised."""
        request = replace(request, exclude=(row,))
        return self.retrieval.similar(self.query(request), row, request.k)

    def trending(self, request: Request) -> np.ndarray:
        """Return up to `request.k` rows that trend, best first, for a request that is not personalised."""
        return self.retrieval.trending(self.query(request), request.k)

    def allowed(self, request: Request, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` (n,), best first, that the rules allow everyone in one list, for a request that is not
        personalised."""
        rows = rows[self.retrieval.sources["two_tower"].allowed(self.query(request)).of(rows)]
        return rows[self.may_be_shown(request, rows)]

    def retrieve(self, request: Request, k: int | None = None) -> Candidates:
        """Return the merged candidates of a request, before any rule; `k` as in `RetrievalStage`."""
        return self.retrieval.retrieve(self.query(request), [], k)

    def by_source(self, request: Request, k: int | None = None) -> Mapping[str, np.ndarray]:
        """Return source > rows (n,), best first, before the merge: each source's quota, or `k`."""
        return self.retrieval.by_source(self.query(request), [], k)

    def score(self, request: Request, rows: np.ndarray) -> np.ndarray:
        """Return the ranker's predictions (C, T) for the videos `rows` (C,), retrieved or not."""
        query = self.query(request)
        return self.ranking.predict(query, self.ranking.encode(query, np.asarray(rows, np.int64)))

    def rank(self, query: Query, candidates: Candidates) -> Scored:
        """Return the candidates with their predictions."""
        return self._ranked([Hydrated(query, SeenSet.empty(), None)], [candidates], [[]], late=False)[1][0]

    def _ranked(
        self,
        hydrated: Sequence[Hydrated],
        found: Sequence[Candidates],
        degradations: Sequence[list[Degradation]],
        *,
        late: bool,
    ) -> tuple[list[dict[str, np.ndarray]], list[Scored]]:
        """Return inputs and scores of the candidates of each query."""
        pairs = [*zip(hydrated, found, strict=True)]
        inputs = [self.ranking.encode(known.query, each.rows, known.shared) for known, each in pairs]
        scored = [
            self.ranking.rank(known.query, each, own, parts, late=late)
            for (known, each), own, parts in zip(pairs, inputs, degradations, strict=True)
        ]
        return inputs, scored

    def rerank(self, query: Query, scored: Scored) -> Slate:
        """Return the slate of scored candidates. Raises RerankingError for dials that leave no value."""
        return self._reranker(query).rerank(scored, query.request, self._context(query))

    def policy(self, query: Query, scored: Scored, shown: np.ndarray) -> SlatePolicy:
        """Return the distribution from which `rerank` draws, with the videos `shown` (n,) among its rows."""
        return self._reranker(query).policy(scored, query.request, self._context(query), shown)

    def order(self, query: Query, scored: Scored) -> Slate:
        """Return all candidates that may be shown, best first."""
        return self._reranker(query).ordered(scored, query.request, self._context(query))

    def costs(self, answer: Answer) -> dict[str, float]:
        """Return `Reranker.costs` of an answer; empty for one that was precomputed or refilled."""
        if answer.query is None or answer.first is not None:
            return {}
        query, context = answer.query, self._context(answer.query)
        return self._reranker(query).costs(answer.scored, query.request, context, answer.slate)

    def _reranker(self, query: Query) -> Reranker:
        return self.release.reranker_of(query.request.surface).turned(query.request.dials)

    def _context(self, query: Query) -> RuleContext:
        facts = {"facts": self.catalogue, "region_bits": self.catalogue.region_bits, "unavailable": self.store.unavailable}
        return RuleContext.of(query, **facts)

    def trace(self, answer: Answer, row: int) -> dict:
        """Return the way of the video `row` through the funnel of an answer of this release."""
        return trace_of(answer, self.traces(answer, np.array([row])))

    def traces(self, answer: Answer, rows: np.ndarray) -> VideoTraces:
        """Return the ways of the videos `rows` (R,) through the funnel of an answer of this release. Raises StoreError for one
        that was precomputed."""
        filters = {each.name for each in self.release.reranker_of(answer.request.surface).rules if isinstance(each, Filter)}
        traced = VideoTraces.of(rows, *answer.passed, filters=filters, k=answer.request.k)
        missed = np.flatnonzero(traced.candidates < 0)
        rules = np.array(traced.rules, object)
        if len(missed):  # a stored slate has no query: what keeps a video out of it is what would now
            rules[missed] = self._barred_by(answer.query or self.query(answer.request), rows[missed])
        traced = replace(traced, rules=rules.tolist())
        return traced if answer.first is None else traced.refilled(rows, answer.rows)

    def _barred_by(self, query: Query, rows: np.ndarray) -> list[str | None]:
        """Return the name of what keeps each of `rows` (n,) out of a query's candidates: a part of the request, or a filter."""
        filters = self.release.reranker_of(query.request.surface).first_filters(rows, self._context(query))
        names = np.array(filters, object)  # each line below overrules those above
        names[self.catalogue.upload_ms[rows] > query.as_of_ms] = "upload"
        names[~self.retrieval.in_filter(query, rows)] = "filter"
        names[among(rows, query.excluded)] = "exclude"
        names[among(rows, query.muted)] = "muted"
        return names.tolist()

    def may_be_shown(self, request: Request, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of `rows`, best first, that may be in one slate for every viewer of the same age and region."""
        profile = self._encoder.profile(request)
        return self.retrieval.may_be_shown(profile["region"], profile["age"], rows)

    def bent(self, request: Request, rows: np.ndarray) -> tuple[str, ...]:
        """Return the names of the soft rules that the slate `rows` (K,), best first, does not keep for a request; of its viewer
        the profile alone is read."""
        facts = {"facts": self.catalogue, "region_bits": self.catalogue.region_bits}
        context = RuleContext(seen=NO_ROWS, as_of_ms=request.as_of_ms, **facts, **self._encoder.profile(request))
        return self.release.reranker_of(request.surface).bent(rows, context)

    def broken(self, request: Request, rows: np.ndarray, *, one_slate: bool = True) -> list[str]:
        """Return `Reranker.broken` of the videos `rows` (n,) for a request. Raises ContextError and StoreError."""
        query = self.query(request)
        return self._reranker(query).broken(rows, self._context(query), one_slate=one_slate)

    def refresh(self, as_of_ms: float) -> None:
        """Rank the whole catalogue for the sources that do so now and then, before requests would."""
        self.retrieval.refresh(as_of_ms)

    def warm(self) -> Answer:
        """Compile and load everything that the first request or event would otherwise wait for; return the answer."""
        self.store.warm()
        patient = copy.copy(self)
        patient._budget_ms = math.inf  # a first request compiles, and a busy machine is no fault of the release
        for region in self.release.region_bits:  # a region's first search packs its filter
            patient.recommend(Request("warm", 0, 20, self.release.as_of_ms, region=region))
        return patient.recommend(Request("warm", 0, 20, self.release.as_of_ms))

    def _known(self, request: Request, degradations: list[Degradation]) -> Hydrated:
        try:
            return self._hydrated([request])[0]
        except StoreError:
            log.exception("request %s is answered as for a new viewer", request.request_id)
            degradations.append(STORE_DOWN)
            return Hydrated(self._encoder.hydrate([request], *self._nothing())[0], SeenSet.empty(), None)

    def _hydrated(self, requests: Sequence[Request]) -> list[Hydrated]:
        position = self.store.settled
        records, seen = self._read(requests)
        queries = self._encoder.hydrate(requests, records, seen)
        return [Hydrated(query, each, position) for query, each in zip(queries, seen, strict=True)]

    def _read(self, requests: Sequence[Request]) -> tuple[np.ndarray, list[SeenSet]]:
        """Return records (N, layout.viewer) and what was seen; nothing is read for a request that is not personalised."""
        if all(request.personalised for request in requests):
            return self.store.viewers([request.user_id for request in requests])
        parts = [self._read([each]) if each.personalised else self._nothing() for each in requests]
        return np.concatenate([records for records, _ in parts]), [seen for _, (seen,) in parts]

    def _nothing(self) -> tuple[np.ndarray, list[SeenSet]]:
        return np.zeros((1, self.release.layout.viewer)), [SeenSet.empty()]

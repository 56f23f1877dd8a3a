"""Trace held-out requests through the funnel: the videos of each stage, and where watched videos were lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext import metrics
from watchnext.evaluation.replay.baselines import Baselines
from watchnext.features.state.fold import HOUR_MS
from watchnext.reranking.rules import Filter
from watchnext.serving.funnel.explanation.trace import LOST_AT, lost_at
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import Query, Request


@dataclass(frozen=True, kw_only=True)
class FunnelTrace:
    """The trace of one request, in video rows.

    watches    watches (of more than 0 ms) of the viewer that were known at the request
    watched    (R,) distinct videos watched (more than 0 ms) from the request to the end of its day, uploaded before it
    long_view  (R,) bool, those watched long
    age_h      (R,) hours since upload at the request, nan unknown
    lost_at    (R,) index into LOST_AT
    merged     rows best first, of all sources at more than their quotas
    stages, sources, baselines  name > rows best first
    """

    user_id: int | str
    watches: int
    watched: np.ndarray
    long_view: np.ndarray
    age_h: np.ndarray
    lost_at: np.ndarray
    merged: np.ndarray
    stages: Mapping[str, np.ndarray]
    sources: Mapping[str, np.ndarray]
    baselines: Mapping[str, np.ndarray]

    @property
    def relevant(self) -> np.ndarray:
        return self.watched[self.long_view]


class FunnelTracer:
    """Trace requests through a recommender, with `depth` videos of each source and baseline."""

    def __init__(self, recommender: Recommender, *, depth: int) -> None:
        self._recommender, self._release, self._depth = recommender, recommender.release, depth
        self._baselines = Baselines(self._release, recommender.store, depth=depth)

    def trace(self, request: Request, rows: np.ndarray, long_view: np.ndarray) -> FunnelTrace:
        """Trace a request after which its viewer watches `rows` (N,), perhaps repeated, -1 unknown; `long_view` (N,) bool."""
        watched, long_view = distinct_watches(rows, long_view, self._release.catalogue.upload_ms, request.as_of_ms)
        query, retrieval = self._recommender.query(request), self._recommender.retrieval
        sources = retrieval.by_source(query, [], self._depth)
        stages, ends = self._stages(query, watched)
        return FunnelTrace(
            user_id=request.user_id,
            watches=int(query.state[self._release.layout.at_history]),
            watched=watched,
            long_view=long_view,
            age_h=(request.as_of_ms - self._release.catalogue.upload_ms[watched]) / HOUR_MS,
            lost_at=ends,
            merged=retrieval.merged(query, sources, self._depth).rows,
            stages=stages,
            sources=sources,
            baselines=self._baselines.rank(request),
        )

    def _stages(self, query: Query, watched: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        candidates = self._recommender.retrieval.retrieve(query, [])
        scored = self._recommender.rank(query, candidates)
        slate = self._recommender.rerank(query, scored)
        rows = candidates.rows
        stages = {"retrieval": rows, "ranking": rows[slate.order], "slate": rows[slate.picked]}
        rules = self._release.reranker_of(query.request.surface).rules
        filters = {each.name for each in rules if isinstance(each, Filter)}
        return stages, lost_at(watched, scored, slate, filters, query.request.k)


def distinct_watches(
    rows: np.ndarray, long_view: np.ndarray, upload_ms: np.ndarray, as_of_ms: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct videos (R,) among `rows` (N,), -1 unknown, that were uploaded by `as_of_ms`, and which were viewed
    long (R,); `long_view` (N,) bool is of every watch."""
    existing = (rows >= 0) & ~(upload_ms[rows] > as_of_ms)
    watched, which = np.unique(rows[existing], return_inverse=True)
    return watched, np.bincount(which, long_view[existing], minlength=len(watched)) > 0


def loss_shares(traces: Sequence[FunnelTrace]) -> dict[str, float]:
    """Return the share of long views lost at each stage; nan without long views."""
    ends = np.concatenate([np.zeros(0, np.int64), *(trace.lost_at[trace.long_view] for trace in traces)])
    return {name: float(np.mean(ends == end)) if len(ends) else float("nan") for end, name in enumerate(LOST_AT)}


def funnel_metrics(traces: Sequence[FunnelTrace], k: Sequence[int], catalogue: int) -> dict[str, dict[str, float]]:
    """Compute the recall@K of that day's long views, and the share of the catalogue shown, by stage and baseline."""
    by_stage = {}
    relevant = [trace.relevant for trace in traces]
    for stage in traces[0].stages | traces[0].baselines if traces else ():
        ranked = [(trace.stages | trace.baselines)[stage] for trace in traces]
        longest = max(len(rows) for rows in ranked)
        entry = {f"recall@{n}": metrics.recall_at(ranked, relevant, n) for n in k if n <= longest}
        by_stage[stage] = entry | {"candidates": float(np.mean([len(rows) for rows in ranked])),
                                "coverage": metrics.coverage(np.concatenate(ranked), catalogue)}  # fmt: skip
    return by_stage

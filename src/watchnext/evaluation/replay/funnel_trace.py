"""Trace held-out requests through the funnel: the videos of each stage, and where watched videos were lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from watchnext import metrics
from watchnext.evaluation.replay.baselines import Baselines
from watchnext.evaluation.replay.rule_check import Broken, RuleCheck
from watchnext.features.state.fold import HOUR_MS
from watchnext.retrieval.sources.merge import ranks_in
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.explanation.trace import LOST_AT, VideoTraces
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import SOURCES, Candidates, Request


@dataclass(frozen=True, kw_only=True)
class FunnelTrace:
    """The trace of one request, in video rows.

    watches    watches (of more than 0 ms) of the viewer that were known at the request
    watched    (R,) distinct videos watched (more than 0 ms) from the request to the end of its day, uploaded before it
    long_view  (R,) bool, those watched long
    age_h      (R,) hours since upload at the request, nan unknown
    ways       the way of each of the R videos through the served funnel
    listed     (R, SOURCES) rank in the list of each source, as deep as asked, from 1; 0 is not listed
    proposed   (R, SOURCES) bool, those within the quota of the source
    merged     rows best first, of all sources at more than their quotas
    rules      rule > number of slots of the slate that break it, and that bend it
    costs      as in `Recommender.costs`
    spent_ms   by the answer, as the recommender's timer counts
    stages, sources, baselines  name > rows best first
    """

    user_id: int | str
    as_of_ms: int
    surface: str | None
    watches: int
    watched: np.ndarray
    long_view: np.ndarray
    age_h: np.ndarray
    ways: VideoTraces
    listed: np.ndarray
    proposed: np.ndarray
    merged: np.ndarray
    rules: Broken
    stages: Mapping[str, np.ndarray]
    sources: Mapping[str, np.ndarray]
    baselines: Mapping[str, np.ndarray]
    costs: Mapping[str, float] = field(default_factory=dict)
    spent_ms: float = 0.0

    @property
    def relevant(self) -> np.ndarray:
        return self.watched[self.long_view]


class FunnelTracer:
    """Trace requests through a recommender, with `depth` videos of each source and baseline."""

    def __init__(self, recommender: Recommender, *, depth: int) -> None:
        self._recommender, self._release, self._depth = recommender, recommender.release, depth
        self._baselines = Baselines(self._release, recommender.store, depth=depth)
        self._check = RuleCheck(recommender)
        self._upload_ms = np.array(self._release.catalogue.upload_ms)

    def trace(self, request: Request, rows: np.ndarray, long_view: np.ndarray, given: np.ndarray | None = None) -> FunnelTrace:
        """Trace a request after which its viewer watches `rows` (N,), perhaps repeated, -1 unknown; `long_view` (N,) bool.

        `given` (n,) are videos of another recommender, which become the stage `given`, and `reordered` as this one ranks them.
        None: the request is not compared with another recommender's.
        """
        watched, long_view = distinct_watches(rows, long_view, self._upload_ms, request.as_of_ms)
        answer = self._recommender.recommend(request)
        query, retrieval, (scored, slate) = answer.query, self._recommender.retrieval, answer.passed
        candidates = scored.candidates
        sources = retrieval.by_source(query, [], self._depth)
        ways, listed = self._recommender.traces(answer, watched), _ranks_of(watched, sources)
        return FunnelTrace(
            user_id=request.user_id,
            as_of_ms=request.as_of_ms,
            surface=request.surface,
            watches=int(query.state[self._release.layout.at_history]),
            watched=watched,
            long_view=long_view,
            age_h=(request.as_of_ms - self._upload_ms[watched]) / HOUR_MS,
            ways=ways,
            listed=listed,
            proposed=_within_quotas(listed, ways.candidates, candidates, self._release.retrieval_of(request.surface)["quotas"]),
            merged=retrieval.merged(query, sources, self._depth).rows,
            rules=self._check.count(answer),
            stages={
                "retrieval": candidates.rows,
                "ranking": candidates.rows[slate.order],
                "slate": answer.rows,
                **self._compared(answer, given),
            },
            sources=sources,
            baselines=self._baselines.rank(request),
            costs=self._recommender.costs(answer),
            spent_ms=sum(answer.timings_ms.values()),
        )

    def _compared(self, answer: Answer, given: np.ndarray | None) -> dict[str, np.ndarray]:
        """Return the slate with exploration drawn anew, and the videos `given`, as they came and as ranked here."""
        if given is None:
            return {}
        query, request = answer.query, replace(answer.request, request_id=f"{answer.request.request_id}, drawn anew")
        scored = answer.passed[0]
        slate = self._recommender.rerank(replace(query, request=request), scored)
        known = given[given >= 0]
        ranked = self._recommender.rank_given(answer.request, known).rows if len(known) else known
        reordered = np.concatenate([ranked, known[~np.isin(known, ranked)]])  # those that a filter removed come last
        return {"redrawn": scored.candidates.rows[slate.picked], "given": given, "reordered": reordered}


def _ranks_of(rows: np.ndarray, lists: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rank (R, SOURCES) of the videos `rows` (R,) in each list, from 1; 0 where it is not listed."""
    listed, ranks = ranks_in(lists)
    at = np.searchsorted(listed, rows)
    known = np.isin(rows, listed)
    result = np.zeros((len(rows), ranks.shape[1]), np.int64)
    result[known] = ranks[at[known]]
    return result


def _within_quotas(listed: np.ndarray, at: np.ndarray, candidates: Candidates, quotas: Mapping[str, int]) -> np.ndarray:
    """Mark the sources (R, SOURCES) that proposed each video: of a candidate those that it names, of another one those that
    list it within their quota."""
    limits = np.array([quotas.get(name, 0) for name in SOURCES])
    within = (listed > 0) & (listed <= limits)
    bits = np.arange(len(SOURCES))
    within[at >= 0] = (candidates.sources[at[at >= 0], None] >> bits & 1).astype(bool)
    return within


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
    ends = np.concatenate([np.zeros(0, np.int64), *(trace.ways.ends[trace.long_view] for trace in traces)])
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

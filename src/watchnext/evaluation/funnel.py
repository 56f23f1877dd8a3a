"""One held-out request through the whole funnel: what each part names, and where what was watched got lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from watchnext import metrics
from watchnext.evaluation.baselines import Floors
from watchnext.features.state.fold import HOUR_MS
from watchnext.reranking.rules import Filter
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import Request, Scored, Slate

# Where a video that is watched later ends: not named, taken out by a filter, valued too low, kept out of the slate by a cap,
# diversity or exploration though valued high enough, or shown.
FATES = ("retrieval", "filters", "ranking", "re-ranking", "shown")


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """What one followed request led to, in video rows.

    watches    watches (of more than 0 ms) known of the viewer at the request
    watched    (R,) distinct videos watched (more than 0 ms) from the request to the end of its day; they existed at the request
    long_view  (R,) bool, those watched long
    age_h      (R,) hours since upload at the request, nan unknown
    fates      (R,) index into FATES
    merged     rows best first, of all sources asked for more than their quotas
    stages, sources, floors  name > rows best first
    """

    user_id: int | str
    watches: int
    watched: np.ndarray
    long_view: np.ndarray
    age_h: np.ndarray
    fates: np.ndarray
    merged: np.ndarray
    stages: Mapping[str, np.ndarray]
    sources: Mapping[str, np.ndarray]
    floors: Mapping[str, np.ndarray]

    @property
    def relevant(self) -> np.ndarray:
        return self.watched[self.long_view]


class Follower:
    """Follows requests through a recommender; sources and floors are asked for `depth` videos each."""

    def __init__(self, recommender: Recommender, *, depth: int) -> None:
        self._recommender, self._release, self._depth = recommender, recommender.release, depth
        self._floors = Floors(self._release, recommender.store, depth=depth)
        self._filters = {each.name for each in self._release.reranker.rules if isinstance(each, Filter)}

    def follow(self, request: Request, rows: np.ndarray, long_view: np.ndarray) -> Funnel:
        """`rows` (N,) is what the viewer watches from the request on, a video perhaps several times, -1 unknown; `long_view`
        (N,) bool."""
        age_h = (request.as_of_ms - self._release.catalogue.upload_ms[rows]) / HOUR_MS
        existing = (rows >= 0) & ~(age_h < 0)
        watched, first, of = np.unique(rows[existing], return_index=True, return_inverse=True)
        record = self._recommender.store.viewer(request.user_id)
        stages, fates = self._stages(request, watched)
        return Funnel(
            user_id=request.user_id,
            watches=int(record[self._release.layout.at_history]),
            watched=watched,
            long_view=np.bincount(of, long_view[existing], minlength=len(watched)) > 0,
            age_h=age_h[existing][first],
            fates=fates,
            merged=self._recommender.retrieve(request, self._depth).rows[: self._depth],
            stages=stages,
            sources=self._recommender.found(request, self._depth),
            floors=self._floors.of(request),
        )

    def _stages(self, request: Request, watched: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        candidates = self._recommender.retrieve(request)
        scored = self._recommender.rank(request, candidates)
        order = np.argsort(-self._release.reranker.value.of(scored.predictions), kind="stable")
        slate = self._recommender.rerank(request, scored)
        stages = {"retrieval": candidates.rows, "ranking": candidates.rows[order], "slate": candidates.rows[slate.picked]}
        return stages, fates(watched, scored, order, slate, self._filters, request.k)


def fates(watched: np.ndarray, scored: Scored, order: np.ndarray, slate: Slate, filters: set[str], k: int) -> np.ndarray:
    """(R,) index into FATES of each of `watched` (R,). `order` is the candidates' positions, best valued first; `filters` are
    the names of the rules that are never relaxed."""
    filtered = np.zeros(len(scored), bool)
    for name, positions in slate.removed.items():
        filtered[positions] |= name in filters
    of_candidate = np.full(len(scored), FATES.index("ranking"))
    of_candidate[order[~filtered[order]][:k]] = FATES.index("re-ranking")
    of_candidate[filtered] = FATES.index("filters")
    of_candidate[slate.picked] = FATES.index("shown")
    by_row = dict(zip(scored.candidates.rows.tolist(), of_candidate.tolist(), strict=True))
    return np.array([by_row.get(row, FATES.index("retrieval")) for row in watched.tolist()], np.int64)


def lost(funnels: Sequence[Funnel]) -> dict[str, float]:
    """Share of all that was watched long, by where it ended; nan over nothing."""
    ends = np.concatenate([np.zeros(0, np.int64), *(funnel.fates[funnel.long_view] for funnel in funnels)])
    return {name: float(np.mean(ends == end)) if len(ends) else float("nan") for end, name in enumerate(FATES)}


def funnel_metrics(funnels: Sequence[Funnel], k: Sequence[int], catalogue: int) -> dict[str, dict[str, float]]:
    """Recall@K of what is watched long that day, after every stage and for the floors; coverage is the share of the catalogue
    shown."""
    found = {}
    relevant = [funnel.relevant for funnel in funnels]
    for stage in funnels[0].stages | funnels[0].floors if funnels else ():
        ranked = [(funnel.stages | funnel.floors)[stage] for funnel in funnels]
        longest = max(len(rows) for rows in ranked)
        entry = {f"recall@{n}": metrics.recall_at(ranked, relevant, n) for n in k if n <= longest}
        found[stage] = entry | {"candidates": float(np.mean([len(rows) for rows in ranked])),
                                "coverage": metrics.coverage(np.concatenate(ranked), catalogue)}  # fmt: skip
    return found

"""Slates computed ahead: every viewer's into the store, and back out while they still hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from tqdm import tqdm

from watchnext.features.state import history
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.environment import parts
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, Candidates, Request, Scored, Slate

TOGETHER = 500  # slates a transaction
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Report:
    """users asked for, slates kept (an empty one is not), how many of them degraded or shorter than k."""

    users: int
    slates: int
    degraded: int
    short: int


def precompute(recommender: Recommender, user_ids: Sequence[int | str], *, k: int, as_of_ms: int, store: Store) -> Report:
    """Every user's slate as of one moment, into the store, where they replace older ones. Nothing is counted as shown."""
    kept = degraded = short = 0
    with tqdm(total=len(user_ids), desc="recommendations", unit=" users") as progress:
        for users in parts(user_ids, TOGETHER):
            requests = (Request(f"batch-{recommender.release.id}-{as_of_ms}-{user}", user, k, as_of_ms) for user in users)
            answers = [recommender.recommend(request) for request in requests]
            full = [answer for answer in answers if answer.ids]
            store.put_slates([(answer.request.user_id, _packed(answer)) for answer in full])
            kept += len(full)
            degraded += sum(answer.degraded for answer in full)
            short += sum(len(answer.ids) < k for answer in full)
            progress.update(len(users))
    return Report(users=len(user_ids), slates=kept, degraded=degraded, short=short)


def precomputed(recommender: Recommender, request: Request, *, max_age_ms: int = DAY_MS) -> Answer | None:
    """The viewer's precomputed slate for this request, or None where the recommender must be asked.

    That is: none is kept, it is another release's, degraded, too old, from later than the request, the request brings a region
    or a context, or too few are left once videos watched or withdrawn since are taken out.
    """
    packed = recommender.store.slate(request.user_id)
    if packed is None or request.region or request.context:
        return None
    kept = orjson.loads(packed)
    age_ms = request.as_of_ms - kept["as_of_ms"]
    if kept["release"] != recommender.release.id or not 0 <= age_ms <= max_age_ms or kept["degraded"]:
        return None
    left = _still_good(recommender, request, kept)[: request.k]
    return _answer(recommender, request, kept, left) if len(left) == request.k else None


def _still_good(recommender: Recommender, request: Request, kept: Mapping) -> np.ndarray:
    """Places of the rows neither withdrawn nor watched since; what was to be watched on had been seen before."""
    layout, store = recommender.release.layout, recommender.store
    rows, record = np.array(kept["rows"], np.int64), store.viewer(request.user_id)
    watched = np.isin(rows, history.seen(record, layout.at_seen, layout.seen))
    lately, since_s = np.empty(layout.history, np.int32), (request.as_of_ms - kept["as_of_ms"]) / 1000.0
    values = np.empty((layout.history, 3))
    history.read(record, layout.at_history, layout.history, float(request.as_of_ms), lately, values)
    midway = np.array(kept["sources"], np.int64) >> SOURCES.index("continue") & 1
    before = (midway > 0) & ~np.isin(rows, lately[values[:, 0] <= since_s])
    return np.flatnonzero(~((watched & ~before) | store.unavailable[rows]))


def _packed(answer: Answer) -> bytes:
    """What `_answer` needs, as JSON; the features are not kept, as they were not logged when computed."""
    candidates = answer.scored.candidates
    picked = answer.slate.picked
    arrays = {
        "rows": candidates.rows[picked],
        "sources": candidates.sources[picked],
        "scores": candidates.scores[picked],
        "predictions": np.ascontiguousarray(answer.predictions),
        "values": answer.slate.values,
        "propensities": answer.slate.propensities,
    }
    said = {"release": answer.release, "as_of_ms": answer.as_of_ms, "degraded": answer.degraded, "reasons": answer.reasons}
    return orjson.dumps(
        {**said, "removed": answer.removed, "funnel": answer.funnel, **arrays}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def _answer(recommender: Recommender, request: Request, kept: dict, left: np.ndarray) -> Answer:
    """The slate's places `left` as an answer. A propensity is the one of when it was drawn."""
    candidates = Candidates(
        np.array(kept["rows"], np.int64)[left],
        np.array(kept["sources"], np.uint16)[left],
        np.array(kept["scores"], np.float32)[left],
    )
    values, propensities = np.array(kept["values"])[left], np.array(kept["propensities"])[left]
    return Answer(
        request=request,
        release=kept["release"],
        mode="precomputed",
        as_of_ms=kept["as_of_ms"],
        scored=Scored(candidates, np.array(kept["predictions"], np.float32)[left]),
        slate=Slate(np.arange(len(left)), values, propensities),
        ids=[recommender.release.video_ids.value(row) for row in candidates.rows],
        reasons=[kept["reasons"][place] for place in left],
        removed=kept["removed"],
        funnel={**kept["funnel"], "slate": len(left)},
    )

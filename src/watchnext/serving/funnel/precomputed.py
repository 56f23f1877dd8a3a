"""Precompute every viewer's slate into the store, and read it back while it is valid."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import orjson
from tqdm import tqdm

from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.engines.engine import batched
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, Candidates, Dials, Request, Scored, Slate

SLATES_A_TRANSACTION = 500
DAY_MS = 86_400_000


@dataclass(frozen=True)
class PrecomputeReport:
    """Number of users, slates stored (an empty one is not), and how many of these are degraded or shorter than k."""

    users: int
    slates: int
    degraded: int
    short: int


def precompute(
    recommender: Recommender, user_ids: Sequence[int | str], *, k: int, as_of_ms: int, store: Store
) -> PrecomputeReport:
    """Compute every user's slate as of one moment and replace those in the store. No impression is recorded."""
    stored = degraded = short = 0
    with ThreadPoolExecutor() as pool, tqdm(total=len(user_ids), desc="recommendations", unit=" users") as progress:
        for users in batched(user_ids, SLATES_A_TRANSACTION):
            requests = (Request(f"batch-{recommender.release.id}-{as_of_ms}-{user}", user, k, as_of_ms) for user in users)
            full = [answer for answer in pool.map(recommender.recommend, requests) if answer.ids]
            store.put_slates([(answer.request.user_id, _packed(answer)) for answer in full])
            stored += len(full)
            degraded += sum(answer.degraded for answer in full)
            short += sum(len(answer.ids) < k for answer in full)
            progress.update(len(users))
    return PrecomputeReport(users=len(user_ids), slates=stored, degraded=degraded, short=short)


def precomputed(recommender: Recommender, request: Request, *, max_age_ms: int = DAY_MS) -> Answer | None:
    """Return the viewer's precomputed slate for this request, or None where the recommender must compute one.

    None is returned if there is no slate, if it is degraded, too old, from another release or from after the request, if the
    request has a region, a context or dials, or if fewer than k are left without those excluded, watched or withdrawn since.
    """
    packed = recommender.store.slate(request.user_id)
    if packed is None or request.region or request.context or request.dials != Dials():
        return None
    kept = orjson.loads(packed)
    age_ms = request.as_of_ms - kept["as_of_ms"]
    if kept["release"] != recommender.release.id or not 0 <= age_ms <= max_age_ms or kept["degraded"]:
        return None
    valid = _valid(recommender, request, kept)[: request.k]
    return _answer(recommender, request, kept, valid) if len(valid) == request.k else None


def _valid(recommender: Recommender, request: Request, kept: Mapping) -> np.ndarray:
    """Return the positions of rows neither excluded, withdrawn nor watched since. A video to continue had been seen before."""
    rows, query = np.array(kept["rows"], np.int64), recommender.query(request)
    since = query.history_rows[query.ago_s <= (request.as_of_ms - kept["as_of_ms"]) / 1000.0]
    midway = np.array(kept["sources"], np.int64) >> SOURCES.index("continue") & 1
    before = (midway > 0) & ~np.isin(rows, since)
    out = np.isin(rows, query.excluded) | recommender.store.unavailable[rows]
    return np.flatnonzero(~((np.isin(rows, query.seen) & ~before) | out))


def _packed(answer: Answer) -> bytes:
    """Pack the arrays that `_answer` needs as JSON; features are left out, as a precomputed slate is logged without them."""
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
    facts = {
        "release": answer.release,
        "as_of_ms": answer.as_of_ms,
        "degraded": answer.degraded,
        "reasons": answer.explanations,
    }
    return orjson.dumps(
        {**facts, "removed": answer.removed, "funnel": answer.funnel, **arrays}, option=orjson.OPT_SERIALIZE_NUMPY
    )


def _answer(recommender: Recommender, request: Request, kept: dict, valid: np.ndarray) -> Answer:
    """Make an answer of the slate's positions `valid`. Propensities stay those of the original draw."""
    candidates = Candidates(
        np.array(kept["rows"], np.int64)[valid],
        np.array(kept["sources"], np.uint16)[valid],
        np.array(kept["scores"], np.float32)[valid],
    )
    values, propensities = np.array(kept["values"])[valid], np.array(kept["propensities"])[valid]
    return Answer(
        request=request,
        release=kept["release"],
        mode="precomputed",
        as_of_ms=kept["as_of_ms"],
        scored=Scored(candidates, np.array(kept["predictions"], np.float32)[valid]),
        slate=Slate(np.arange(len(valid)), values, propensities, order=np.arange(len(valid))),
        ids=[recommender.release.video_ids.value(row) for row in candidates.rows],
        explanations=[kept["reasons"][position] for position in valid],
        removed=kept["removed"],
        funnel={**kept["funnel"], "slate": len(valid)},
    )

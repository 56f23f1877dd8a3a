"""Pack a slate that was computed ahead of time, and read it back while it is valid."""

from operator import attrgetter

import numpy as np
import orjson

from watchnext.features.state.seen import SeenSet
from watchnext.reranking.rules.copies import DuplicateFilter, copied
from watchnext.reranking.rules.rule import RuleContext
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.explanation.explanations import NEW, are_new, without_new
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import SOURCES, TARGETS, Candidates, Request, Scored, Slate, among

DAY_MS = 86_400_000
VIDEO = np.dtype(
    [
        ("row", np.int64),
        ("sources", np.uint16),
        ("score", np.float32),
        ("predictions", np.float32, len(TARGETS)),
        ("value", np.float64),
        ("propensity", np.float64),
    ]
)
PLAIN = Request("", "", 0, 0)
UNKNOWN_AHEAD = ("region", "context", "dials", "filter", "seed")  # fields of a request that no stored slate was made for
_ahead = attrgetter(*UNKNOWN_AHEAD)
CONTINUE = 1 << SOURCES.index("continue")


def precomputed(recommender: Recommender, request: Request, *, max_age_ms: int = DAY_MS) -> Answer | None:
    """Return the viewer's precomputed slate for this request, or None where the recommender must compute one.

    None is returned if there is no slate, if it is degraded, too old, from another release or from after the request, if the
    request has one of UNKNOWN_AHEAD or a surface with settings of its own, or if fewer than k are left without those excluded,
    muted, seen or withdrawn since, copies, and those that are not uploaded yet.
    """
    kept_as, seen = recommender.store.stored(request.user_id)
    if kept_as is None or _ahead(request) != _ahead(PLAIN):
        return None
    if request.surface in recommender.release.surfaces.overrides:  # a stored slate has the release's own settings
        return None
    if kept_as.startswith(b"{"):  # stored by an older version
        return None
    kept, videos = _unpacked(kept_as)
    age_ms = request.as_of_ms - kept["as_of_ms"]
    if kept["release"] != recommender.release.id or not 0 <= age_ms <= max_age_ms or kept["degraded"]:
        return None
    changed = bool(recommender.catalogue.changes.changed[videos["row"]].any())
    valid = _valid(recommender, request, videos, seen, age_ms, changed=changed)[: request.k]
    return _answer(recommender, request, kept, videos, valid, changed=changed) if len(valid) == request.k else None


def _valid(
    recommender: Recommender, request: Request, videos: np.ndarray, seen: SeenSet, age_ms: int, *, changed: bool
) -> np.ndarray:
    """Return the positions of videos neither excluded, muted, withdrawn, forbidden, to come, seen nor copies. One to continue
    had been seen before."""
    rows = videos["row"]
    out, unavailable = seen.holds(rows), recommender.store.unavailable[rows]
    midway = np.flatnonzero(out & (videos["sources"] & CONTINUE > 0))
    if len(midway):
        watched, ago_s = recommender.watched(request)
        out[midway] = np.isin(rows[midway], watched[ago_s <= age_ms / 1000.0])
    out |= unavailable
    if request.exclude:
        out |= np.isin(rows, request.exclude)
    if request.muted:
        out |= among(rows, recommender.catalogue.of_creators(request.muted))
    if changed:
        out[~out] = ~recommender.may_be_shown(request, rows[~out])
        out |= recommender.catalogue.upload_ms[rows] > request.as_of_ms
    left = np.flatnonzero(~out)
    return left[~_copies(recommender, rows[left], seen, changed=changed)]


def _copies(recommender: Recommender, rows: np.ndarray, seen: SeenSet, *, changed: bool) -> np.ndarray:
    """Mark which of `rows` (n,), best first, the rule removes as copies of one before or of a seen video: (n,) bool.

    The slate had no copies, so most have none: the rule is asked where videos `changed`, or one is a copy of a seen one.
    """
    catalogue, rules = recommender.catalogue, recommender.release.reranker.rules
    rule = next((each for each in rules if isinstance(each, DuplicateFilter)), None)
    prints = catalogue.fingerprints[rows]
    if rule is None or not prints.any():
        return np.zeros(len(rows), bool)
    seen_rows = seen.rows
    if not changed and not copied(catalogue.fingerprints, seen_rows, prints).any():
        return np.zeros(len(rows), bool)
    facts = {"facts": catalogue, "region_bits": catalogue.region_bits}
    return rule.removes(rows, RuleContext(seen=seen_rows, region=None, continued=rows[seen.holds(rows)], **facts))


def packed(answer: Answer) -> bytes:
    """Pack what `_answer` needs: the length of the facts, the facts as JSON, the videos as an array; features are left out, as
    a precomputed slate is logged without them."""
    candidates, picked = answer.scored.candidates, answer.slate.picked
    videos = np.empty(len(picked), VIDEO)
    videos["row"], videos["sources"] = candidates.rows[picked], candidates.sources[picked]
    videos["score"], videos["predictions"] = candidates.scores[picked], answer.predictions
    videos["value"], videos["propensity"] = answer.slate.values, answer.slate.propensities
    facts = orjson.dumps(
        {
            "release": answer.release,
            "as_of_ms": answer.as_of_ms,
            "degraded": answer.degraded,
            "removed": answer.removed,
            "bent": answer.slate.bent,
            "funnel": answer.funnel,
            "reasons": answer.explanations,
        }
    )
    return len(facts).to_bytes(4, "big") + facts + videos.tobytes()


def _unpacked(packed: bytes) -> tuple[dict, np.ndarray]:
    """Return the facts and the videos (n,) that `packed` took."""
    behind = 4 + int.from_bytes(packed[:4], "big")
    return orjson.loads(packed[4:behind]), np.frombuffer(packed, VIDEO, offset=behind)


def _answer(
    recommender: Recommender, request: Request, facts: dict, videos: np.ndarray, valid: np.ndarray, *, changed: bool
) -> Answer:
    """Make an answer of the slate's positions `valid`. Propensities stay those of the original draw.

    A part of a slate keeps most soft rules that the slate kept, unless its videos `changed`.
    """
    chosen, ids, reasons = videos[valid], recommender.catalogue.ids, facts["reasons"]
    positions, new = np.arange(len(valid)), are_new(request.as_of_ms, recommender.catalogue.upload_ms[chosen["row"]])
    kept = not facts.get("bent") and recommender.release.reranker.parts_keep_rules and not changed
    return Answer(
        request=request,
        release=facts["release"],
        mode="precomputed",
        as_of_ms=facts["as_of_ms"],
        scored=Scored(Candidates(chosen["row"], chosen["sources"], chosen["score"]), chosen["predictions"]),
        slate=Slate(
            positions,
            chosen["value"],
            chosen["propensity"],
            order=positions,
            bent=() if kept else recommender.bent(request, chosen["row"]),
        ),
        ids=ids.values(chosen["row"]),
        explanations=[
            reasons[at] if is_new or NEW not in reasons[at] else without_new(reasons[at], sources)
            for at, is_new, sources in zip(valid.tolist(), new.tolist(), chosen["sources"].tolist(), strict=True)
        ],
        removed=facts["removed"],
        funnel={**facts["funnel"], "slate": len(valid)},
    )

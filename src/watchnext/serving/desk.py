"""Between the API's words and the house's: a body > a slate, outcome events > the store, a viewer > what they watched."""

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable

import numpy as np

from watchnext.features import history
from watchnext.serving.contract import EventsRequest, RecommendRequest
from watchnext.serving.events import Event
from watchnext.serving.instruments import Instruments
from watchnext.serving.store import ACCEPTED, DUPLICATE, UNKNOWN, StoreError
from watchnext.serving.work import TooSlowError
from watchnext.types import SOURCES, TARGETS, Request

log = logging.getLogger(__name__)
INT64 = range(-(2**63), 2**63)
HOUR_MS = 3_600_000


class Desk:
    """`clock()` gives ms, each call later than the one before. Safe to call from any thread."""

    def __init__(self, *, recommender, store, served, clock: Callable[[], int], instruments: Instruments) -> None:
        self._recommender, self._store, self._served, self._clock, self._instruments = (
            recommender,
            store,
            served,
            clock,
            instruments,
        )
        self._release = recommender.release
        self.release_id: str = recommender.release.id

    # ---- slates ------------------------------------------------------------------------------------------------------

    def recommend(self, body: RecommendRequest, *, request_id: str, until: float) -> dict:
        """A RecommendResponse, its videos counted as shown. Raises TooSlowError after `until` (monotonic s): nobody waits then."""
        request = Request(request_id, body.user_id, body.k, self._clock(), body.surface, body.region, body.context)
        answer = self._recommender.recommend(request)
        if time.monotonic() > until:
            raise TooSlowError("the slate took longer than its asker waits")
        why = list(answer.why)
        if not self._count_shown(request, answer.ids):
            why.append("the store did not take what was shown")
        self._served.append(answer)
        slate = self._slate(answer, why)
        self._instruments.slate(
            videos=len(answer.ids), removed=slate["removed"], degraded=bool(why), timings_ms=answer.timings_ms
        )
        return slate

    def _count_shown(self, request: Request, ids: list) -> bool:
        """A slate is worth more than its count: where the store fails, the viewer gets it all the same."""
        shown = [Event(kind="shown", user_id=request.user_id, video_id=each, known_at=request.as_of_ms, request_id=request.request_id) for each in ids]  # fmt: skip
        try:
            self._store.apply(shown)
        except StoreError:
            log.exception("the slate %s was shown but not counted", request.request_id)
            return False
        return True

    def _slate(self, answer, why: list[str]) -> dict:
        slate, scored = answer.slate, answer.scored
        picked = slate.picked
        rows, bits = scored.candidates.rows[picked], scored.candidates.sources[picked]
        items = [
            {
                "video_id": video_id,
                "score": float(slate.values[place]),
                "reasons": list(answer.reasons[place]),
                "sources": [name for bit, name in enumerate(SOURCES) if bits[place] >> bit & 1],
                "predictions": {
                    name: _finite(value) for name, value in zip(TARGETS, scored.predictions[picked[place]], strict=True)
                },
                "video": {**self._facts(int(rows[place])), "age_h": self._age_h(int(rows[place]), answer.request.as_of_ms)},
            }
            for place, video_id in enumerate(answer.ids)
        ]
        return {
            "request_id": answer.request.request_id,
            "release": self.release_id,
            "mode": "online",
            "degraded": bool(why),
            "degraded_why": why,
            "as_of_ms": answer.request.as_of_ms,
            "items": items,
            "removed": {name: len(positions) for name, positions in slate.removed.items()},
            "funnel": {"retrieved": len(scored), "ranked": len(scored), "slate": len(picked)},
            "timings_ms": answer.timings_ms,
        }

    def _facts(self, row: int) -> dict:
        catalogue = self._release.catalogue
        creator = int(catalogue.creator_rows[row])
        return {
            "creator_id": str(catalogue.creator_names[creator]) if creator >= 0 else None,
            "tags": [str(catalogue.tag_names[tag]) for tag in catalogue.tag_rows[row] if tag >= 0],
            "duration_ms": _finite(catalogue.duration_ms[row]),
        }

    def _age_h(self, row: int, as_of_ms: int) -> float | None:
        return _finite(max((as_of_ms - self._release.catalogue.upload_ms[row]) / HOUR_MS, 0.0))

    # ---- events ------------------------------------------------------------------------------------------------------

    def outcomes(self, body: EventsRequest) -> tuple[dict[str, int], list]:
        """An EventsResponse, and the unknown video ids, whose events were kept aside. Raises StoreError: then none counted."""
        known_at = self._clock()
        events = [
            Event(
                kind="outcome",
                known_at=known_at,
                request_id=one.request_id or "",
                **one.model_dump(exclude={"type", "request_id"}),
            )
            for one in body.events
        ]
        results = self._store.apply(events)
        found = Counter(results)
        counts = {"accepted": found[ACCEPTED], "duplicates": found[DUPLICATE], "unknown": found[UNKNOWN]}
        self._instruments.events(counts)
        return counts, [event.video_id for event, result in zip(events, results, strict=True) if result == UNKNOWN]

    # ---- viewers -----------------------------------------------------------------------------------------------------

    def viewers(self, limit: int) -> dict:
        """A ViewersResponse: viewers with a past, in id order."""
        at = self._store.layout.at_history
        listed = [{"user_id": each, "watches": int(self._store.viewer(each)[at])} for each in self._store.viewer_ids(limit)]
        return {"release": self.release_id, "viewers": listed}

    def history(self, text: str, limit: int) -> dict:
        """A HistoryResponse, latest first; nothing for somebody unknown. `text` is an id as it stands in a path."""
        user_id = self._id(text)
        layout, record = self._store.layout, self._store.viewer(user_id)
        rows, values = np.empty(layout.history, np.int32), np.empty((layout.history, 3))
        history.read(record, layout.at_history, layout.history, float(self._clock()), rows, values)
        kept = range(min(limit, int(np.count_nonzero(rows >= 0))))
        return {"user_id": user_id, "history": [self._watch(int(rows[place]), values[place]) for place in kept]}

    def _id(self, text: str) -> int | str:
        is_number = not self._release.user_ids.are_strings and re.fullmatch(r"-?\d{1,19}", text, re.ASCII)
        return int(text) if is_number and int(text) in INT64 else text

    def _watch(self, row: int, values: np.ndarray) -> dict:
        ago_s, watch_s, bits = values
        flags = {name: bool(int(bits) & bit) for name, bit in history.OUTCOME_BITS.items()}
        return {
            "video_id": self._release.video_ids.value(row),
            **self._facts(row),
            "watch_ms": 1000.0 * watch_s,
            "ago_s": float(ago_s),
            **flags,
        }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

"""Between the API's words and the house's: a body > a slate, outcome events > the store, a viewer > what they watched."""

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence

import polars as pl

from watchnext.data.tables import OUTCOMES
from watchnext.features.catalogue import Ids
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.precomputed import precomputed
from watchnext.serving.http.metrics import Instruments
from watchnext.serving.http.schemas import EventsRequest, OutcomeEvent, RecommendRequest
from watchnext.serving.http.worker_pool import TooSlowError
from watchnext.serving.store.events import Event
from watchnext.serving.store.store import ACCEPTED, DUPLICATE, UNKNOWN, StoreError
from watchnext.types import TARGETS, Request

log = logging.getLogger(__name__)
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as it is echoed
HOUR_MS = 3_600_000


class IdKindError(ValueError):
    """An id of another kind than those of the release: `where` it stood, its `value`, and what was `expected`."""

    def __init__(self, where: str, value: int | str, expected: str) -> None:
        super().__init__(f"{where} is {value!r}: expected {expected}")
        self.where, self.value, self.expected = where, value, expected


class Desk:
    """`clock()` gives ms, each call later than the one before. Safe to call from any thread."""

    def __init__(self, *, recommender, store, served, clock: Callable[[], int], instruments: Instruments) -> None:
        self._recommender, self._release = recommender, recommender.release
        self._store, self._served = store, served
        self._clock, self._instruments = clock, instruments
        self.release_id: str = recommender.release.id

    # ---- slates ------------------------------------------------------------------------------------------------------

    def recommend(self, body: RecommendRequest, *, request_id: str, until: float) -> dict:
        """A RecommendResponse, its videos counted as shown. Raises IdKindError; TooSlowError after `until` (monotonic s)."""
        self._viewer("body.user_id", body.user_id)
        request = Request(request_id, body.user_id, body.k, self._clock(), body.surface, body.region, body.context)
        answer = self._precomputed(request, body.mode) or self._recommender.recommend(request)
        if time.monotonic() > until:  # nobody waits for it any more, so nobody is shown it
            raise TooSlowError("the slate took longer than its asker waits")
        why = list(answer.why)
        if not self._count_shown(request, answer.ids):
            why.append("the store did not take what was shown")
        self._served.append(answer)
        slate = self._slate(answer, request_id, why)
        self._instruments.slate(
            videos=len(answer.ids), removed=answer.removed, degraded=bool(why), timings_ms=answer.timings_ms
        )
        return slate

    def _precomputed(self, request: Request, mode: str) -> Answer | None:
        try:
            return precomputed(self._recommender, request) if mode == "precomputed" else None
        except StoreError:
            log.exception("the slate kept for request %s could not be read", request.request_id)
            return None

    def _count_shown(self, request: Request, ids: Sequence) -> bool:
        """A slate is worth more than its count: where the store fails, the viewer gets it all the same."""
        about = {"kind": "shown", "user_id": request.user_id, "known_at": request.as_of_ms, "request_id": request.request_id}
        shown = [Event(video_id=each, surface=request.surface or "", **about) for each in ids]
        try:
            self._store.apply(shown)
        except StoreError:
            log.exception("the slate %s was shown but not counted", request.request_id)
            return False
        return True

    def _slate(self, answer: Answer, request_id: str, why: list[str]) -> dict:
        return {
            "request_id": request_id,
            "release": answer.release,
            "mode": answer.mode,
            "degraded": bool(why),
            "degraded_why": why,
            "as_of_ms": answer.as_of_ms,
            "items": self._items(answer),
            "removed": answer.removed,
            "funnel": answer.funnel,
            "timings_ms": answer.timings_ms,
        }

    def _items(self, answer: Answer) -> list[dict]:
        scores, rows = answer.slate.values.tolist(), answer.rows.tolist()
        parts = (answer.ids, scores, answer.reasons, answer.sources, answer.predictions, rows)
        return [
            {
                "video_id": video_id,
                "score": score,
                "reasons": reasons,
                "sources": sources,
                "predictions": {name: _finite(value) for name, value in zip(TARGETS, predictions, strict=True)},
                "video": {**self._facts(row), "age_h": self._age_h(row, answer.as_of_ms)},
            }
            for video_id, score, reasons, sources, predictions, row in zip(*parts, strict=True)
        ]

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
        """An EventsResponse, and the unknown video ids, whose events were kept aside. Raises IdKindError or StoreError: then
        none counted."""
        for place, one in enumerate(body.events):
            self._viewer(f"body.events.{place}.user_id", one.user_id)
            self._of_kind(f"body.events.{place}.video_id", one.video_id, self._release.video_ids)
        known_at = self._clock()
        events = [_event(one, known_at) for one in body.events]
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
        user_id = self._viewer_of(text)
        watches = self._recommender.history(user_id, self._clock(), limit)
        rows = self._release.video_ids.rows([watch["video_id"] for watch in watches]).tolist()
        return {"user_id": user_id, "history": [self._watch(row, watch) for row, watch in zip(rows, watches, strict=True)]}

    def _watch(self, row: int, watch: dict) -> dict:
        flags = {name: name in watch["outcomes"] for name in OUTCOMES}
        return {
            "video_id": watch["video_id"],
            **self._facts(row),
            "watch_ms": 1000.0 * watch["watch_s"],
            "ago_s": watch["ago_s"],
            **flags,
        }

    # ---- kinds of ids ------------------------------------------------------------------------------------------------

    def _viewer_ids(self) -> Ids:
        """Those of the release; where it knows nobody yet, whom the store met first."""
        known = self._release.user_ids
        return known if len(known.ids) else Ids.of(pl.Series(self._store.viewer_ids(1)))

    def _viewer(self, where: str, user_id: int | str) -> int | str:
        """The id, where it is of the kind that viewers have: 1 and "1" would be two."""
        return self._of_kind(where, user_id, self._viewer_ids())

    def _of_kind(self, where: str, given: int | str, ids: Ids) -> int | str:
        if not ids.takes(given):
            kind = "a string" if ids.are_strings else "a whole number, an int64"
            raise IdKindError(where, given, f"{kind}, as the ids of release {self.release_id} are")
        return given

    def _viewer_of(self, text: str) -> int | str:
        """The viewer whom a path names."""
        ids = self._viewer_ids()
        is_number = NUMBER.fullmatch(text) and not (len(ids.ids) and ids.are_strings)
        return self._of_kind("path.user_id", int(text) if is_number else text, ids)


def _event(given: OutcomeEvent, known_at: int) -> Event:
    fields = given.model_dump(exclude={"type", "request_id", "surface"})
    where = {"request_id": given.request_id or "", "surface": given.surface or ""}
    return Event(kind="outcome", known_at=known_at, **where, **fields)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None

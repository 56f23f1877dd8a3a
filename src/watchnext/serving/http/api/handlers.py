"""Turn API models into domain objects and back: a body > a slate, outcome events > the store, a viewer > past watches."""

import asyncio
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.tables import OUTCOMES
from watchnext.features.catalogue import Ids
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.serving.funnel.ahead.precomputed import precomputed
from watchnext.serving.funnel.answer import IMPRESSIONS_LOST, NOT_PRECOMPUTED, Answer, Degradation, source_names
from watchnext.serving.funnel.explanation.parameters import parameters
from watchnext.serving.funnel.explanation.trace import KEPT, RecentAnswers, summary
from watchnext.serving.funnel.query import FieldError
from watchnext.serving.funnel.video_search import VideoSearch
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.http.api.pages import shown_before, token_of
from watchnext.serving.http.api.schemas import (
    EventsRequest,
    OutcomeEvent,
    RankRequest,
    RecommendRequest,
    RetrieveRequest,
    ShownEvent,
    SimilarRequest,
)
from watchnext.serving.http.api.status import status
from watchnext.serving.http.api.video_facts import VideoFacts, finite
from watchnext.serving.http.worker_pool import TooSlowError
from watchnext.serving.release.live_catalogue import LiveIds
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.erasure import ERASE_COMMAND, Receipt
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.tables.journal import Event, OwnImpression, session_id
from watchnext.serving.store.tables.retention import ACCEPTED, DUPLICATE, KEYS_KEPT_MS, UNKNOWN
from watchnext.types import NOBODY, TARGETS, Dials, Request, VideoFilter

log = logging.getLogger(__name__)
NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # in the form that answers echo
HOUR_MS = 3_600_000
OWN_IMPRESSIONS_S = 0.1  # a request waits this long at most for the commit of the viewer's last slate
STORED = ("precomputed", "auto")  # modes that answer with a viewer's precomputed slate
PLAIN = Request("", "", 0, 0)  # with every default
NO_ROWS = np.zeros(0, np.int64)
NO_VIDEO = dict.fromkeys(("rule", "merge_rank", "value_rank", "position", "predictions"), None) | {"sources": {}}
ERASE_S = 10.0  # the viewer's last impressions are on disk by then, or lost
RESULTS = {"accepted": ACCEPTED, "duplicates": DUPLICATE, "unknown": UNKNOWN}  # key of an EventsResponse > store result
Inspection = Callable[[Request], Callable[[Answer], None] | None]
ListInspection = Callable[[Request, Sequence], None]  # takes the ids of an answer that is no slate


class IdKindError(ValueError):
    """Report an id or a value that the release does not take: `where` it occurs, its `value`, and what was `expected`."""

    code = "invalid"

    def __init__(self, where: str, value: object, expected: str, *, status: int = 422) -> None:
        super().__init__(f"{where} is {value!r}: expected {expected}")
        self.where, self.value, self.expected, self.status = where, value, expected, status


class UnknownVideoError(IdKindError):
    """Report a video that the release does not know."""

    code = "unknown_video"


class UnknownRequestError(LookupError):
    """Report a request that cannot be traced."""


def require_kind(where: str, given: int | str, ids: Ids | LiveIds, release_id: str) -> None:
    """Raise IdKindError for an id of the other kind: 1 and "1" would be two viewers."""
    if not ids.takes(given):
        kind = "a string" if ids.are_strings else "a whole number (int64)"
        raise IdKindError(where, given, f"{kind}, like the ids of release {release_id}")


def parsed_id(text: str, ids: Ids | LiveIds) -> int | str:
    """Read an id in a path or query as a number where `ids` take it as one."""
    return int(text) if NUMBER.fullmatch(text) and ids.takes(int(text)) else text


async def committed(commits: GroupCommit, events: Sequence[Event], timeout_s: float) -> list[str]:
    """Return the results of `events` once they are on disk. Raises StoreError, and TooSlowError where they may still follow."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(commits.submit(events)), timeout_s)
    except TimeoutError as error:
        raise TooSlowError(f"the events were not on disk within {timeout_s:g} s") from error


class Handlers:
    """Answer the requests of the API. `clock()` returns ms, later at every call. Safe to call from any thread."""

    def __init__(
        self, *, recommender, store, commits: GroupCommit, served_log, clock: Callable[[], int], metrics: ServerMetrics
    ) -> None:
        self._recommender, self._release = recommender, recommender.release
        self._store, self._commits, self._served_log = store, commits, served_log
        self._catalogue = store.catalogue
        self._clock, self._metrics = clock, metrics
        self._recent = RecentAnswers()
        self._first: list[int | str] = []  # the first viewer of a release that knows none, until the store does
        self._since_ms = store.origin[1]
        self._facts = VideoFacts(store.catalogue)
        self._search = VideoSearch(recommender.release, store.catalogue)
        self.release_id: str = recommender.release.id

    # ---- slates ------------------------------------------------------------------------------------------------------

    def recommend(self, body: RecommendRequest, *, request_id: str, until: float, inspect: Inspection | None = None) -> dict:
        """Return a RecommendResponse and queue its impressions. Raises IdKindError, and TooSlowError after `until`.

        `inspect` takes the request before it is answered and returns what takes the answer before it is shown, if anything
        does. Where that raises, nothing is shown or recorded.
        """
        request, paged = self._asked(body, request_id)
        inspected = inspect(request) if inspect is not None else None
        answer = self._answer(request, body)
        if time.monotonic() > until:  # the client was already answered with an error and will not show this slate
            raise TooSlowError("the slate took longer than the client waits")
        if inspected is not None:
            inspected(answer)
        return self._shown(body, answer, paged)

    def stored(self, body: RecommendRequest, *, request_id: str) -> dict | None:
        """Return what `recommend` does, from the viewer's precomputed slate and without waiting for anything; None where that
        cannot be, and nothing was done. Raises IdKindError."""
        viewer_id = self._viewer_of(body)
        if body._missed or viewer_id == NOBODY or self._store.is_shared or not self._commits.is_settled(viewer_id):
            return None
        request, paged = self._asked(body, request_id)
        answer = self._precomputed(request)
        body._missed = answer is None
        return None if answer is None else self._shown(body, answer, paged)

    def _asked(self, body: RecommendRequest, request_id: str) -> tuple[Request, list]:
        """Return the request of a body for now, and the ids of the videos of its earlier pages. Raises IdKindError."""
        viewer_id = self._viewer_of(body)
        paged = shown_before(body.page_token, viewer_id) if body.page_token else []
        dials = Dials(**dict(body.dials)) if "dials" in body.model_fields_set else PLAIN.dials
        if dials.engage and self._release.engage is None:
            message = (
                f"dials.engage is {dials.engage:g}, but {self._release.id} cannot tell how likely a watch is; leave it out"
            )
            raise FieldError(message)
        budget_ms = math.inf if body.budget_ms is None else body.budget_ms
        about = {"dials": dials, "budget_ms": budget_ms, "mirrored": body.mirror}
        return self._request(body, request_id, viewer_id, paged, **about), paged

    def _shown(self, body: RecommendRequest, answer: Answer, paged: Sequence) -> dict:
        """Return the RecommendResponse of an answer, and record it."""
        request, degradations = answer.request, list(answer.degradations)
        if not (body.preview or body.mirror) and not self._record_impressions(request, answer.ids):
            degradations.append(IMPRESSIONS_LOST)
        if not body.preview:
            self._served_log.append(answer)
        self._recent.put(answer)
        slate = self._slate(answer, degradations) | ({"trace": self._summary(answer)} if body.explain else {})
        slate["page_token"] = token_of(request.user_id, [*paged, *answer.ids]) if len(answer.ids) == body.k else None
        creators = len({*self._catalogue.creator_rows[answer.rows].tolist()})
        self._metrics.slate(answer, degraded=[each.code for each in degradations], creators=creators)
        return slate

    def _request(
        self,
        body: RecommendRequest | RetrieveRequest,
        request_id: str,
        viewer_id: int | str,
        paged: Sequence = (),
        *,
        dials: Dials = PLAIN.dials,
        budget_ms: float = PLAIN.budget_ms,
        mirrored: bool = False,
    ) -> Request:
        """Return the request of a body for now, without the videos `paged`. Raises IdKindError."""
        if personalised := viewer_id != NOBODY and body.mode != "not_personalised":
            self._commits.settle(viewer_id, OWN_IMPRESSIONS_S)
        given = {"body.exclude": body.exclude, "body.page_token": paged}
        exclude = [row for name, video_ids in given.items() for row in self._rows(name, video_ids).tolist()]  # logged as JSON
        as_of_ms = self._clock()
        seed = () if body.seed_video_id is None else (self._seed(body.seed_video_id, as_of_ms),)
        return Request(
            request_id=request_id,
            user_id=viewer_id,
            k=body.k,
            as_of_ms=as_of_ms,
            surface=body.surface,
            region=body.region,
            context=body.context,
            exclude=(*(row for row in exclude if row >= 0), *seed),
            muted=tuple(map(str, body.muted)),
            personalised=personalised,
            dials=dials,
            filter=_filter_of(body),
            seed=seed[0] if seed else None,
            budget_ms=budget_ms,
            mirrored=mirrored,
        )

    def retrieve(self, body: RetrieveRequest, *, request_id: str, inspect: ListInspection | None = None) -> dict:
        """Return a RetrieveResponse. Nothing is recorded. Raises IdKindError, and what `inspect` raises."""
        request = self._request(body, request_id, self._viewer_of(body))
        found = self._recommender.retrieved(request)
        candidates, ids = found.candidates, self._catalogue.ids
        items = [
            {"video_id": ids.value(row), "score": score, "sources": candidates.source_ranks(at)}
            for at, (row, score) in enumerate(zip(candidates.rows.tolist(), candidates.scores.tolist(), strict=True))
        ]
        if inspect is not None:
            inspect(request, [item["video_id"] for item in items])
        return {
            "request_id": request_id,
            "release": self.release_id,
            "mode": "online" if request.personalised else "not_personalised",
            **_degraded(found.degradations),
            "as_of_ms": request.as_of_ms,
            "items": items,
            "removed": found.removed,
            "timings_ms": found.timings_ms,
        }

    def rank(self, body: RankRequest, *, request_id: str, inspect: ListInspection | None = None) -> dict:
        """Return a RankResponse. Nothing is recorded: what is shown of it is the caller's choice. Raises IdKindError, and what
        `inspect` raises."""
        viewer_id, rows = self._viewer_of(body), self._rows("body.video_ids", body.video_ids)
        self._commits.settle(viewer_id, OWN_IMPRESSIONS_S)
        as_of_ms = self._clock()
        exist = self._exist(rows, as_of_ms)
        request = Request(
            request_id=request_id,
            user_id=viewer_id,
            k=len(rows),
            as_of_ms=as_of_ms,
            surface=body.surface,
            region=body.region,
            context=body.context,
            personalised=viewer_id != NOBODY,
        )
        answer = self._recommender.rank_given(request, np.unique(rows[exist]))
        if inspect is not None:
            inspect(request, answer.ids)
        self._recent.put(answer)
        ids, candidates = self._catalogue.ids, answer.scored.candidates.rows
        removed = {name: [ids.value(row) for row in candidates[at]] for name, at in answer.slate.removed.items()}
        unknown = [video_id for video_id, exists in zip(body.video_ids, exist, strict=True) if not exists]
        return self._head(answer, answer.degradations) | {"removed": removed, "unknown": list(dict.fromkeys(unknown))}

    def _answer(self, request: Request, body: RecommendRequest) -> Answer:
        if body.mode not in STORED or not request.personalised:
            return self._recommender.recommend(request)
        stored = None if body._missed else self._precomputed(request)
        if stored or body.mode == "auto":
            return stored or self._recommender.recommend(request)
        answer = self._recommender.recommend(replace(request, budget_ms=0.0))
        return replace(answer, degradations=(NOT_PRECOMPUTED, *answer.degradations))

    def _seed(self, video_id: int | str, as_of_ms: int) -> int:
        """Return the row of the video that others are to be beside. Raises IdKindError and UnknownVideoError."""
        self._require_kind("body.seed_video_id", video_id, self._catalogue.ids)
        rows = self._catalogue.ids.rows([video_id])
        if not self._exist(rows, as_of_ms)[0]:
            raise UnknownVideoError("body.seed_video_id", video_id, f"a video of release {self.release_id}")
        return int(rows[0])

    def _precomputed(self, request: Request) -> Answer | None:
        try:
            return precomputed(self._recommender, request)
        except StoreError:
            log.exception("the precomputed slate for request %s could not be read", request.request_id)
            return None

    def _record_impressions(self, request: Request, ids: Sequence) -> bool:
        """Queue the impressions of a slate for the store; False where they are lost: the viewer gets the slate all the same.

        Those of nobody count nowhere: no outcome can follow, so the videos would only lose by them.
        """
        if request.user_id == NOBODY:
            return True
        shared = {"user_id": request.user_id, "known_at": request.as_of_ms, "request_id": request.request_id}
        impressions = OwnImpression.shown_together(ids, surface=request.surface or "", **shared)
        began = time.perf_counter()
        try:
            future = self._commits.submit(impressions, owner=request.user_id)
        except StoreError as error:
            log.warning("the impressions of request %s were not recorded: %s", request.request_id, error)
            self._metrics.impressions_lost(len(impressions))
            return False
        future.add_done_callback(partial(self._metrics.impressions_written, len(impressions), began))
        return True

    def _slate(self, answer: Answer, degradations: Sequence[Degradation]) -> dict:
        parts = {"mode": answer.mode, "removed": answer.removed, "bent": list(answer.slate.bent), "funnel": answer.funnel}
        return self._head(answer, degradations) | parts

    def _head(self, answer: Answer, degradations: Sequence[Degradation]) -> dict:
        return {
            "request_id": answer.request.request_id,
            "release": answer.release,
            **_degraded(degradations),
            "as_of_ms": answer.as_of_ms,
            "items": self._items(answer),
            "timings_ms": answer.timings_ms,
        }

    def _items(self, answer: Answer) -> list[dict]:
        videos, predictions = self._listed(answer.rows, answer.request.as_of_ms, answer.ids), finite(answer.predictions)
        parts = zip(videos, answer.slate.values.tolist(), answer.explanations, answer.sources, predictions, strict=True)
        for video, score, reasons, sources, predicted in parts:
            video["score"], video["reasons"], video["sources"] = score, reasons, sources
            video["predictions"] = dict(zip(TARGETS, predicted, strict=True))
        return videos

    def listed(self, row: int, as_of_ms: int) -> dict:
        """Return a ListedVideo."""
        return self._listed(np.array([row]), as_of_ms)[0]

    def _listed(self, rows: np.ndarray, as_of_ms: int, ids: Sequence | None = None) -> list[dict]:
        """Return the ListedVideo of each of `rows` (n,), whose `ids` may be known."""
        ages_h = np.maximum((as_of_ms - self._catalogue.upload_ms[rows]) / HOUR_MS, 0.0)
        ids = self._catalogue.ids.values(rows) if ids is None else ids
        return [{"video_id": each, "video": aged} for each, aged in zip(ids, self._facts.aged(rows, ages_h), strict=True)]

    def _exist(self, rows: np.ndarray, as_of_ms: int) -> np.ndarray:
        """Return a mask (n,) of the rows that are videos; one uploaded later does not exist yet."""
        return (rows >= 0) & ~(self._catalogue.upload_ms[rows] > as_of_ms)

    # ---- without a viewer --------------------------------------------------------------------------------------------

    def similar(self, body: SimilarRequest) -> dict:
        """Return a SimilarResponse. Raises IdKindError and UnknownVideoError."""
        as_of_ms = self._clock()
        seed = self._seed(body.seed_video_id, as_of_ms)
        request = Request("similar", "", body.k, as_of_ms, region=body.region, personalised=False)
        found = self._recommender.similar(request, seed)
        parts = zip(self._listed(found.rows, as_of_ms), found.scores.tolist(), source_names(found.sources), strict=True)
        items = [{**video, "score": score, "sources": sources} for video, score, sources in parts]
        return {"release": self.release_id, "as_of_ms": as_of_ms, "items": items}

    def trending(self, surface: str | None, region: str | None, limit: int) -> dict:
        """Return a VideosResponse."""
        request = Request("trending", "", limit, self._clock(), surface, region, personalised=False)
        rows = self._recommender.trending(request)
        return self._videos(rows, request)

    def parameters(self, surface: str | None) -> dict:
        """Return a ParametersResponse."""
        return parameters(self._release, self._recommender.retrieval.sources, surface)

    def trace(self, request_id: str, video_id: str | None) -> dict:
        """Return a TraceResponse, with `video` where one is asked for. Raises UnknownRequestError, and errors of its id."""
        answer = self._recent.get(request_id)
        if answer is None:
            raise UnknownRequestError(f"request {request_id} is not among the last {KEPT} of this server's release")
        return self._summary(answer) | {"video": None if video_id is None else self._trace_video(answer, video_id)}

    def _summary(self, answer: Answer) -> dict:
        return summary(answer, self._recommender.costs(answer))

    def _trace_video(self, answer: Answer, text: str) -> dict:
        video_id = self._parsed("query.video_id", text, self._catalogue.ids)
        row = int(self._catalogue.ids.rows([video_id])[0])
        if row < 0:
            raise UnknownVideoError("query.video_id", video_id, f"a video of release {self.release_id}")
        return {"video_id": video_id, **NO_VIDEO, **self._recommender.trace(answer, row)}

    def status(self, drift: Path) -> dict:
        """Return a StatusResponse; `drift` is the file of the report."""
        return status(self._release, self._viewer_ids(), drift)

    @property
    def has_thumbnails(self) -> bool:
        return self._release.texts.has_thumbnails

    def search(self, text: str, region: str | None, limit: int) -> dict:
        """Return a VideosResponse: the video of this id first, then others, all under the rules that hold for everyone."""
        request = Request("search", "", limit, self._clock(), region=region, personalised=False)
        exact = self._catalogue.ids.rows([parsed_id(text, self._catalogue.ids)])
        rows = np.unique(np.concatenate([exact[exact >= 0], self._search.rows(text)]))
        rows = rows[self._exist(rows, request.as_of_ms)]
        rows = rows[np.argsort(~np.isin(rows, exact), kind="stable")]
        return self._videos(self._recommender.allowed(request, rows)[:limit], request)

    def _videos(self, rows: np.ndarray, request: Request) -> dict:
        items = self._listed(rows, request.as_of_ms)
        return {"release": self.release_id, "as_of_ms": request.as_of_ms, "items": items}

    def video(self, text: str) -> dict | None:
        """Return a VideoResponse, also of a video that may not be shown; None for an unknown one."""
        row, as_of_ms = self._catalogue.ids.rows([parsed_id(text, self._catalogue.ids)]), self._clock()
        if not self._exist(row, as_of_ms)[0]:
            return None
        return {"release": self.release_id, "as_of_ms": as_of_ms, **self.listed(int(row[0]), as_of_ms)}

    # ---- events ------------------------------------------------------------------------------------------------------

    async def outcomes(
        self, body: EventsRequest, *, timeout_s: float, heard: Callable[[Sequence[Event]], None] | None = None
    ) -> tuple[dict[str, int], list]:
        """Return an EventsResponse and the unknown video ids, whose events were quarantined, once the events are on disk.

        `heard` takes those that count.
        No thread waits for the disk, so as many calls as are under way share one fsync. Raises IdKindError or StoreError; then
        no event was stored. Raises TooSlowError; then they may be stored, and count once when they are sent again.
        """
        self._require_kinds(body.events)
        now_ms = self._clock()
        events = [_event(one, self._known_at(f"body.events.{i}.at_ms", one.at_ms, now_ms)) for i, one in enumerate(body.events)]
        began = time.perf_counter()
        results = await committed(self._commits, events, timeout_s)
        self._metrics.committed(time.perf_counter() - began)
        by_result = Counter(results)
        counts = {name: by_result[result] for name, result in RESULTS.items()}
        self._metrics.events(counts)
        if heard is not None:
            heard([event for event, result in zip(events, results, strict=True) if result == ACCEPTED])
        return counts, [event.video_id for event, result in zip(events, results, strict=True) if result == UNKNOWN]

    def _require_kinds(self, events: Sequence[OutcomeEvent | ShownEvent]) -> None:
        """Raise IdKindError for the first id of the other kind. Ids of a type that was looked at are taken as it was."""
        viewer_ids, looked_at = self._viewer_ids(), set()
        for index, one in enumerate(events):
            if (types := (type(one.user_id), type(one.video_id))) in looked_at:
                continue
            if one.user_id is not None:
                self._require_kind(f"body.events.{index}.user_id", one.user_id, viewer_ids)
            self._require_kind(f"body.events.{index}.video_id", one.video_id, self._catalogue.ids)
            looked_at.add(types)

    def _known_at(self, where: str, at_ms: int | None, now_ms: int) -> int:
        """Return the time at which an event counts: its own, but none to come, and none before those that the state holds.

        Raises IdKindError for one so old that its key would not be known any more.
        """
        at_ms = now_ms if at_ms is None else min(at_ms, now_ms)
        if at_ms < now_ms - KEYS_KEPT_MS:
            raise IdKindError(where, at_ms, f"at least {now_ms - KEYS_KEPT_MS}, seven days ago")
        return max(at_ms, self._since_ms)

    # ---- viewers -----------------------------------------------------------------------------------------------------

    def viewers(self, limit: int) -> dict:
        """Return a ViewersResponse: viewers with a history, in id order."""
        at = self._store.layout.at_history
        listed = [{"user_id": each, "watches": int(self._store.viewer(each)[at])} for each in self._store.viewer_ids(limit)]
        return {"release": self.release_id, "viewers": listed}

    def history(self, text: str, limit: int) -> dict:
        """Return a HistoryResponse, latest watch first; empty for an unknown viewer. `text` is the id in the path."""
        user_id = self._parsed("path.user_id", text, self._viewer_ids())
        query = self._recommender.query(Request("history", user_id, 0, self._clock()))
        rows = query.history_rows[:limit]
        columns = (column[:limit].tolist() for column in (query.ago_s, query.watch_s, query.bits))
        watches = zip(rows.tolist(), self._facts.of(rows), *columns, strict=True)
        return {"user_id": user_id, "history": [self._watch(*watch) for watch in watches]}

    def erase(self, text: str, beside: Callable[[int | str, int], Sequence[Receipt]] | None = None) -> dict:
        """Erase a viewer from what the server owns, and return an ErasureResponse. `text` is the id in the path.

        `beside` erases a viewer, after the store did, from what a challenger owns.
        """
        user_id = self._parsed("path.user_id", text, self._viewer_ids())
        self._commits.settle(user_id, ERASE_S)
        now_ms = self._clock()
        receipts = [
            self._store.erase(user_id, now_ms),
            *(beside(user_id, now_ms) if beside is not None else ()),
            Receipt("served_log", {"answers": self._served_log.erase(user_id)}),
            Receipt("traces", {"answers": self.forget(user_id)}),
            Receipt("tables, features and releases", {}, "what a training read", f"`{ERASE_COMMAND} user={user_id}`"),
        ]
        return {"receipts": [asdict(receipt) for receipt in receipts]}

    def forget(self, user_id: int | str) -> int:
        """Drop the kept answers of a viewer, which traces read; return their number."""
        return self._recent.erase(user_id)

    def _watch(self, row: int, facts: dict, ago_s: float, watch_s: float, bits: int) -> dict:
        flags = {name: bool(bits & OUTCOME_BITS[name]) for name in OUTCOMES}
        watched = {"watch_ms": 1000.0 * watch_s, "ago_s": ago_s}
        return {"video_id": self._catalogue.ids.value(row), **facts, **watched, **flags}

    # ---- id kinds ----------------------------------------------------------------------------------------------------

    def _viewer_ids(self) -> Ids:
        """Return the viewer ids of the release, or one from the store, which may be down, where the release has no viewers."""
        if len((ids := self._release.user_ids).ids):
            return ids
        try:
            stored = self._store.viewer_ids(1)
        except StoreError:
            stored = []
        return Ids.of(pl.Series(stored or self._first))

    def _viewer_of(self, body: RecommendRequest | RetrieveRequest | RankRequest) -> int | str:
        """Return the viewer's id, or else the one of an anonymous session, or NOBODY.

        Raises IdKindError for a viewer of the other kind; the first one decides where neither release nor store knows any.
        """
        if body.user_id is None:
            return session_id(body.session) if body.session else NOBODY
        self._require_kind("body.user_id", body.user_id, self._viewer_ids())
        self._first = self._first or [body.user_id]
        return body.user_id

    def _require_kind(self, where: str, given: int | str, ids: Ids | LiveIds) -> None:
        require_kind(where, given, ids, self.release_id)

    def _rows(self, where: str, video_ids: Sequence) -> np.ndarray:
        """Return the rows (n,) of videos, -1 for unknown ones. Raises IdKindError."""
        if not video_ids:
            return NO_ROWS
        for index, video_id in enumerate(video_ids):
            self._require_kind(f"{where}.{index}", video_id, self._catalogue.ids)
        return self._catalogue.ids.rows(video_ids)

    def _parsed(self, where: str, text: str, ids: Ids | LiveIds) -> int | str:
        """Read the id in a path or query. Raises IdKindError."""
        given = parsed_id(text, ids)
        self._require_kind(where, given, ids)
        return given


def _event(given: OutcomeEvent | ShownEvent, known_at: int) -> Event:
    named = dict(vars(given))
    kind, session, _ = (named.pop(name) for name in ("type", "session", "at_ms"))
    if given.user_id is None:
        named["user_id"] = session_id(session)
    named["request_id"], named["surface"] = given.request_id or "", given.surface or ""
    return Event(**named, kind=kind, known_at=known_at)


def _filter_of(body: RecommendRequest | RetrieveRequest) -> VideoFilter:
    if "filter" not in body.model_fields_set:
        return PLAIN.filter
    return VideoFilter(**{name: tuple(map(str, values)) for name, values in body.filter})


def _degraded(degradations: Sequence[Degradation]) -> dict:
    return {"degraded": bool(degradations), "degraded_why": [each._asdict() for each in degradations]}

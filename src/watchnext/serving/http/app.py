"""Define the routes of the HTTP API. `handlers.py` computes the answers; this file holds no other logic."""

import asyncio
import mimetypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query, Request, Response
from starlette.middleware.cors import CORSMiddleware

from watchnext.serving.funnel.refresher import Refresher
from watchnext.serving.http.access.direct_route import DirectRoute
from watchnext.serving.http.access.gate import Access, AccessGate, GateMiddleware
from watchnext.serving.http.access.look_ups import LookUps
from watchnext.serving.http.access.middleware import BodyMiddleware, RequestMiddleware, request_id
from watchnext.serving.http.access.shedding import Shedding
from watchnext.serving.http.api import schemas, video_calls
from watchnext.serving.http.api.batch_calls import BatchCalls, BatchRequest, BatchResponse
from watchnext.serving.http.api.errors import EXCEPTION_HANDLERS, Json, JsonRoute, in_loop, problem, shortened
from watchnext.serving.http.api.handlers import STORED, Handlers
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.http.openapi.docs_page import rendered
from watchnext.serving.http.openapi.document import complete
from watchnext.serving.http.swap.serving import Serving
from watchnext.serving.http.worker_pool import WorkerPool
from watchnext.serving.store.group_commit import GroupCommit

REFRESH_S = 20.0  # well within the `refresh_s` of the sources
PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self' data:",
    "Cache-Control": "no-cache",
}
CORS = {
    "allow_methods": ("GET", "POST", "PATCH", "DELETE"),
    "allow_headers": ("authorization", "content-type", "content-encoding"),
    "expose_headers": ("retry-after",),
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bound the work, the bodies and the connections that a server accepts.

    threads, waiting      requests computed at once, and requests that may wait for a thread; events wait for the disk instead
    waiting_events        events that may wait for the disk
    timeout_s             seconds until a request is answered with 503; half of them may be waiting for a thread
    batches, batch_s      batches under way, and seconds in which the turn of each of its requests must come
    body_bytes, body_s    largest body, and seconds until all of it must have arrived
    connections           open at once
    head_bytes, headers   largest head of a request, and the number of its headers
    head_s, write_s       seconds until a head must have arrived, and until a client must take its answer
    pipelined             requests that a connection may send ahead of the answers
    """

    threads: int = 2
    waiting: int = 32
    waiting_events: int = 20_000
    timeout_s: float = 2.0
    batches: int = 4
    batch_s: float = 8.0
    body_bytes: int = 1_000_000
    body_s: float = 10.0
    connections: int = 512
    head_bytes: int = 16_384
    headers: int = 100
    head_s: float = 10.0
    write_s: float = 30.0
    pipelined: int = 16


DIRECT = {"/v1/recommend": schemas.RecommendRequest, "/v1/events": schemas.EventsRequest}
_errors = {status: {"model": schemas.ErrorResponse} for status in (400, 408, 413, 415, 422, 503)}
_event_errors = {**_errors, 422: {"model": schemas.EventsProblem | schemas.ErrorResponse}}
_video_errors = {**_errors, 507: {"model": schemas.ErrorResponse}}
_read_errors = {status: _errors[status] for status in (408, 413, 422, 503)}
_path_errors = {**_read_errors, 404: {"model": schemas.ErrorResponse}}  # a line break in a path matches no route


def create_app(
    *, recommender, store, served_log, clock: Callable[[], int], limits: Limits, access: Access, drift: Path
) -> FastAPI:
    """Make the ASGI app of a loaded release. `clock()` returns ms, `drift` is the report of drift that `GET /v1/status` reads.

    `app.state.close()` waits for running requests, and until all events of `app.state.commits` are on disk; the store and the
    served log stay open. `app.state.serving` lets another release serve, `app.state.pool` runs the requests,
    `app.state.metrics` counts them; `app.state.look_ups` and `app.state.shedding` answer some before they reach the app.
    """
    metrics = ServerMetrics()
    pool = WorkerPool(threads=limits.threads, waiting=limits.waiting, wait_s=limits.timeout_s / 2)
    commits = GroupCommit(store, most_waiting=limits.waiting_events)
    shared = {"commits": commits, "clock": clock, "metrics": metrics}

    def make(*, recommender, store, settled: Callable[[], object] | None = None) -> tuple[Handlers, video_calls.VideoHandlers]:
        handlers = Handlers(recommender=recommender, store=store, served_log=served_log, **shared)
        about = {"timeout_s": limits.timeout_s, "settled": settled}
        return handlers, video_calls.VideoHandlers(handlers=handlers, store=store, **shared, **about)

    serving = Serving(make, recommender=recommender, store=store)
    metrics.gauge("store_waiting_events", "Events that wait for the disk.", lambda: commits.waiting)
    metrics.gauge("store_failed", "1 while nothing can be stored: /readyz says why.", lambda: bool(serving.store.failed))
    metrics.gauge("store_behind_seconds", "Age of what the memory has of other servers.", lambda: serving.store.behind_s)
    metrics.gauge("release_refused", "1 while a release that was to serve is refused.", lambda: bool(serving.refused))
    metrics.gauge(
        "canary_share", "Share of viewers whom a challenger answers.", lambda: ((c := serving.canary) and c.plan.share) or 0
    )
    live = "Videos that were posted or changed, of WATCHNEXT_LIVE_VIDEOS."
    metrics.gauge("live_videos", live, lambda: serving.store.catalogue.slots)
    metrics.gauge("work_taken", "Requests running or waiting.", lambda: pool.in_use)
    metrics.gauge("served_log_dropped", "Answers that the served log dropped.", lambda: served_log.dropped)
    metrics.gauge("served_log_failed", "Answers that the served log could not write.", lambda: served_log.failed)
    unsynced = "Answers that the served log could not put on disk before their part."
    metrics.gauge("served_log_unsynced", unsynced, lambda: served_log.unsynced)

    app = FastAPI(title="watchnext", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    refresher = Refresher(lambda: serving.refresh(clock()), every_s=REFRESH_S)

    def close() -> None:
        refresher.close()
        pool.close()
        commits.close()

    app.state.close, app.state.commits, app.state.serving, app.state.pool = close, commits, serving, pool
    gate = AccessGate(access)
    app.state.metrics, app.state.shedding = metrics, Shedding(pool, metrics.answered)
    app.state.look_ups = LookUps(gate, serving, metrics.answered)
    for kind, handler in EXCEPTION_HANDLERS.items():
        app.add_exception_handler(kind, in_loop(handler))
    app.include_router(_videos(serving))
    bounds = {name: getattr(limits, name) for name in ("threads", "batches", "batch_s", "timeout_s")}
    app.include_router(_batches(BatchCalls(lambda: serving, pool, **bounds)))
    api = _api(serving, partial(pool.run, timeout_s=limits.timeout_s), limits.timeout_s, drift)
    app.include_router(api)
    app.router.routes[:0] = [DirectRoute(route, DIRECT[route.path]) for route in api.routes if route.path in DIRECT]
    _add_unversioned(app, serving, served_log, metrics)
    complete(app)
    app.add_middleware(BodyMiddleware, body_bytes=limits.body_bytes, body_s=limits.body_s)
    app.add_middleware(GateMiddleware, gate=gate)
    if access.origins:  # around the gate, which a browser's preflight brings no key
        app.add_middleware(CORSMiddleware, allow_origins=access.origins, **CORS)
    app.add_middleware(RequestMiddleware, observe=metrics.answered)
    return app


def _api(handlers: Serving, run: Callable, timeout_s: float, drift: Path) -> APIRouter:
    routes, erasing = APIRouter(prefix="/v1", route_class=JsonRoute), asyncio.Lock()

    @routes.post("/recommend", response_model=schemas.RecommendResponse, responses=_errors)
    async def recommend(body: schemas.RecommendRequest) -> Response:
        """Answer with a slate for a viewer, known or not; its videos count as shown."""
        if body.mode in STORED and (slate := handlers.stored(body, request_id=request_id())) is not None:
            return Json(slate)  # a look-up, which is over before a thread would have begun it
        call = partial(handlers.recommend, body, request_id=request_id(), until=time.monotonic() + timeout_s)
        return Json(await run(call, priority=body.priority))

    @routes.post("/rank", response_model=schemas.RankResponse, responses=_errors)
    async def rank(body: schemas.RankRequest) -> Response:
        """Order the caller's candidates by the value that a slate has for a viewer. Nothing counts as shown."""
        return Json(await run(partial(handlers.rank, body, request_id=request_id())))

    @routes.post("/retrieve", response_model=schemas.RetrieveResponse, responses=_errors)
    async def retrieve(body: schemas.RetrieveRequest) -> Response:
        """List the merged candidates of all sources for a viewer, before ranking. Nothing counts as shown."""
        return Json(await run(partial(handlers.retrieve, body, request_id=request_id())))

    @routes.post("/similar", response_model=schemas.SimilarResponse, responses=_errors)
    async def similar(body: schemas.SimilarRequest) -> Response:
        """List videos near one video in the index or watched by the same viewers, under the rules that hold for everyone."""
        return Json(await run(partial(handlers.similar, body)))

    @routes.get("/trending", response_model=schemas.VideosResponse, responses=_read_errors)
    async def trending(
        surface: schemas.Word | None = None,
        region: schemas.Word | None = None,
        limit: Annotated[int, Query(ge=1, le=schemas.K_MOST)] = schemas.K_DEFAULT,
    ) -> Response:
        """List what is watched most on a surface and in a region, by default everywhere; without a region, only videos that are
        allowed everywhere."""
        return Json(await run(partial(handlers.trending, surface, region, limit)))

    @routes.get("/trace/{request_id}", response_model=schemas.TraceResponse, responses=_path_errors)
    async def trace(request_id: schemas.Word, video_id: schemas.IdWord | None = None) -> Response:
        """Trace one of the last requests through the funnel; with `video_id`, why this video is or is not in the slate."""
        return Json(await run(partial(handlers.trace, request_id, video_id)))

    @routes.get("/parameters", response_model=schemas.ParametersResponse, responses=_read_errors)
    async def parameters(surface: schemas.Word | None = None) -> Response:
        """State in plain words what decides the slates of the serving release on a surface: weights, diversity, sources,
        rules. One without settings of its own has the release's."""
        return Json(handlers.parameters(surface))

    @routes.get("/status", response_model=schemas.StatusResponse, responses=_read_errors)
    async def status() -> Response:
        """State what serves: the release and its verdict, surfaces and regions, and the last report of drift."""
        return Json(await run(partial(handlers.status, drift)))

    @routes.get("/videos", response_model=schemas.VideosResponse, responses=_read_errors)
    async def videos(
        query: Annotated[str, Query(min_length=1, max_length=schemas.SEARCH_CHARACTERS)],
        region: schemas.Word | None = None,
        limit: Annotated[int, Query(ge=1, le=schemas.K_MOST)] = schemas.K_DEFAULT,
    ) -> Response:
        """Find videos by words, or parts of words, of their id, title, creator and tags; all of them must occur."""
        return Json(await run(partial(handlers.search, query, region, limit)))

    # `:path`, because a string id may contain a slash.
    @routes.get("/videos/{video_id:path}", response_model=schemas.VideoResponse, responses=_path_errors)
    async def video(video_id: schemas.IdWord) -> Response:
        """Describe a video, also one that may not be shown."""
        found = await run(partial(handlers.video, video_id))
        return Json(found) if found else problem(404, "unknown_video", f"{shortened(video_id)} is no video of this release")

    @routes.post("/events", response_model=schemas.EventsResponse, responses=_event_errors)
    async def events(body: schemas.EventsRequest) -> Response:
        """Store what viewers were shown and did; the answer means that it is on disk. An outcome counts once, however often its
        key is sent, and so does a video that was shown in a request."""
        counts, unknown = await handlers.outcomes(body, timeout_s=timeout_s)
        return Json(counts) if not unknown else Json({**counts, "error": _unknown(unknown, handlers.release_id)}, 422)

    @routes.get("/viewers", response_model=schemas.ViewersResponse, responses=_read_errors)
    async def viewers(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
        """List viewers with a history, in id order."""
        return Json(await run(partial(handlers.viewers, limit)))

    # `:path`, because a string id may contain a slash.
    @routes.get("/viewers/{user_id:path}/history", response_model=schemas.HistoryResponse, responses=_path_errors)
    async def history(user_id: schemas.IdWord, limit: Annotated[int, Query(ge=1, le=200)] = 30) -> Response:
        """List a viewer's last watches, latest first; none for an unknown viewer."""
        return Json(await run(partial(handlers.history, user_id, limit)))

    @routes.delete("/viewers/{user_id:path}", response_model=schemas.ErasureResponse, responses=_path_errors)
    async def erase(user_id: schemas.IdWord) -> Response:
        """Erase a viewer from the store, precomputed slates, served log and traces; the receipt says what stays, until when."""
        async with erasing:  # one at a time, beside the pool: it reads the whole journal and log
            return Json(await asyncio.to_thread(handlers.erase, user_id))

    return routes


def _batches(batches: BatchCalls) -> APIRouter:
    routes = APIRouter(prefix="/v1", route_class=JsonRoute)

    @routes.post("/recommend:batch", response_model=BatchResponse, responses=_errors)
    async def recommend_batch(body: BatchRequest, request: Request) -> Response:
        """Answer many requests for a slate, each by itself and in order, behind single requests; one that fails has an error of
        its own."""
        return Json(await batches.recommend(body, request, request_id()))

    return routes


def _videos(serving: Serving) -> APIRouter:
    routes = APIRouter(prefix="/v1", route_class=JsonRoute)
    one, unknown = "/videos/{video_id:path}", {404: {"model": schemas.ErrorResponse}}

    @routes.post("/videos", response_model=video_calls.PostedResponse, responses=_video_errors)
    async def add_videos(body: video_calls.VideosRequest) -> Response:
        """Add videos, or replace all that is known of videos; they can be shown from now on, withdrawn ones too. The answer
        means that they are on disk."""
        return Json(await serving.videos.post(body))

    @routes.patch(one, response_model=video_calls.AvailableVideo, responses=_video_errors | unknown)
    async def change_video(video_id: schemas.IdWord, body: video_calls.VideoPatch) -> Response:
        """Change what is named of a video; `available` withdraws it or brings it back."""
        return Json(await serving.videos_of(video_id).change(video_id, body))

    @routes.delete(one, response_model=video_calls.AvailableVideo, responses=_read_errors | unknown)
    async def withdraw_video(video_id: schemas.IdWord) -> Response:
        """Withdraw a video: from now on it is in no answer. It stays known, its events count, and it can be brought back."""
        return Json(await serving.videos_of(video_id).withdraw(video_id))

    return routes


def _unknown(ids: Sequence, release_id: str) -> dict:
    expected = f"a video of release {release_id}"
    details = [{"where": "video_id", "value": shortened(each), "expected": expected} for each in ids[:20]]
    return {
        "code": "unknown_video",
        "message": f"video_id {details[0]['value']} is not in release {release_id}; its events were quarantined",
        "details": details,
    }


def _add_unversioned(app: FastAPI, serving: Serving, served_log, metrics: ServerMetrics) -> None:
    """Add health checks, metrics, the page of the API and the demo page."""

    async def live() -> Response:
        return Json({"status": "live", "release": serving.release_id})

    async def ready() -> Response:
        if serving.store.failed:
            return problem(503, "store", serving.store.failed)
        refused = vars(serving.refused) if serving.refused else None
        lost = {"dropped": served_log.dropped, "failed": served_log.failed}
        return Json({"status": "ready", "release": serving.release_id, "refused": refused, "served_log": lost})

    async def exposition() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def docs() -> Response:
        return Response(rendered(app.openapi()), media_type="text/html", headers=PAGE_HEADERS)

    routes = {"/docs": docs, "/livez": live, "/healthz": live, "/readyz": ready, "/metrics": exposition}
    for file in sorted(PAGE.iterdir()):
        routes["/" if file.name == "index.html" else f"/{file.name}"] = _page(file, serving)
    for path, endpoint in routes.items():
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)


def _page(file: Path, handlers: Serving) -> Callable:
    """Return the endpoint of a file. Pictures from elsewhere are allowed where the release names some, over https alone."""
    content, kind = file.read_bytes(), mimetypes.guess_type(file.name)[0]

    async def page() -> Response:
        policy = PAGE_HEADERS["Content-Security-Policy"] + (" https:" if handlers.has_thumbnails else "")
        return Response(content, media_type=kind, headers={**PAGE_HEADERS, "Content-Security-Policy": policy})

    return page

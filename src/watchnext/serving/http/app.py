"""HTTP: routes, statuses and errors in JSON. What a request means is the desk's; this file holds no other logic."""

import mimetypes
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Response

from watchnext.serving.http import schemas as contract
from watchnext.serving.http.errors import HANDLERS, Json, JsonRoute, json_only, shown
from watchnext.serving.http.handlers import Desk
from watchnext.serving.http.metrics import Instruments
from watchnext.serving.http.middleware import Guard
from watchnext.serving.http.worker_pool import Work

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`threads` work at once and `waiting` more may queue; an answer has `timeout_s`, a body `body_bytes` and `body_s`."""

    threads: int = 2
    waiting: int = 32
    timeout_s: float = 2.0
    body_bytes: int = 1_000_000
    body_s: float = 10.0


_errors = {status: {"model": contract.ErrorResponse} for status in (400, 408, 413, 415, 422, 503)}
_event_errors = {**_errors, 422: {"model": contract.EventsProblem | contract.ErrorResponse}}
_read_errors = {status: _errors[status] for status in (408, 413, 422, 503)}
_path_errors = {**_read_errors, 404: {"model": contract.ErrorResponse}}  # a line break in a path matches no route


def create_app(*, recommender, store, served, clock: Callable[[], int], settings: Settings) -> FastAPI:
    """The ASGI app over a loaded release. `clock()` gives ms; `app.state.close()` lets running work end."""
    instruments = Instruments()
    work = Work(threads=settings.threads, waiting=settings.waiting)
    desk = Desk(recommender=recommender, store=store, served=served, clock=clock, instruments=instruments)
    instruments.gauge("work_taken", "Requests at work or waiting.", lambda: work.taken)
    instruments.gauge("served_log_dropped", "Answers the served log had no room for.", lambda: served.dropped)

    app = FastAPI(title="watchnext", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.close = work.close
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.include_router(_api(desk, partial(work.run, timeout_s=settings.timeout_s), settings.timeout_s))
    _add_plain(app, desk, instruments)
    app.add_middleware(Guard, body_bytes=settings.body_bytes, body_s=settings.body_s, observe=instruments.answered)
    return app


def _api(desk: Desk, run: Callable, timeout_s: float) -> APIRouter:
    routes = APIRouter(prefix="/v1", route_class=JsonRoute)
    posted = {"dependencies": [Depends(json_only)]}

    @routes.post("/recommend", response_model=contract.RecommendResponse, responses=_errors, **posted)
    async def recommend(body: contract.RecommendRequest) -> Response:
        call = partial(desk.recommend, body, request_id=uuid.uuid4().hex, until=time.monotonic() + timeout_s)
        return Json(await run(call))

    @routes.post("/events", response_model=contract.EventsResponse, responses=_event_errors, **posted)
    async def events(body: contract.EventsRequest) -> Response:
        counts, unknown = await run(partial(desk.outcomes, body))
        return Json(counts) if not unknown else Json({**counts, "error": _unknown(unknown, desk.release_id)}, 422)

    @routes.get("/viewers", response_model=contract.ViewersResponse, responses=_read_errors)
    async def viewers(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
        return Json(await run(partial(desk.viewers, limit)))

    # `:path`, as a string id may hold a slash.
    @routes.get("/viewers/{user_id:path}/history", response_model=contract.HistoryResponse, responses=_path_errors)
    async def history(user_id: contract.IdWord, limit: Annotated[int, Query(ge=1, le=200)] = 30) -> Response:
        return Json(await run(partial(desk.history, user_id, limit)))

    return routes


def _unknown(ids: Sequence, release_id: str) -> dict:
    named = [{"where": "video_id", "value": shown(each), "expected": f"a video of release {release_id}"} for each in ids[:20]]
    return {
        "code": "unknown_video",
        "message": f"video_id {named[0]['value']} is not in release {release_id}; kept aside",
        "details": named,
    }


def _add_plain(app: FastAPI, desk: Desk, instruments: Instruments) -> None:
    """Health, metrics and the page."""

    async def live() -> Response:
        return Json({"status": "live"})

    async def ready() -> Response:
        return Json({"status": "ready", "release": desk.release_id})

    async def metrics() -> Response:
        return Response(instruments.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    answers = {"/livez": live, "/readyz": ready, "/metrics": metrics}
    answers |= {"/" if file.name == "index.html" else f"/{file.name}": _page(file) for file in sorted(PAGE.iterdir())}
    for path, answer in answers.items():
        app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)


def _page(file: Path) -> Callable:
    content, kind = file.read_bytes(), mimetypes.guess_type(file.name)[0]

    async def page() -> Response:
        return Response(content, media_type=kind, headers=PAGE_HEADERS)

    return page

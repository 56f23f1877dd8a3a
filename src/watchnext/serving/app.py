"""HTTP: routes, statuses and errors in JSON. What a request means is the desk's; this file holds no other logic."""

import mimetypes
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from watchnext.serving import contract
from watchnext.serving.desk import Desk
from watchnext.serving.guard import Guard
from watchnext.serving.instruments import Instruments
from watchnext.serving.work import OverloadedError, TooSlowError, Work

PAGE = Path(__file__).parent / "page"
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
SHOWN_CHARACTERS = 200  # of a refused value, in an error


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`threads` work at once and `waiting` more may queue; an answer has `timeout_s`, a body `body_bytes` and `body_s`."""

    threads: int = 2
    waiting: int = 32
    timeout_s: float = 2.0
    body_bytes: int = 1_000_000
    body_s: float = 10.0


# ---- JSON in -----------------------------------------------------------------------------------------------------------


class _JsonRequest(Request):
    """Parses with orjson: unlike the standard library it refuses NaN, and lone surrogates that no store could write."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class _JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handler


def _json_only(request: Request) -> None:
    # Also what keeps other sites out: a browser sends this type across origins only after asking, and is not allowed.
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"Content-Type is {_shown(given)}, expected application/json")


# ---- JSON out ----------------------------------------------------------------------------------------------------------


class _Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _problem(status: int, code: str, message: str, *, details: Sequence = (), headers: dict | None = None) -> _Json:
    return _Json({"error": {"code": code, "message": message, "details": list(details)}}, status, headers)


def _invalid(_: Request, error: RequestValidationError) -> Response:
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        return _problem(
            400, "bad_json", f"the body is no JSON ({found[0]['ctx']['error']}), expected one JSON object without NaN"
        )
    details = [
        {"where": ".".join(map(str, one["loc"])), "value": _shown(one.get("input")), "expected": one["msg"]}
        for one in found[:20]
    ]
    first = details[0]
    return _problem(422, "invalid", f"{first['where']} is {first['value']}: {first['expected']}", details=details)


def _refused(_: Request, error: HTTPException) -> Response:
    return _problem(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)


def _busy(_: Request, error: Exception) -> Response:
    code = "overloaded" if isinstance(error, OverloadedError) else "too_slow"
    return _problem(503, code, f"{error}; try again", headers={"Retry-After": "1"})


def _failed(_: Request, error: Exception) -> Response:
    return _problem(500, "failed", "the server failed at this request; its log says why")


_errors = {status: {"model": contract.ErrorResponse} for status in (400, 408, 413, 415, 422, 503)}
_event_errors = {**_errors, 422: {"model": contract.EventsProblem | contract.ErrorResponse}}
_read_errors = {status: _errors[status] for status in (408, 413, 422, 503)}

# ---- routes ------------------------------------------------------------------------------------------------------------


def create_app(*, recommender, store, served, clock: Callable[[], int], settings: Settings) -> FastAPI:
    """The ASGI app over a loaded release. `clock()` gives ms; `app.state.close()` lets running work end."""
    instruments = Instruments()
    work = Work(threads=settings.threads, waiting=settings.waiting)
    desk = Desk(recommender=recommender, store=store, served=served, clock=clock, instruments=instruments)
    instruments.gauge("work_taken", "Requests at work or waiting.", lambda: work.taken)
    instruments.gauge("served_log_dropped", "Answers the served log had no room for.", lambda: served.dropped)

    app = FastAPI(title="watchnext", version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.close = work.close
    handlers = {
        RequestValidationError: _invalid,
        HTTPException: _refused,
        OverloadedError: _busy,
        TooSlowError: _busy,
        Exception: _failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    app.include_router(_api(desk, partial(work.run, timeout_s=settings.timeout_s), settings.timeout_s))
    _add_plain(app, desk, instruments)
    app.add_middleware(Guard, body_bytes=settings.body_bytes, body_s=settings.body_s, observe=instruments.answered)
    return app


def _api(desk: Desk, run: Callable, timeout_s: float) -> APIRouter:
    routes = APIRouter(prefix="/v1", route_class=_JsonRoute)
    posted = {"dependencies": [Depends(_json_only)]}

    @routes.post("/recommend", response_model=contract.RecommendResponse, responses=_errors, **posted)
    async def recommend(body: contract.RecommendRequest) -> Response:
        call = partial(desk.recommend, body, request_id=uuid.uuid4().hex, until=time.monotonic() + timeout_s)
        return _Json(await run(call))

    @routes.post("/events", response_model=contract.EventsResponse, responses=_event_errors, **posted)
    async def events(body: contract.EventsRequest) -> Response:
        counts, unknown = await run(partial(desk.outcomes, body))
        return _Json(counts) if not unknown else _Json({**counts, "error": _unknown(unknown, desk.release_id)}, 422)

    @routes.get("/viewers", response_model=contract.ViewersResponse, responses=_read_errors)
    async def viewers(limit: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
        return _Json(await run(partial(desk.viewers, limit)))

    # `:path`, as a string id may hold a slash.
    @routes.get("/viewers/{user_id:path}/history", response_model=contract.HistoryResponse, responses=_read_errors)
    async def history(user_id: contract.Word, limit: Annotated[int, Query(ge=1, le=200)] = 30) -> Response:
        return _Json(await run(partial(desk.history, user_id, limit)))

    return routes


def _unknown(ids: Sequence, release_id: str) -> dict:
    named = [{"where": "video_id", "value": _shown(each), "expected": f"a video of release {release_id}"} for each in ids[:20]]
    return {
        "code": "unknown_video",
        "message": f"video_id {named[0]['value']} is not in release {release_id}; kept aside",
        "details": named,
    }


def _add_plain(app: FastAPI, desk: Desk, instruments: Instruments) -> None:
    """Health, metrics and the page."""

    async def live() -> Response:
        return _Json({"status": "live"})

    async def ready() -> Response:
        return _Json({"status": "ready", "release": desk.release_id})

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

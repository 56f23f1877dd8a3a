"""Parse and render JSON, and answer every error as `{"error": {code, message, details}}`."""

import logging
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from reprlib import Repr
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from watchnext.serving.funnel.query import FieldError
from watchnext.serving.http.api.handlers import IdKindError, UnknownRequestError
from watchnext.serving.http.api.schemas import EVENT_TYPES, KINDS
from watchnext.serving.http.worker_pool import OverloadedError, TooSlowError
from watchnext.serving.store.engines.engine import StoreDownError, StoreError
from watchnext.serving.store.group_commit import StoreBusyError
from watchnext.serving.store.tables.live_videos import CatalogueFullError

log = logging.getLogger(__name__)
SHOWN_CHARACTERS = 200  # of a rejected value in an error, and of the path to it
VALUES_MOST = 50_000  # of a JSON body: parsing and checking it holds up the event loop
SHORT = Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = SHOWN_CHARACTERS

# ---- JSON in -----------------------------------------------------------------------------------------------------------


def parsed(body: bytes) -> Any:
    """Parse with orjson: unlike the standard library, it rejects NaN, and lone surrogates that no store could write."""
    values = sum(map(body.count, (b",", b"[", b"{")))  # or more, where texts hold these
    if values > VALUES_MOST:
        raise HTTPException(413, f"request body has {values} values, expected at most {VALUES_MOST}")
    return orjson.loads(body)


class JsonRequest(Request):
    async def json(self) -> Any:
        return parsed(await self.body())


class JsonRoute(APIRoute):
    """Take bodies of JSON alone, and declared query parameters once each. As a dependency, this would cost each request a
    thread."""

    def get_route_handler(self) -> Callable:
        handle, names = super().get_route_handler(), {field.alias for field in self.dependant.query_params}

        async def handler(request: Request) -> Response:
            if request.scope["query_string"]:
                known_once(request, names)
            if self.body_field is not None:
                json_only(request)
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def json_only(request: Request) -> None:
    """Reject other content types. This also keeps other sites out: a browser sends this type to another origin only after a
    preflight request, which the app does not allow."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"Content-Type is {shortened(given)}, expected application/json")


def known_once(request: Request, names: Collection[str]) -> None:
    """Reject a query parameter that is not one of `names`, or that is given twice: FastAPI would ignore it in silence."""
    given = set()
    for name, value in request.query_params.multi_items():
        if name in given or name not in names:
            known = f"the route knows {', '.join(sorted(names)) or 'none'}"
            expected = "a parameter may be given once" if name in given else f"unknown parameter, {known}"
            raise RequestValidationError([{"type": "extra_forbidden", "loc": ("query", name), "msg": expected, "input": value}])
        given.add(name)


# ---- JSON out ----------------------------------------------------------------------------------------------------------


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def shortened(value: Any) -> str:
    """Write a value as Python does, cut to SHOWN_CHARACTERS; of a list or an object only the first items."""
    return _cut(SHORT.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _detail(one: Mapping) -> dict[str, str]:
    """Describe one rejected field: where it is, its value, and the expectation.

    For a missing field, pydantic gives the value of the object around it. The path to a field of two kinds ends with the kind,
    and that into an event has its type behind its number.
    """
    path = one["loc"][:-1] if one["loc"][-1] in KINDS and one["type"] != "extra_forbidden" else one["loc"]
    if path[:2] == ("body", "events") and path[3:4] and path[3] in EVENT_TYPES:
        path = (*path[:3], *path[4:])
    value = "missing" if one["type"] == "missing" else shortened(one.get("input"))
    return {"where": _cut(".".join(map(str, path))), "value": value, "expected": one["msg"]}


def problem(status: int, code: str, message: str, *, details: Sequence = (), headers: dict | None = None) -> Json:
    """Make the answer to a request that failed."""
    return Json({"error": {"code": code, "message": message, "details": list(details)}}, status, headers)


def _invalid(_: Request, error: RequestValidationError) -> Response:
    problems = error.errors()
    if problems[0]["type"] == "json_invalid":
        cause = problems[0]["ctx"]["error"]
        return problem(400, "bad_json", f"request body is not valid JSON ({cause}), expected one JSON object without NaN")
    details = [_detail(one) for one in problems[:20]]
    first = details[0]
    return problem(422, "invalid", f"{first['where']} is {first['value']}: {first['expected']}", details=details)


def _http_error(_: Request, error: HTTPException) -> Response:
    return problem(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)


def _busy(_: Request, error: Exception) -> Response:
    code = "overloaded" if isinstance(error, OverloadedError) else "too_slow"
    return problem(503, code, f"{error}; retry", headers={"Retry-After": "1"})


def _not_stored(_: Request, error: StoreError) -> Response:
    log.error("no events were stored: %s", error)
    code = "overloaded" if isinstance(error, StoreBusyError) else "store"
    unknown = "whether the events were stored is not known; retry the whole request: those with a key count once"
    message = unknown if isinstance(error, StoreDownError) else "no events were stored; retry the whole request"
    return problem(503, code, message, headers={"Retry-After": "1"})


def _catalogue_full(_: Request, error: CatalogueFullError) -> Response:
    return problem(507, "catalogue_full", str(error))


def _failed(request: Request, error: Exception) -> Response:
    request_id = request.scope.get("state", {}).get("request_id") or uuid.uuid4().hex  # the traceback follows in the log
    log.error("internal error at %s %s (request id %s): %r", request.method, shortened(request.url.path), request_id, error)
    return problem(500, "failed", f"internal error; see the server log (request id {request_id})")


def _wrong_id_kind(_: Request, error: IdKindError) -> Response:
    detail = {"where": error.where, "value": shortened(error.value), "expected": error.expected}
    message = f"{detail['where']} is {detail['value']}: expected {error.expected}"
    return problem(error.status, error.code, message, details=[detail])


def _useless_field(_: Request, error: FieldError) -> Response:
    return problem(422, "invalid", f"body.{error}")


def _unknown_request(_: Request, error: UnknownRequestError) -> Response:
    return problem(404, "unknown_request", str(error))


EXCEPTION_HANDLERS = {
    RequestValidationError: _invalid,
    HTTPException: _http_error,
    OverloadedError: _busy,
    TooSlowError: _busy,
    StoreError: _not_stored,
    CatalogueFullError: _catalogue_full,
    FieldError: _useless_field,
    IdKindError: _wrong_id_kind,
    UnknownRequestError: _unknown_request,
    Exception: _failed,
}


def in_loop(handler: Callable[[Request, Exception], Response]) -> Callable:
    """Return a handler that answers on the event loop. Starlette would give each refusal a thread, too much under overload."""

    async def handle(request: Request, error: Exception) -> Response:
        return handler(request, error)

    return handle


def answer_to(request: Request, error: Exception) -> Response:
    """Return the answer that the app gives to an error; one that no handler names goes to the log with its traceback."""
    kind = next(kind for kind in type(error).__mro__ if kind in EXCEPTION_HANDLERS)
    if kind is Exception:
        log.error("a request of a batch failed", exc_info=error)
    return EXCEPTION_HANDLERS[kind](request, error)

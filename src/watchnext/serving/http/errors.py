"""JSON on the wire: bodies in, answers out, and every error as `{"error": {code, message, details}}`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from reprlib import Repr
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from watchnext.serving.funnel.query import ContextError
from watchnext.serving.http.handlers import IdKindError
from watchnext.serving.http.schemas import KINDS
from watchnext.serving.http.worker_pool import OverloadedError, TooSlowError
from watchnext.serving.store.environment import StoreError

log = logging.getLogger(__name__)
SHOWN_CHARACTERS = 200  # of a refused value, in an error, and of the path to it
SHORT = Repr()
SHORT.maxstring = SHORT.maxlong = SHORT.maxother = SHOWN_CHARACTERS

# ---- JSON in -----------------------------------------------------------------------------------------------------------


class JsonRequest(Request):
    """Parses with orjson: unlike the standard library it refuses NaN, and lone surrogates that no store could write."""

    async def json(self) -> Any:
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    def get_route_handler(self) -> Callable:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def json_only(request: Request) -> None:
    # Also what keeps other sites out: a browser sends this type across origins only after asking, and is not allowed.
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, f"Content-Type is {shown(given)}, expected application/json")


# ---- JSON out ----------------------------------------------------------------------------------------------------------


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def shown(value: Any) -> str:
    """A value as Python writes it, of a list or an object its first items."""
    return _cut(SHORT.repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _detail(one: Mapping) -> dict[str, str]:
    """The field that was refused, its value, and what was expected. pydantic gives a missing field the value of all around it,
    and the path to a field of two kinds one step more, the kind."""
    path = one["loc"][:-1] if one["loc"][-1] in KINDS and one["type"] != "extra_forbidden" else one["loc"]
    value = "missing" if one["type"] == "missing" else shown(one.get("input"))
    return {"where": _cut(".".join(map(str, path))), "value": value, "expected": one["msg"]}


def _problem(status: int, code: str, message: str, *, details: Sequence = (), headers: dict | None = None) -> Json:
    return Json({"error": {"code": code, "message": message, "details": list(details)}}, status, headers)


def _invalid(_: Request, error: RequestValidationError) -> Response:
    found = error.errors()
    if found[0]["type"] == "json_invalid":
        return _problem(
            400, "bad_json", f"the body is no JSON ({found[0]['ctx']['error']}), expected one JSON object without NaN"
        )
    details = [_detail(one) for one in found[:20]]
    first = details[0]
    return _problem(422, "invalid", f"{first['where']} is {first['value']}: {first['expected']}", details=details)


def _refused(_: Request, error: HTTPException) -> Response:
    return _problem(error.status_code, f"http_{error.status_code}", str(error.detail), headers=error.headers)


def _busy(_: Request, error: Exception) -> Response:
    code = "overloaded" if isinstance(error, OverloadedError) else "too_slow"
    return _problem(503, code, f"{error}; try again", headers={"Retry-After": "1"})


def _unwritten(_: Request, error: StoreError) -> Response:
    log.error("events were not taken: %s", error)
    message = "the store took nothing, none of the events counted; send them again"
    return _problem(503, "store", message, headers={"Retry-After": "1"})


def _failed(_: Request, error: Exception) -> Response:
    return _problem(500, "failed", "the server failed at this request; its log says why")


def _other_kind(_: Request, error: IdKindError) -> Response:
    detail = {"where": error.where, "value": shown(error.value), "expected": error.expected}
    return _problem(422, "invalid", f"{detail['where']} is {detail['value']}: expected {error.expected}", details=[detail])


def _undeclared(_: Request, error: ContextError) -> Response:
    return _problem(422, "invalid", f"body.{error}")


HANDLERS = {
    RequestValidationError: _invalid,
    HTTPException: _refused,
    OverloadedError: _busy,
    TooSlowError: _busy,
    StoreError: _unwritten,
    ContextError: _undeclared,
    IdKindError: _other_kind,
    Exception: _failed,
}

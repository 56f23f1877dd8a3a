"""Bound the size and time of request bodies, and count every answer by route: the outermost ASGI layer."""

import asyncio
import logging
import time
import uuid
import zlib
from collections.abc import Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from watchnext.serving.http.api.errors import problem, shortened

HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
CLOSE = {"connection": "close"}  # of a refused request: the rest of its body is not read
GZIP = 16 + zlib.MAX_WBITS  # zlib: expect a gzip header
ACCESS = logging.getLogger("watchnext.answers")
_REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
Observe = Callable[[str, int, float], None]  # route template, status, seconds


class _TooLargeError(Exception):
    """A body above the limit."""


def request_id() -> str | None:
    """Return the id of the request that this code runs for, None outside of one."""
    return _REQUEST_ID.get()


def begin() -> str:
    """Give the request that this code runs for an id."""
    named = uuid.uuid4().hex
    _REQUEST_ID.set(named)
    return named


def headers_of(named: str) -> list[tuple[bytes, bytes]]:
    """Return the headers that the answer to the request with this id has beside its own."""
    return [*HEADERS, (b"x-request-id", named.encode())]


def account(observe: Observe, *, route: str, method: str, status: int, seconds: float, key: str | None = None) -> None:
    """Count an answer, and log it where each answer has a line."""
    observe(route, status, seconds)
    if ACCESS.isEnabledFor(logging.INFO):
        facts = {"route": route, "method": method, "status": status, "ms": round(1000 * seconds, 3), "key": key}
        ACCESS.info("answered", extra={"answer": facts})


class RequestMiddleware:
    """Give every request an id, measure its answer, and add the headers that keep a browser from guessing."""

    def __init__(self, app: ASGIApp, *, observe: Observe) -> None:
        self._app, self._observe = app, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, named = time.perf_counter(), 500, begin()
        scope.setdefault("state", {})["request_id"] = named

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *headers_of(named)]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            # The template, never the path: each junk path would stay in /metrics for good.
            route = getattr(scope.get("route"), "path", "unmatched")
            about = {"route": route, "method": scope["method"], "status": status, "seconds": time.perf_counter() - began}
            account(self._observe, **about, key=scope.get("state", {}).get("key"))


class BodyMiddleware:
    """Read the whole body (at most `body_bytes`, within `body_s`) and pass it on as one message; gzip is inflated.

    Without this limit, a chunked body, which declares no length, would fill the memory.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, body_s: float) -> None:
        self._app, self._body_bytes, self._body_s = app, body_bytes, body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._bounded if scope["type"] == "http" else self._app)(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._body(scope, receive)
        except TimeoutError:
            message = f"request body did not arrive, expected all of it within {self._body_s:g} s"
            await problem(408, "slow_body", message, headers=CLOSE)(scope, receive, send)
        except _TooLargeError as error:
            await problem(413, "too_large", str(error), headers=CLOSE)(scope, receive, send)
        else:
            if body is not None:
                await self._decoded(body, scope, receive, send)

    async def _decoded(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the body, inflated where it is compressed."""
        encoding = dict(scope["headers"]).get(b"content-encoding", b"identity").lower()
        if encoding not in (b"identity", b"gzip"):
            message = f"Content-Encoding is {shortened(encoding.decode('latin-1'))}, expected gzip, or none"
            await problem(415, "encoding", message, headers={"Accept-Encoding": "gzip"})(scope, receive, send)
            return
        try:
            body = self._inflated(body) if encoding == b"gzip" else body
        except _TooLargeError as error:
            await problem(413, "too_large", f"inflated, the {error}")(scope, receive, send)
        except zlib.error as error:
            await problem(400, "bad_gzip", f"request body is not valid gzip ({error}), expected one")(scope, receive, send)
        else:
            await self._app(scope, replayed(body, receive), send)

    def _inflated(self, body: bytes) -> bytes:
        """Inflate to at most the limit: a few bytes may hold gigabytes. Raises zlib.error, also for what follows the end."""
        inflater = zlib.decompressobj(wbits=GZIP)
        inflated = inflater.decompress(body, self._body_bytes + 1)
        self._check(len(inflated))
        if not inflater.eof or inflater.unused_data:
            raise zlib.error("it is cut short, or more follows its end")
        return inflated

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, or None when the client has disconnected."""
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit():
            self._check(int(declared))
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            self._check(size)
            more = message.get("more_body", False)
        return b"".join(parts)

    def _check(self, size: int) -> None:
        if size > self._body_bytes:
            raise _TooLargeError(f"request body has {size} bytes or more, expected at most {self._body_bytes}")


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body as one message, then what the server sends (a disconnect)."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay

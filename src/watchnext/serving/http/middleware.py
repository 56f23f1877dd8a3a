"""Bound the size and time of request bodies, and count every answer by route: the outermost ASGI layer."""

import asyncio
import time
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
Observe = Callable[[str, int, float], None]  # route template, status, seconds


class _RefusedError(Exception):
    """A body that is not accepted, with its HTTP status and error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class RequestMiddleware:
    """Read the whole body (at most `body_bytes`, within `body_s`) and pass it on as one message.

    Without this limit, a chunked body, which declares no length, would fill the memory.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, body_s: float, observe: Observe) -> None:
        self._app, self._body_bytes, self._body_s, self._observe = app, body_bytes, body_s, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self._bounded(scope, receive, send_counted)
        finally:
            # The template, never the path: each junk path would stay in /metrics for good.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._observe(route, status, time.perf_counter() - began)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._body(scope, receive)
        except TimeoutError:
            await _refuse(
                send,
                _RefusedError(408, "slow_body", f"request body did not arrive, expected all of it within {self._body_s:g} s"),
            )
            return
        except _RefusedError as refused:
            await _refuse(send, refused)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

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
            raise _RefusedError(413, "too_large", f"request body has {size} bytes or more, expected at most {self._body_bytes}")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body as one message, then what the server sends (a disconnect)."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _refuse(send: Send, refused: _RefusedError) -> None:
    body = orjson.dumps({"error": {"code": refused.code, "message": str(refused), "details": []}})
    # The rest of the body is not read, so the connection cannot be reused.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

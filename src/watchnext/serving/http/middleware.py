"""The outermost layer: bodies are bounded in size and time before anything looks at them, every answer is counted by route."""

import asyncio
import time
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
Observe = Callable[[str, int, float], None]  # route template, status, seconds


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Guard:
    """ASGI middleware. Reads a body whole (at most `body_bytes`, within `body_s`) and hands it on as one message.

    Without it a chunked body, which declares no length, would be collected until memory ends.
    """

    def __init__(self, app: ASGIApp, *, body_bytes: int, body_s: float, observe: Observe) -> None:
        self._app, self._body_bytes, self._body_s, self._observe = app, body_bytes, body_s, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        try:
            await self._guarded(scope, receive, noted)
        finally:
            # The template, never the path: junk paths would each leave lines in /metrics for good.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._observe(route, status, time.perf_counter() - began)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._body(scope, receive)
        except TimeoutError:
            await _refuse(
                send, _RefusedError(408, "slow_body", f"the body did not arrive, expected all of it within {self._body_s:g} s")
            )
            return
        except _RefusedError as refused:
            await _refuse(send, refused)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None when the client has gone."""
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
            raise _RefusedError(413, "too_large", f"the body has {size} bytes or more, expected at most {self._body_bytes}")


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as the first message; what follows (a disconnect) comes from the server."""
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _refuse(send: Send, refused: _RefusedError) -> None:
    body = orjson.dumps({"error": {"code": refused.code, "message": str(refused), "details": []}})
    # The rest of the body is not read, so the connection cannot be used again.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

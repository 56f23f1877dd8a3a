"""Bound a connection from its first byte: sockets in number; head, framing and unread answers in size and time."""

import asyncio
import http
from typing import ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from watchnext.serving.http.app import Limits


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under `limits`. What breaks one is answered with 4xx or 503, and its connection ends.

    uvicorn itself ends a connection that is silent between two requests, and stops reading what the app does not take.
    """

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.ws_protocol_class = None  # the app speaks no WebSocket
        self._in_head = True
        self._received = 0  # bytes of the message that is being parsed, without those of the chunk in which it began
        self._refusal = (400, "bad_http", "the request is not valid HTTP/1.1")
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        most = self.limits.connections
        if len(self.connections) > most:
            self._refuse(503, "connections", f"{most} connections are open, expected at most as many; retry")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)
        # A body has its own limit, in the app; twice as much is framing: chunks of a byte, extensions, trailers.
        most = self.limits.head_bytes if self._in_head else self.limits.head_bytes + 2 * self.limits.body_bytes
        if self._received > most and not self.transport.is_closing():
            self._refuse(431, "large_head", f"head or framing has {self._received} bytes or more, expected at most {most}")

    # ---- the parser's callbacks --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._received = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers:  # trailers too
            self._reject(431, "large_head", f"the request has more headers, expected at most {self.limits.headers}")

    def on_headers_complete(self) -> None:
        size, most = len(self.url) + sum(len(name) + len(value) for name, value in self.headers), self.limits.head_bytes
        if size > most:
            self._reject(431, "large_head", f"the head has {size} bytes, expected at most {most}")
        if len(self.pipeline) >= self.limits.pipelined:
            most = self.limits.pipelined
            self._reject(400, "pipelined", f"{most} requests wait behind another, expected at most as many on one connection")
        self._in_head = False
        self._head_timer = _cancelled(self._head_timer)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head, self._received = True, 0

    def _reject(self, status: int, code: str, message: str) -> None:
        """Stop the parser, which calls `send_400_response`."""
        self._refusal = (status, code, message)
        raise ValueError(message)

    def send_400_response(self, msg: str) -> None:
        self._refuse(*self._refusal)

    # ---- time --------------------------------------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._end_within_write_s()
        elif self.cycle.response_complete:
            self._await_head()

    def _await_head(self) -> None:
        """Give the next head its time, which counts from the answer before it: a byte now and then does not win more."""
        _cancelled(self._head_timer)
        self._head_timer = self.loop.call_later(self.limits.head_s, self._late_head)

    def _late_head(self) -> None:
        if not self.transport.is_closing():
            expected = f"expected all of it within {self.limits.head_s:g} s"
            self._refuse(408, "slow_head", f"the head of a request did not arrive, {expected}")

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._end_within_write_s()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._end_within_write_s()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._write_timer = _cancelled(self._write_timer)

    def _end_within_write_s(self) -> None:
        """End a connection whose client does not read its answer: closing alone would wait for it."""
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_s, self.transport.abort)

    def _refuse(self, status: int, code: str, message: str) -> None:
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # in the middle of another answer
            return
        body = orjson.dumps({"error": {"code": code, "message": message, "details": []}})
        head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n" + ("retry-after: 1\r\n" if status == 503 else "")
        self.transport.write(f"{head}\r\n".encode() + body)
        self.transport.close()
        self._end_within_write_s()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()

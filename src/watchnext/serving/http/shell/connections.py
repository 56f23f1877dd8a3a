"""Bound a connection from its first byte: sockets in number; head, framing and unread answers in size and time."""

import asyncio
import http
from typing import ClassVar

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from watchnext.serving.http.access.look_ups import LookUps
from watchnext.serving.http.access.shedding import ROUTE, Shedding
from watchnext.serving.http.app import Limits

# Headers of a request for a slate that only the app can answer: the body is not plain, or the answer needs headers of its own.
FOR_THE_APP = {b"content-encoding", b"origin"}
ROUTE_URL = ROUTE.encode()
HELD_S = 1.0  # many clients send a body behind its head; one that takes longer is the app's


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol under `limits`. What breaks one is answered with 4xx or 503, and its connection ends.

    Requests for a slate that `look_ups` answers or `shedding` refuses never reach the app; their connections stay. uvicorn
    itself ends a connection that is silent between two requests, and stops reading what the app does not take.
    """

    limits: ClassVar[Limits] = Limits()
    look_ups: ClassVar[LookUps | None] = None
    shedding: ClassVar[Shedding | None] = None

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.ws_protocol_class = None  # the app speaks no WebSocket
        self._in_head = True
        self._fields = 0  # headers and trailers of the message
        self._received = 0  # bytes of the message that is being parsed, without those of the chunk in which it began
        self._held: bytearray | None = None  # body of a request that the app has not been given yet
        self._refusal = (400, "bad_http", "the request is not valid HTTP/1.1")
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._held_timer: asyncio.TimerHandle | None = None

    # ---- the connection ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        most = self.limits.connections
        if len(self.connections) > most:
            self._refuse(503, "connections", f"{most} connections are open, expected at most as many; retry")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer, self._held_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._received += len(data)
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            if len(self._held) > self.limits.head_bytes:
                self._let_go()
            elif self._held_timer is None:
                self._held_timer = self.loop.call_later(HELD_S, self._let_go)
        # A body has its own limit, in the app; twice as much is framing: chunks of a byte, extensions, trailers.
        most = self.limits.head_bytes if self._in_head else self.limits.head_bytes + 2 * self.limits.body_bytes
        if self._received > most and not self.transport.is_closing():
            self._refuse(431, "large_head", f"head or framing has {self._received} bytes or more, expected at most {most}")

    # ---- the parser's callbacks --------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._received, self._fields = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._in_head:  # what follows a body is no header: the gate would take a host or a key from it
            super().on_header(name, value)
        if self._fields > self.limits.headers:
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
        if self._may_be_held():
            self.scope |= {"method": "POST", "path": ROUTE, "query_string": b""}
            self._held = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        self._in_head, self._received = True, 0
        if self._held is not None:
            if (answer := self._answer_to(bytes(self._held))) is not None:
                self._held, self._held_timer = None, _cancelled(self._held_timer)
                self.transport.write(answer)
                self.on_response_complete()
                return
            self._let_go()
        super().on_message_complete()

    def _answer_to(self, body: bytes) -> bytes | None:
        """Return the answer to the request that is held, or None where the app is to give it."""
        if self.look_ups is not None and (found := self.look_ups.answer(self.scope, body)) is not None:
            headers = (*self.server_state.default_headers, *found.raw_headers)
            return b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (b"".join([b"%b: %b\r\n" % each for each in headers]), found.body)
        if self.shedding is not None and self.shedding.is_due and (why := self.shedding.refusal(body)) is not None:
            return _answer(503, "overloaded", f"{why}; retry")
        return None

    def _may_be_held(self) -> bool:
        """Say if the request is one for a slate that can be answered here: nothing is before it on its connection, and the
        client takes its answers."""
        return (
            self.url == ROUTE_URL
            and (self.look_ups is not None or self.shedding is not None)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self.expect_100_continue
            and FOR_THE_APP.isdisjoint([name for name, _ in self.headers])
        )

    def _let_go(self) -> None:
        """Give the request to the app, which bounds the rest of its body."""
        held, self._held, self._held_timer = self._held, None, _cancelled(self._held_timer)
        if not self.transport.is_closing():
            super().on_headers_complete()
            super().on_body(held)

    def shutdown(self) -> None:
        if self._held is not None:
            self._let_go()
        super().shutdown()

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
        elif self.cycle is None or self.cycle.response_complete:
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
        self.transport.write(_answer(status, code, message, close=True))
        self.transport.close()
        self._end_within_write_s()


def _answer(status: int, code: str, message: str, *, close: bool = False) -> bytes:
    body = orjson.dumps({"error": {"code": code, "message": message, "details": []}})
    head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    head += ("connection: close\r\n" if close else "") + ("retry-after: 1\r\n" if status == 503 else "")
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()

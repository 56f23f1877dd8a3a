"""Requests for a slate that no thread can take are refused at their connection, and nothing else is."""

import asyncio
import gzip
import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import orjson
import pytest
from sockets import GET, answer, echo, serving

from watchnext.serving.http.access.shedding import Shedding
from watchnext.serving.http.app import Limits
from watchnext.serving.http.worker_pool import WorkerPool

ROUTE = "/v1/recommend"


def post(body: bytes, *headers: str, path: str = ROUTE) -> bytes:
    head = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        *headers,
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


ASKED = b'{"user_id": 7, "k": 10}'
LAST = post(b"bye", "Connection: close", path="/last")  # answered by the app, and ends the connection


@contextmanager
def shedding(running: int, *, app=echo, threads: int = 1, waiting: int = 4, wait_s: float = 60.0):
    """Run a server whose pool has so many calls; gives port, server, what was observed, and the gate that ends the calls."""
    pool, gate, observed = WorkerPool(threads=threads, waiting=waiting, wait_s=wait_s), threading.Event(), []

    async def crowd():
        await asyncio.gather(*(pool.run(gate.wait, timeout_s=60) for _ in range(running)))

    with ThreadPoolExecutor(1) as executor:
        held = executor.submit(asyncio.run, crowd())
        while pool.in_use < running:
            time.sleep(0.001)
        try:
            refuse = Shedding(pool, lambda *observation: observed.append(observation))
            with serving(Limits(), app, shedding=refuse) as (port, server):
                yield port, server, observed, gate
        finally:
            gate.set()
            held.result()
            pool.close()


@pytest.fixture(scope="module")
def full():
    with shedding(5) as (port, server, observed, _):
        yield port, server, observed


def test_refused_requests_are_answered_and_counted_and_keep_their_connection(full):
    port, _, observed = full
    observed.clear()
    got = answer(port, post(ASKED), post(ASKED) + post(ASKED), LAST)
    refused, last = got.split(b"HTTP/1.1 200 OK")
    assert last.endswith(b"bye")
    assert refused.count(b"HTTP/1.1 503 Service Unavailable\r\n") == refused.count(b"retry-after: 1\r\n") == 3
    head, body = refused.split(b"HTTP/1.1")[1].split(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    error = {"code": "overloaded", "message": "5 requests are running or waiting, expected at most 5; retry", "details": []}
    assert orjson.loads(body) == {"error": error}
    assert observed == [(ROUTE, 503, 0.0)] * 3


def test_a_refused_request_has_a_line_in_the_log_of_answers(full, caplog):
    with caplog.at_level(logging.INFO, logger="watchnext.answers"):
        answer(full[0], post(ASKED), LAST)
    assert [line.answer for line in caplog.records if line.name == "watchnext.answers"] == [
        {"route": ROUTE, "method": "POST", "status": 503, "ms": 0.0, "key": None}
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [post(b'{"user_id": 7, "mode": "precomputed"}')],
        [post(b'{"user_id": 7, "mode":"auto"}')],
        [post(b'{"user_id": 7, "priority": "high"}')],
        [post(gzip.compress(ASKED), "Content-Encoding: gzip")],
        [post(ASKED, "Origin: https://page.example")],
        [post(ASKED, "Connection: close")],
        [post(b"[1]")],
        [post(b"")],
        [post(ASKED, path="/v1/recommend?k=3")],
        [post(ASKED, path="/v1/events")],
        [post(ASKED[:-1] + b" " * 20_000 + b"}")[:-3], b"  }"],
    ],
)
def test_what_may_be_answered_all_the_same_reaches_the_app(full, chunks):
    assert in_parts(full[0], chunks).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("behind", [3, len(ASKED)])
def test_a_body_behind_its_head_is_refused_as_one_in_one_piece(full, behind):
    request = post(ASKED)
    assert in_parts(full[0], [request[:-behind], request[-behind:]]).startswith(b"HTTP/1.1 503")


def in_parts(port: int, chunks) -> bytes:
    """Return the start of the answer to a request that is sent in parts."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for chunk in chunks:
            connection.sendall(chunk)
            time.sleep(0.05 if len(chunks) > 1 else 0.0)
        return connection.recv(65536)


def test_other_methods_reach_the_app(full):
    assert b"200 OK" in answer(full[0], GET.replace(b"/livez", ROUTE.encode()) + b"\r\n", LAST)


@pytest.mark.parametrize(("running", "refused"), [(0, []), (2, []), (3, ["low"]), (4, ["low"]), (5, ["low", "normal"])])
def test_low_priority_is_refused_first(running, refused):
    with shedding(running) as (port, _, _, gate):
        for priority in ("low", "normal", "high"):
            got = answer(port, post(b'{"priority": "%b"}' % priority.encode()), LAST)
            assert (b" 503 " in got) == (priority in refused)
        gate.set()
        while b" 503 " in answer(port, post(b'{"priority": "low"}'), LAST):
            time.sleep(0.001)


def test_a_queue_that_does_not_move_is_closed_before_it_is_full():
    with shedding(2, wait_s=0.1) as (port, _, _, _):
        time.sleep(0.15)
        assert b"s for a thread, expected at most 0.1 s; retry" in answer(port, post(ASKED), LAST)


def test_an_answer_before_it_on_the_connection_stays_before_it():
    entered, leave = threading.Event(), threading.Event()

    async def slow(scope, receive, send):
        if scope["path"] == "/slow":
            entered.set()
            await asyncio.to_thread(leave.wait, 20)
        await echo(scope, receive, send)

    with shedding(5, app=slow) as (port, _, _, _), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(post(b"first", path="/slow"))
        assert entered.wait(20)
        connection.sendall(post(ASKED) + LAST)
        time.sleep(0.05)
        leave.set()
        got = b""
        while part := connection.recv(65536):
            got += part
    assert got.index(b"first") < got.index(ASKED) < got.index(b"bye")


def test_a_client_that_reads_no_refusal_is_let_go(full):
    port, _, observed = full
    observed.clear()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, pytest.raises(OSError):  # noqa: PT012
        for _ in range(1_000):  # 130 MB, whose refusals would be as many
            connection.sendall(post(ASKED) * 1_000)
    assert 0 < len(observed) < 100_000


def test_requests_on_their_way_through_the_app_take_places():
    pool, observed = WorkerPool(threads=1, waiting=1, wait_s=20), []
    shed = Shedding(pool, lambda *observation: observed.append(observation))

    async def together() -> tuple[list[str | None], str | None]:
        refused = [shed.refusal(ASKED) for _ in range(4)]
        await asyncio.sleep(0)  # the app would have given the pool what it took
        return refused, shed.refusal(ASKED)

    why = "2 requests are running or waiting, expected at most 2"
    assert asyncio.run(together()) == ([None, None, why, why], None)
    assert len(observed) == 2
    pool.close()


def test_a_body_that_breaks_off_while_it_is_held_is_refused_as_before(full):
    got = answer(full[0], post(ASKED, "Transfer-Encoding: chunked").replace(b"Content-Length: 23\r\n", b"") + b"\r\nzz\r\n")
    assert b'"code":"bad_http"' in got
    assert got.startswith(b"HTTP/1.1 400")

"""Connections that are slow, large, many or nonsense, against real servers on real sockets."""

import socket
import time
from dataclasses import replace

import httpx
import psutil
import pytest
from bento_server import SHELLS, Server
from sockets import GET, POST, answer, serving

from watchnext.serving.http.app import Limits

# ---- one connection, small limits --------------------------------------------------------------------------------------

SMALL = Limits(connections=4, head_bytes=400, headers=10, head_s=0.3, write_s=0.3, pipelined=3, body_bytes=1000, body_s=0.3)


@pytest.fixture(scope="module")
def port():
    with serving(SMALL) as (port, _):
        yield port


@pytest.mark.parametrize(
    ("chunks", "status", "code"),
    [
        ([GET + b"X-Pad: " + b"x" * 500 + b"\r\n\r\n"], 431, "large_head"),
        ([b"GET /" + b"x" * 500 + b" HTTP/1.1\r\nHost: x\r\n\r\n"], 431, "large_head"),
        ([GET + b"A: b\r\n" * 12 + b"\r\n"], 431, "large_head"),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400, "bad_http"),
        ([b"GET / HTTP/9.9\r\n\r\n"], 400, "bad_http"),
        ([b"\x00" * 100], 400, "bad_http"),
        ([b""], 408, "slow_head"),
        ([b"GET / HT"], 408, "slow_head"),
        ([GET + b"\r\n", b"\r\n"], 408, "slow_head"),
        ([GET + b"\r\n" * 2, b"GET"], 408, "slow_head"),
        ([POST + b"Content-Length: 10\r\n\r\nabc"], 408, "slow_body"),
        ([POST + b"Content-Length: 2000\r\n\r\nabc"], 413, "too_large"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"T: t\r\n" * 20 + b"\r\n"], 431, "large_head"),
        ([POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"], 400, "bad_http"),
    ],
)
def test_a_connection_that_breaks_a_limit_is_answered_by_name_and_ends(port, chunks, status, code):
    got = answer(port, *chunks)
    assert f" {status} ".encode() in got
    assert f'"code":"{code}"'.encode() in got


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (GET, b"X-Pad: " + b"x" * 100_000 + b"\r\n"),
        (GET + b"X-Pad: ", b"x" * 100_000),
        (b"GET /", b"x" * 100_000),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 100_000 + b"\r\na\r\n"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: ", b"x" * 100_000),
        (b"", b"\r\n" * 50_000),
        (b"", GET + b"\r\n" * 1000),
    ],
)
def test_what_never_ends_is_cut_off(port, start, more):
    began = time.process_time()
    got = answer(port, start, more=more, most=1000)
    assert got.count(b"HTTP/1.1 ") < 1000
    assert time.process_time() - began < 20


def test_a_byte_now_and_then_wins_no_time(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.settimeout(0.02)
        for byte in GET * 1000:
            try:
                connection.send(bytes([byte]))
                if got := connection.recv(65536):
                    break
            except TimeoutError:
                continue
    assert b" 408 " in got


def test_requests_one_after_another_are_answered_on_one_connection(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert [client.post("/", content=b"a" * size).content for size in (0, 1, 1000)] == [b"", b"a", b"a" * 1000]
    pipelined = (POST + b"Content-Length: 1\r\n\r\na") * 3 + POST + b"Connection: close\r\nContent-Length: 1\r\n\r\nz"
    assert answer(port, pipelined).count(b"200 OK") == 4


def test_requests_ahead_of_their_answers_are_few(port):
    got = answer(port, (POST + b"Content-Length: 1\r\n\r\na") * 5)
    assert b'"code":"pipelined"' in got or got.count(b"200 OK") < 5  # cut off in the middle of another answer


def test_a_connection_too_many_is_answered_503_and_the_others_stay():
    with serving(replace(SMALL, head_s=60.0)) as (port, server):
        held = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(4)]
        try:
            got = answer(port)
            assert b" 503 " in got
            assert b"retry-after: 1" in got
            held[0].sendall(GET + b"Connection: close\r\n\r\n")
            assert b"200 OK" in held[0].recv(65536)
            assert len(server.server_state.connections) <= 4
        finally:
            for one in held:
                one.close()
        with httpx.Client() as client:
            assert client.get(f"http://127.0.0.1:{port}/").status_code == 200


def test_a_client_that_does_not_read_is_let_go():
    with serving(SMALL) as (port, server), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(GET.replace(b"/livez", b"/large") + b"\r\n")
        connection.recv(1, socket.MSG_PEEK)  # the answer has begun
        got = 0
        began = time.monotonic()
        while server.server_state.connections and time.monotonic() - began < 20:
            time.sleep(0.01)
        assert not server.server_state.connections
        with pytest.raises(OSError):  # noqa: PT012
            while part := connection.recv(1 << 20):
                got += len(part)
            raise OSError("closed")
        assert got < 32_000_000


# ---- the whole server --------------------------------------------------------------------------------------------------

PATHS = [
    "/%0a",
    "/v1/viewers/%0d%0aX:y/history",
    "/..%2f..%2fetc/passwd",
    "/../../etc/passwd",
    "/%ff%fe",
    "/%00",
    "//",
    "/%",
    "/v1/recommend%00",
    "/page.js/../../app.py",
    "/schema.json",
    "/docs.json",
    "/static_content/x",
    "/;x",
]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_server_outlives_hostile_clients_within_its_memory(release, tmp_path, shell):
    server = Server(tmp_path, releases=release.folder.parent, shell=shell)
    try:
        server.ready()
        worker = max(server.family(), key=lambda process: process.memory_info().rss)
        before = worker.memory_info().rss
        assert b" 431 " in answer(server.port, GET + b"A: b\r\n" * 10_000 + b"\r\n")
        answer(server.port, GET + b"A: ", more=b"x" * 1_000_000, most=64)
        answer(server.port, more=(GET + b"\r\n") * 1000, most=100)
        assert b" 400 " in answer(server.port, b"\x16\x03\x01" + bytes(range(256)) * 99)
        for path in PATHS:
            got = answer(server.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            assert b'{"error":{' in got, (path, got)
            assert b" 50" not in got[:20], (path, got)
        assert b'"code":"host"' in answer(
            server.port, b"GET /v1/trending HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
        )
        upgrade = (
            GET
            + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        assert b" 101 " not in answer(server.port, upgrade)
        for path in ("livez", "healthz", "readyz"):
            assert httpx.get(f"{server.url}/{path}").json()["status"] in ("live", "ready")
        assert httpx.get(f"{server.url}/readyz").json()["release"] == release.id
        assert worker.memory_info().rss - before < 48_000_000
        assert psutil.Process(worker.pid).num_fds() < 200
        assert server.stop() == 0
    finally:
        server.end()

"""The middleware around an app that only echoes."""

import asyncio
import gzip
import json

import pytest

from watchnext.serving.http.access.middleware import BodyMiddleware, RequestMiddleware

LIMIT = 100


async def echo(scope, receive, send):
    message = await receive()
    assert not message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def exchange(chunks, headers=(), *, body_s=5.0, pause_s=0.0):
    """Send `chunks`; returns (status, headers, body, chunks taken, observed)."""
    observed, sent, taken = [], [], 0

    async def receive():
        nonlocal taken
        await asyncio.sleep(pause_s)
        taken += 1
        return {"type": "http.request", "body": chunks[taken - 1], "more_body": taken < len(chunks)}

    async def send(message):
        sent.append(message)

    bodies = BodyMiddleware(echo, body_bytes=LIMIT, body_s=body_s)
    middleware = RequestMiddleware(bodies, observe=lambda *observation: observed.append(observation[:2]))
    asyncio.run(middleware({"type": "http", "method": "POST", "headers": list(headers), "path": "/"}, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], dict(sent[0]["headers"]), body, taken, observed


def test_a_body_passes_whole_with_safe_headers():
    status, headers, body, _, observed = exchange([b"a" * 60, b"b" * 40])
    assert (status, body) == (200, b"a" * 60 + b"b" * 40)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert observed == [("unmatched", 200)]


def test_a_declared_length_is_refused_before_a_byte_is_read():
    status, headers, body, taken, observed = exchange([b"x"], [(b"content-length", b"64000000")])
    assert (status, taken) == (413, 0)
    assert headers[b"connection"] == b"close"
    assert b"64000000 bytes or more, expected at most 100" in body
    assert observed == [("unmatched", 413)]


def test_a_body_without_length_is_cut_off_at_the_limit():
    status, _, _, taken, _ = exchange([b"x" * 60] * 1000)
    assert (status, taken) == (413, 2)


def test_a_body_that_does_not_come_is_given_up():
    status, _, body, _, _ = exchange([b"x"], body_s=0.05, pause_s=5.0)
    assert status == 408
    assert b"within 0.05 s" in body


def encoded(body: bytes, encoding: bytes = b"gzip"):
    status, _, answer, _, _ = exchange([body[:7], body[7:]], [(b"content-encoding", encoding)])
    return status, answer if status == 200 else json.loads(answer)["error"]["code"]


def test_a_compressed_body_is_inflated_up_to_the_limit():
    assert encoded(gzip.compress(b"a" * LIMIT)) == (200, b"a" * LIMIT)
    assert encoded(gzip.compress(b"")) == (200, b"")
    assert encoded(gzip.compress(b"a" * (LIMIT + 1))) == (413, "too_large")
    assert encoded(b"plain text", b"identity") == (200, b"plain text")


def test_a_bomb_is_inflated_no_further_than_the_limit():
    bomb = gzip.compress(bytes(40_000))
    assert len(bomb) < LIMIT
    assert encoded(bomb) == (413, "too_large")


@pytest.mark.parametrize(
    "body",  # without the time of compression, which would be part of a test's name and differ between two workers
    [
        b"",
        b"not gzip",
        gzip.compress(b"abc", mtime=0)[:-1],
        gzip.compress(b"a", mtime=0) + b"b",
        gzip.compress(b"a", mtime=0) * 2,
    ],
)
def test_a_body_that_is_not_gzip_to_its_end_is_refused(body):
    assert encoded(body) == (400, "bad_gzip")


@pytest.mark.parametrize("encoding", [b"br", b"deflate", b"gzip, gzip", b"\xff"])
def test_another_encoding_is_refused_by_name(encoding):
    assert encoded(b"abc", encoding) == (415, "encoding")

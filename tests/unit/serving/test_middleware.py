"""The middleware around an app that only echoes."""

import asyncio

from watchnext.serving.http.middleware import RequestMiddleware

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

    middleware = RequestMiddleware(
        echo, body_bytes=LIMIT, body_s=body_s, observe=lambda *observation: observed.append(observation[:2])
    )
    asyncio.run(middleware({"type": "http", "headers": list(headers), "path": "/"}, receive, send))
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

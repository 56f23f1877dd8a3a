"""A load of slates on raw connections: cheap enough to offer ten times what a server on the same machine can answer."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Answers:
    """Counts by status and error code, and seconds of each slate that was answered."""

    statuses: Counter = field(default_factory=Counter)
    slate_s: list[float] = field(default_factory=list)
    shown: set[str] = field(default_factory=set)


async def _ask(port: int, draw: random.Random, answers: Answers, until: float, every_s: float) -> None:
    """Ask on one connection until a moment, at most once in `every_s`; a request that is late is sent at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        due = time.monotonic() + draw.random() * every_s
        while (began := time.monotonic()) < until:
            if due > began:
                await asyncio.sleep(due - began)
            due = max(due + every_s, time.monotonic() - every_s)
            body = json.dumps({"user_id": draw.randrange(100, 10_000), "k": 10}).encode()
            head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            began = time.monotonic()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            status, given = await _answer(reader)
            if status == 200:
                answers.slate_s.append(time.monotonic() - began)
                answers.shown.update(item["video_id"] for item in json.loads(given)["items"])
            answers.statuses[status if status != 503 else json.loads(given)["error"]["code"]] += 1
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return int(head[9:12]), await reader.readexactly(length)


def offered(port: int, *, connections: int, per_s: float, seconds: float, seed: int) -> Answers:
    """Offer `per_s` requests a second over so many connections; each waits for its answer before it asks again."""

    async def run() -> Answers:
        answers, until = Answers(), time.monotonic() + seconds
        draws = [random.Random(f"{seed}/{number}") for number in range(connections)]
        await asyncio.gather(*(_ask(port, draw, answers, until, connections / per_s) for draw in draws))
        return answers

    return asyncio.run(run())

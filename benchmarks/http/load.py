"""Send HTTP requests at a rate, or as fast as a number of connections carries, and time the answers."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import orjson

Calls = Iterator[tuple[str, dict]]  # path and JSON body of the next request, without end


@dataclass
class Answers:
    """Times and statuses of the answers of one run, which took `seconds`.

    ms      from the moment at which a request was due, so that one that waited for a connection counts its waiting
    status  HTTP status, 0 where the connection broke
    """

    seconds: float = 0.0
    ms: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    bodies: list[dict] = field(default_factory=list)

    def percentile(self, q: float) -> float:
        """Return a percentile of the times of good answers, nan without one."""
        good = [ms for ms, status in zip(self.ms, self.status, strict=True) if status == 200]
        return float(np.percentile(good, q)) if good else float("nan")

    @property
    def good(self) -> int:
        return self.status.count(200)


class Connections:
    """Keep-alive connections to one server; one that is free is used again."""

    def __init__(self, port: int) -> None:
        self._port, self._free = port, []

    async def post(self, path: str, body: dict) -> tuple[int, bytes]:
        """Return status and body of the answer. Raises OSError or IncompleteReadError where the connection breaks."""
        content = orjson.dumps(body)
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST {path} HTTP/1.1\nHost: 127.0.0.1\nContent-Type: application/json\nContent-Length: {len(content)}\n\n"
        writer.write(head.replace("\n", "\r\n").encode() + content)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
        read = await reader.readexactly(length)
        self._free.append((reader, writer))
        return int(answer[9:12]), read

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()


async def _answered(connections: Connections, call: tuple[str, dict], due: float, answers: Answers, keep: bool) -> None:
    try:
        status, read = await connections.post(*call)
    except (OSError, asyncio.IncompleteReadError):
        status, read = 0, b""
    answers.ms.append(1e3 * (time.perf_counter() - due))
    answers.status.append(status)
    if keep and status == 200:
        answers.bodies.append(orjson.loads(read))


async def at_rate(port: int, calls: Calls, *, per_s: float, seconds: float, keep: bool = False) -> Answers:
    """Send a request every 1 / `per_s` seconds, whether or not earlier ones were answered (open loop)."""
    connections, answers, running = Connections(port), Answers(), set()
    began = time.perf_counter()
    for i in range(round(per_s * seconds)):
        due = began + i / per_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        running.add(task := asyncio.create_task(_answered(connections, next(calls), due, answers, keep)))
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    answers.seconds = time.perf_counter() - began
    connections.close()
    return answers


async def at_capacity(port: int, calls: Calls, *, connections: int, seconds: float, keep: bool = False) -> Answers:
    """Let each of the `connections` send its next request when its last was answered (closed loop)."""
    shared, answers = Connections(port), Answers()
    began = time.perf_counter()

    async def send() -> None:
        while (now := time.perf_counter()) < began + seconds:
            await _answered(shared, next(calls), now, answers, keep)

    await asyncio.gather(*(send() for _ in range(connections)))
    answers.seconds = time.perf_counter() - began
    shared.close()
    return answers

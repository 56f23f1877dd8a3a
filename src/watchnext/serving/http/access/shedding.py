"""Refuse slates where they arrive while no thread can take one: the way through the app costs more than a refusal may."""

import asyncio
import re

from watchnext.serving.http.access.middleware import Observe, account
from watchnext.serving.http.worker_pool import WorkerPool

ROUTE = "/v1/recommend"
# What may be answered all the same, from the store or in the places of high priority: the app, which parses it, decides.
EXCEPTIONS = re.compile(rb'"(?:precomputed|auto|high)"')
LOW = re.compile(rb'"priority"\s*:\s*"low"')


class Shedding:
    """Decide about a request for a slate by the bytes of its body, which nobody has parsed.

    A body that could be answered in another way than by a thread of `pool` passes, as does one that is no plain JSON object.
    """

    def __init__(self, pool: WorkerPool, observe: Observe) -> None:
        self._pool, self._observe = pool, observe
        self._passing = 0  # on their way through the app to the pool, which does not count them yet

    @property
    def is_due(self) -> bool:
        """Say if a request of low priority would be refused now."""
        return self._pool.refusal("low", self._passing) is not None

    def refusal(self, body: bytes) -> str | None:
        """Say why the request is refused, and count that answer; None where the app is to answer."""
        if not body.startswith(b"{") or EXCEPTIONS.search(body):
            return None
        why = self._pool.refusal("low" if LOW.search(body) else "normal", self._passing)
        if why is None:
            self._passing += 1
            asyncio.get_running_loop().call_soon(self._passed)  # by then the pool has it
        else:
            account(self._observe, route=ROUTE, method="POST", status=503, seconds=0.0)
        return why

    def _passed(self) -> None:
        self._passing -= 1

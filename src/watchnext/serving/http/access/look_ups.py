"""Answer with a viewer's stored slate where its request arrives: the way through the app costs more than the slate."""

import re
import time

from starlette.types import Scope

from watchnext.serving.http.access.direct_route import BODY, valid
from watchnext.serving.http.access.gate import AccessGate
from watchnext.serving.http.access.middleware import Observe, account, begin, headers_of
from watchnext.serving.http.access.shedding import ROUTE
from watchnext.serving.http.api.errors import Json
from watchnext.serving.http.api.handlers import STORED, Handlers
from watchnext.serving.http.api.schemas import RecommendRequest

NAMED = re.compile(rb'"(?:%s)"' % b"|".join(mode.encode() for mode in STORED))
FORWARDED = b"x-forwarded-for"


class LookUps:
    """Answer requests for a slate from the bytes of their bodies, by the rules of the app: gate, schema, handlers.

    `handlers` may forward to those of the release that serves at the time.
    """

    def __init__(self, gate: AccessGate, handlers: Handlers, observe: Observe) -> None:
        self._gate, self._handlers, self._observe = gate, handlers, observe

    def answer(self, scope: Scope, body: bytes) -> Json | None:
        """Return a stored slate with all headers, and count it. None where the app is to answer, and nothing was done but to
        parse the request and let it through the gate: it is refused, not valid, or its viewer has no slate that holds."""
        if not NAMED.search(body) or (self._gate.asks_address and any(name == FORWARDED for name, _ in scope["headers"])):
            return None  # whose address a proxy names is read on the way to the app
        began, request_id = time.perf_counter(), begin()
        try:
            slate = None if self._gate.refusal(scope) else self._stored(scope, body, request_id)
        except Exception:  # the app meets it too, and answers it
            return None
        if slate is None:
            return None
        answer = Json(slate)
        answer.raw_headers += headers_of(request_id)
        about = {"route": ROUTE, "method": "POST", "status": 200, "key": scope["state"].get("key")}
        account(self._observe, **about, seconds=time.perf_counter() - began)
        return answer

    def _stored(self, scope: Scope, body: bytes, request_id: str) -> dict | None:
        given = scope["state"][BODY] = valid(RecommendRequest, scope, body)
        return None if given is None or given.mode not in STORED else self._handlers.stored(given, request_id=request_id)

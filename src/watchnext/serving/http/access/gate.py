"""Refuse a request before its body is read: another host's, without the key that its route needs, or above the key's rate."""

import ipaddress
import math
from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from watchnext.serving.http.access.keys import NEW_KEY, Key, Keys
from watchnext.serving.http.access.rate import RateLimit
from watchnext.serving.http.access.scopes import HEALTH, PUBLIC, lists_viewers, scope_of
from watchnext.serving.http.api.errors import Json, problem, shortened

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
ANY = "*"
CLOSE = {"connection": "close"}  # the body of a refused request is not read


@dataclass(frozen=True, kw_only=True)
class Access:
    """Say who may call the server.

    keys        None: clients of this machine only, for all routes except those that list viewers
    demo        without keys: viewers are listed too
    hosts       names in `Host` that are answered, without a port; `*` is any
    origins     web pages of other sites that may call the server
    rate_per_s  requests a second of one key; None is unlimited
    """

    keys: Keys | None = None
    demo: bool = False
    hosts: tuple[str, ...] = LOCAL_HOSTS
    origins: tuple[str, ...] = ()
    rate_per_s: float | None = None


class AccessGate:
    """Let the requests through that `access` allows."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._limit = RateLimit(access.rate_per_s) if access.rate_per_s else None

    @property
    def asks_address(self) -> bool:
        """Say if the address of a client decides, as there are no keys."""
        return self._access.keys is None

    def refusal(self, scope: Scope) -> Json | None:
        """Return the answer that refuses a request, None for one that may pass. That is noted in its state, as it counts once
        for the rate of its key, however often it is asked about."""
        state = scope.setdefault("state", {})
        if state.get("may_pass"):
            return None
        refusal = self._refusal(scope)
        state["may_pass"] = refusal is None
        return refusal

    def _refusal(self, scope: Scope) -> Json | None:
        if "\n" in scope["path"]:  # a template's end fits before it too, while no rule would
            return problem(404, "http_404", "Not Found", headers=CLOSE)
        headers = Headers(scope=scope)
        return self._other_host(scope["path"], headers) or (
            self._without_keys(scope) if self.asks_address else self._with_keys(scope, headers)
        )

    def _other_host(self, path: str, headers: Headers) -> Json | None:
        """Refuse other hosts: a page that gives its own name this machine's address would be taken for the server's own."""
        given = headers.getlist("host")
        if path in HEALTH or ANY in self._access.hosts or (len(given) == 1 and _name(given[0]) in self._access.hosts):
            return None  # a cluster asks for the health of an address
        message = f"Host is {shortened(', '.join(given))}, expected one of {', '.join(self._access.hosts)}; set WATCHNEXT_HOSTS"
        return problem(400, "host", message, headers=CLOSE)

    def _without_keys(self, scope: Scope) -> Json | None:
        if not is_loopback(scope["client"][0] if scope["client"] else ""):
            message = f"without keys only this machine is answered; make one: `{NEW_KEY}`, and set WATCHNEXT_KEYS=FILE"
            return problem(403, "no_keys", message, headers=CLOSE)
        if lists_viewers(scope["method"], scope["path"]) and not self._access.demo:
            message = f"without keys no viewers are listed; set WATCHNEXT_DEMO=1 for a demo, or make a key: `{NEW_KEY}`"
            return problem(403, "no_keys", message, headers=CLOSE)
        return None

    def _with_keys(self, scope: Scope, headers: Headers) -> Json | None:
        needed = scope_of(scope["method"], scope["path"])
        if needed == PUBLIC:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = self._access.keys.find(token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = "Authorization holds no key of this server, expected `Bearer KEY`"
            return problem(401, "key", message, headers={**CLOSE, "WWW-Authenticate": "Bearer"})
        scope.setdefault("state", {})["key"] = key.name
        if needed not in key.scopes:
            message = f"key {key.name} has the scopes {', '.join(sorted(key.scopes))}, expected {needed}"
            return problem(403, "scope", message, headers=CLOSE)
        return self._above_rate(key)

    def _above_rate(self, key: Key) -> Json | None:
        wait_s = self._limit.wait_s(key.name) if self._limit else 0.0
        if not wait_s:
            return None
        message = f"key {key.name} is above its rate, expected at most {self._access.rate_per_s:g} requests/s; retry"
        return problem(429, "rate", message, headers={**CLOSE, "Retry-After": str(math.ceil(wait_s))})


class GateMiddleware:
    """Pass on the requests that a gate lets through."""

    def __init__(self, app: ASGIApp, *, gate: AccessGate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._gate.refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)


def _name(host: str) -> str:
    """Return a host in lower case, without its port."""
    end = host.find("]") + 1 if host.startswith("[") else host.find(":")
    return (host if end <= 0 else host[:end]).lower()


@lru_cache(1024)  # a parsed address costs as much as all that is checked beside it
def is_loopback(address: str) -> bool:
    """Say if an IP address, or `localhost`, is of this machine."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address == "localhost"
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback

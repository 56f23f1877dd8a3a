"""Name the scope that a request needs. A path without a rule needs `admin`: a new route is closed until it is named here."""

from pathlib import Path

READ, WRITE, ADMIN = SCOPES = ("read", "write", "admin")
PUBLIC = "public"
HEALTH = ("/livez", "/readyz", "/healthz")
PAGE_FILES = {"/", *(f"/{file.name}" for file in (Path(__file__).parents[1] / "page").iterdir())}
READING_METHODS = ("GET", "HEAD", "OPTIONS")
# A rule holds for its path, what lies below it and its verbs (`/v1/recommend:batch`). The first that fits decides.
RULES = (
    *((path, PUBLIC) for path in HEALTH),
    ("/docs", PUBLIC),
    ("/openapi.json", PUBLIC),
    ("/metrics", READ),
    ("/v1/admin", ADMIN),
    ("/v1/viewers", ADMIN),
    ("/v1/events", WRITE),
    ("/v1/videos", WRITE),
    ("/v1/recommend", READ),
    ("/v1/rank", READ),
    ("/v1/retrieve", READ),
    ("/v1/similar", READ),
    ("/v1/trending", READ),
    ("/v1/trace", READ),
    ("/v1/parameters", READ),
    ("/v1/status", READ),
)


def rule_of(method: str, path: str) -> str | None:
    """Return the scope that a rule names, None without a rule. Videos are read with READ."""
    if path in PAGE_FILES:
        return PUBLIC
    for start, scope in RULES:
        if path == start or path.startswith((f"{start}/", f"{start}:")):
            return READ if start == "/v1/videos" and method in READING_METHODS else scope
    return None


def scope_of(method: str, path: str) -> str:
    """Return `public`, or the scope that a key needs for the request."""
    return rule_of(method, path) or ADMIN


def lists_viewers(method: str, path: str) -> bool:
    """Say if the answer names viewers or their watches."""
    return method in READING_METHODS and path.startswith("/v1/viewers")

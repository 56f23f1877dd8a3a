"""A client of the HTTP API, sync and async: one method a route, retries where the server asks for them, idempotency keys."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx

URL = "http://127.0.0.1:3000"
WAIT_MOST_S = 30.0
Id = int | str
Answer = dict[str, Any]  # as /docs describes it
R = TypeVar("R")


class ApiError(Exception):
    """Report a refused request: `status`, the stable `code`, the `message`, and `details` of each rejected field."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status, self.code, self.message = status, error.get("code"), error.get("message")
        self.details = error.get("details", [])


class _Routes(Generic[R]):
    """The routes of the API. None leaves a field to the server; /docs says what each is."""

    def _send(self, method: str, path: str, *, body: Mapping | None = None, params: Mapping | None = None) -> R:
        raise NotImplementedError

    def recommend(
        self,
        user_id: Id | None = None,
        *,
        session: str | None = None,
        k: int | None = None,
        surface: str | None = None,
        region: str | None = None,
        context: Mapping[str, float | str] | None = None,
        exclude: Sequence[Id] | None = None,
        muted: Sequence[Id] | None = None,
        filter: Mapping[str, Any] | None = None,
        page_token: str | None = None,
        seed_video_id: Id | None = None,
        mode: str | None = None,
        budget_ms: float | None = None,
        priority: str | None = None,
        explain: bool | None = None,
        preview: bool | None = None,
        mirror: bool | None = None,
        dials: Mapping[str, Any] | None = None,
    ) -> R:
        """Ask for a slate; its videos count as shown, but those of a preview or a mirrored one."""
        about = _given(user_id=user_id, session=session, k=k, surface=surface, region=region, context=context)
        which = _given(exclude=exclude, muted=muted, filter=filter, page_token=page_token, seed_video_id=seed_video_id)
        how = _given(mode=mode, budget_ms=budget_ms, priority=priority, dials=dials)
        shown = _given(explain=explain, preview=preview, mirror=mirror)
        return self._send("POST", "/v1/recommend", body=about | which | how | shown)

    def recommend_batch(self, requests: Sequence[Mapping[str, Any]]) -> R:
        """Ask for up to 100 slates by their bodies of `recommend`. `answers` has the `status` and `answer` of each, in order:
        one that fails has an error there, is not tried again, and raises nothing."""
        return self._send("POST", "/v1/recommend:batch", body={"requests": requests})

    def retrieve(
        self,
        user_id: Id | None = None,
        *,
        session: str | None = None,
        k: int | None = None,
        surface: str | None = None,
        region: str | None = None,
        context: Mapping[str, float | str] | None = None,
        exclude: Sequence[Id] | None = None,
        muted: Sequence[Id] | None = None,
        filter: Mapping[str, Any] | None = None,
        seed_video_id: Id | None = None,
        mode: str | None = None,
    ) -> R:
        """List the merged candidates for a viewer, before ranking. Nothing counts as shown."""
        about = _given(user_id=user_id, session=session, k=k, surface=surface, region=region, context=context)
        which = _given(exclude=exclude, muted=muted, filter=filter, seed_video_id=seed_video_id, mode=mode)
        return self._send("POST", "/v1/retrieve", body=about | which)

    def rank(
        self,
        video_ids: Sequence[Id],
        user_id: Id | None = None,
        *,
        session: str | None = None,
        surface: str | None = None,
        region: str | None = None,
        context: Mapping[str, float | str] | None = None,
    ) -> R:
        """Order videos by the value that a slate has. Nothing counts as shown."""
        about = _given(user_id=user_id, session=session, surface=surface, region=region, context=context)
        return self._send("POST", "/v1/rank", body={"video_ids": video_ids} | about)

    def similar(self, seed_video_id: Id, *, k: int | None = None, region: str | None = None) -> R:
        """List videos near one video."""
        return self._send("POST", "/v1/similar", body=_given(seed_video_id=seed_video_id, k=k, region=region))

    def events(self, events: Sequence[Mapping[str, Any]]) -> R:
        """Store outcomes and videos shown; the answer means that they are on disk. An event without `type` is an outcome,
        and an outcome without `key` gets one, so that a call that is sent again counts once."""
        return self._send("POST", "/v1/events", body={"events": [_complete(event) for event in events]})

    def trending(self, *, surface: str | None = None, region: str | None = None, limit: int | None = None) -> R:
        """List what is watched most on a surface and in a region."""
        return self._send("GET", "/v1/trending", params=_given(surface=surface, region=region, limit=limit))

    def videos(self, query: str, *, region: str | None = None, limit: int | None = None) -> R:
        """Find videos by words."""
        return self._send("GET", "/v1/videos", params=_given(query=query, region=region, limit=limit))

    def video(self, video_id: Id) -> R:
        """Describe a video."""
        return self._send("GET", f"/v1/videos/{_quoted(video_id)}")

    def add_videos(self, videos: Sequence[Mapping[str, Any]]) -> R:
        """Add videos, or replace all that is known of them."""
        return self._send("POST", "/v1/videos", body={"videos": videos})

    def change_video(self, video_id: Id, changes: Mapping[str, Any]) -> R:
        """Change what is named of a video; None says that it is unknown."""
        return self._send("PATCH", f"/v1/videos/{_quoted(video_id)}", body=changes)

    def withdraw_video(self, video_id: Id) -> R:
        """Withdraw a video from every answer."""
        return self._send("DELETE", f"/v1/videos/{_quoted(video_id)}")

    def trace(self, request_id: str, *, video_id: Id | None = None) -> R:
        """Trace one of the last requests through the funnel; with `video_id`, why this video is or is not in the slate."""
        return self._send("GET", f"/v1/trace/{_quoted(request_id)}", params=_given(video_id=video_id))

    def parameters(self, *, surface: str | None = None) -> R:
        """Ask what decides the slates of a surface, in plain words."""
        return self._send("GET", "/v1/parameters", params=_given(surface=surface))

    def status(self) -> R:
        """Ask what serves: the release with its verdict, and the last report of drift."""
        return self._send("GET", "/v1/status")

    def viewers(self, *, limit: int | None = None) -> R:
        """List viewers with a history."""
        return self._send("GET", "/v1/viewers", params=_given(limit=limit))

    def history(self, user_id: Id, *, limit: int | None = None) -> R:
        """List a viewer's last watches."""
        return self._send("GET", f"/v1/viewers/{_quoted(user_id)}/history", params=_given(limit=limit))

    def erase(self, user_id: Id) -> R:
        """Erase a viewer from the server; the answer is a receipt for each place."""
        return self._send("DELETE", f"/v1/viewers/{_quoted(user_id)}")

    def releases(self) -> R:
        """List the releases of the folder, which of them serves, and which were refused and why."""
        return self._send("GET", "/v1/admin/releases")

    def promote(self, release: str) -> R:
        """Let a release serve."""
        return self._send("POST", "/v1/admin/promote", body={"release": release})

    def canary(self) -> R:
        """Ask which release is tried on which viewers, and what both arms did on this server."""
        return self._send("GET", "/v1/admin/canary")

    def begin_canary(self, release: str, *, share: float | None = None, shadow: float | None = None) -> R:
        """Let a release answer a share of viewers, score other requests aside, or both."""
        return self._send("POST", "/v1/admin/canary", body=_given(release=release, share=share, shadow=shadow))

    def rollback(self) -> R:
        """End a canary; without one, let the release serve that did before this one."""
        return self._send("POST", "/v1/admin/rollback", body={})

    def stats(self) -> R:
        """Measure store, journal, queues and memory."""
        return self._send("GET", "/v1/admin/stats")


def _complete(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return event if event.get("type") == "shown" else {"type": "outcome", "key": uuid.uuid4().hex, **event}


class Client(_Routes[Answer]):
    """Call the server at `url`, with a bearer `key` where it wants one.

    A connection that fails, 503 and 429 are tried again up to `retries` times, after the seconds in Retry-After. Methods return
    the answer's JSON and raise ApiError, or httpx.TransportError where there is no answer.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = retries
        self._http = httpx.Client(
            base_url=url, headers=_headers(key), timeout=timeout_s, transport=transport or httpx.HTTPTransport(retries=retries)
        )

    def _send(self, method: str, path: str, *, body: Mapping | None = None, params: Mapping | None = None) -> Answer:
        for left in range(self._retries, -1, -1):
            answer = self._http.request(method, path, json=body, params=params)
            if not left or (wait_s := _wait_s(answer)) is None:
                break
            time.sleep(wait_s)
        return _parsed(answer)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Routes[Awaitable[Answer]]):
    """`Client` for asyncio: the same methods, awaited."""

    def __init__(
        self,
        url: str = URL,
        *,
        key: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 3,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = retries
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=_headers(key),
            timeout=timeout_s,
            transport=transport or httpx.AsyncHTTPTransport(retries=retries),
        )

    async def _send(self, method: str, path: str, *, body: Mapping | None = None, params: Mapping | None = None) -> Answer:
        for left in range(self._retries, -1, -1):
            answer = await self._http.request(method, path, json=body, params=params)
            if not left or (wait_s := _wait_s(answer)) is None:
                break
            await asyncio.sleep(wait_s)
        return _parsed(answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def _given(**fields: Any) -> dict[str, Any]:
    """Leave out what is None."""
    return {name: value for name, value in fields.items() if value is not None}


def _quoted(given: Id) -> str:
    return quote(str(given), safe="")


def _wait_s(answer: httpx.Response) -> float | None:
    """Return the seconds that the server asks to wait, None where a request is not to be tried again."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), WAIT_MOST_S) if answer.status_code in (429, 503) and asked.isdigit() else None


def _parsed(answer: httpx.Response) -> Answer:
    try:
        content = answer.json()
    except ValueError:  # of a proxy in between
        content = {"error": {"code": f"http_{answer.status_code}", "message": answer.text[:200]}}
    if answer.is_success and "error" not in content:
        return content
    raise ApiError(answer.status_code, content.get("error", {}))

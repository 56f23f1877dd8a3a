"""The handlers of the release that serves, replaced in one step, and those of a challenger beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from watchnext.serving.http.api.handlers import Handlers, UnknownRequestError
from watchnext.serving.http.api.schemas import EventsRequest, RecommendRequest
from watchnext.serving.http.canary.canary import Canary


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A release that was to serve and does not; `at` is UTC."""

    release: str
    reason: str
    at: str


class Serving:
    """Forward to the handlers of the release that serves, or of the challenger for the viewers of a canary.

    A route takes a method of them once, so that a request ends on the release where it began. A method that has answered with
    one release must not look here for another name of it.

    videos   handlers of the calls about videos
    store    of the release that serves
    refused  the release that was to replace it last and was refused, else None
    canary   the challenger that is tried, else None
    make     makes handlers and those of the calls about videos, of a `recommender` and its `store`
    """

    def __init__(self, make: Callable[..., tuple[Handlers, Any]], *, recommender, store) -> None:
        self.make = make
        self.become(recommender=recommender, store=store)

    def become(self, *, recommender, store) -> None:
        """Let another release answer the requests that arrive from now on."""
        self.refused: Refusal | None = None
        self.canary: Canary | None = None
        handlers, videos = self.make(recommender=recommender, store=store)
        self.store, self.recommender, self.handlers, self.videos = store, recommender, handlers, videos

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handlers, name)

    def refresh(self, as_of_ms: float) -> None:
        """Rank the whole catalogue for the sources that do so, of every release that answers."""
        self.recommender.refresh(as_of_ms)
        if (canary := self.canary) is not None:
            canary.recommender.refresh(as_of_ms)

    # ---- calls that know of a canary ---------------------------------------------------------------------------------

    def recommend(self, body: RecommendRequest, *, request_id: str, until: float) -> dict:
        return (self.canary or self.handlers).recommend(body, request_id=request_id, until=until)

    def rank(self, body: Any, *, request_id: str) -> dict:
        return self._of_viewer("rank", body, request_id)

    def retrieve(self, body: Any, *, request_id: str) -> dict:
        return self._of_viewer("retrieve", body, request_id)

    def _of_viewer(self, name: str, body: Any, request_id: str) -> dict:
        if (canary := self.canary) is not None:
            return canary.call(name, body, request_id=request_id)
        return getattr(self.handlers, name)(body, request_id=request_id)

    def trace(self, request_id: str, video_id: str | None) -> dict:
        try:
            return self.handlers.trace(request_id, video_id)
        except UnknownRequestError:
            if (canary := self.canary) is None:
                raise
            return canary.handlers.trace(request_id, video_id)

    async def outcomes(self, body: EventsRequest, *, timeout_s: float) -> tuple[dict[str, int], list]:
        heard = None if (canary := self.canary) is None else canary.heard
        return await self.handlers.outcomes(body, timeout_s=timeout_s, heard=heard)

    def erase(self, text: str) -> dict:
        return self.handlers.erase(text, None if (canary := self.canary) is None else canary.erase)

    def video(self, text: str) -> dict | None:
        return self._owner_of(text).handlers.video(text)

    def videos_of(self, text: str) -> Any:
        """Return the handlers of the calls about the video with an id in a path: the challenger's where it alone knows it."""
        return self._owner_of(text).videos

    def _owner_of(self, text: str) -> "Serving | Canary":
        canary = self.canary
        return canary if canary is not None and canary.alone_knows(text) else self

    @property
    def canary_share(self) -> float:
        """Return the share of viewers whom a challenger answers."""
        return 0.0 if (canary := self.canary) is None else canary.plan.share

    def status(self, drift: Path) -> dict:
        return self.handlers.status(drift) | {"canary": None if (canary := self.canary) is None else canary.summary()}

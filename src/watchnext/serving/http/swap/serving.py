"""The handlers of the release that serves, replaced in one step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from watchnext.serving.http.api.handlers import Handlers


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A release that was to serve and does not; `at` is UTC."""

    release: str
    reason: str
    at: str


class Serving:
    """Forward to the handlers of the release that serves.

    A route takes a method of them once, so that a request ends on the release where it began. A method that has answered with
    one release must not look here for another name of it.

    videos   handlers of the calls about videos
    store    of the release that serves
    refused  the release that was to replace it last and was refused, else None
    """

    def __init__(self, make: Callable[..., Handlers], make_videos: Callable, *, recommender, store) -> None:
        self._make, self._make_videos = make, make_videos
        self.become(recommender=recommender, store=store)

    def become(self, *, recommender, store) -> None:
        """Let another release answer the requests that arrive from now on."""
        self.refused: Refusal | None = None
        handlers = self._make(recommender=recommender, store=store)
        videos = self._make_videos(handlers=handlers, store=store)
        self.store, self.recommender, self.handlers, self.videos = store, recommender, handlers, videos

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handlers, name)

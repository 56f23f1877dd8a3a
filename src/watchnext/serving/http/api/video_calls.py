"""Post, change and withdraw videos while serving: schemas of the calls, and their handlers."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from watchnext.data.tables import DURATION_MS, LATEST_MS
from watchnext.features.catalogue import SAFETY
from watchnext.features.video_texts import TITLE_CHARACTERS, URL, URL_BYTES
from watchnext.serving.http.api.handlers import Handlers, IdKindError, UnknownVideoError, committed, parsed_id, require_kind
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.http.api.schemas import ContextValue, Id, Int64, ListedVideo, Strict, Word, few_keys
from watchnext.serving.release.video_encoder import MetadataError
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.retention import CREATED

VIDEOS_MOST = 100
FEATURES_MOST = 64
VideoFeatures = Annotated[
    dict[Word, ContextValue | None], Field(max_length=FEATURES_MOST), BeforeValidator(partial(few_keys, most=FEATURES_MOST))
]
Component = Annotated[float, Field(ge=-1e18, le=1e18)]


class VideoMetadata(Strict):
    """Metadata of a video, by the names of the canonical tables; null is unknown."""

    creator_id: Id | None = None
    upload_ms: int | None = Field(None, ge=0, le=LATEST_MS, description="ms UTC; a video is shown from then on")
    duration_ms: int | None = Field(None, ge=1, le=DURATION_MS)
    tags: list[Word] | None = Field(None, max_length=64, description="the first ones are read, as many as the schema says")
    language: Word | None = Field(None, description="spoken or written language")
    regions: list[Word] | None = Field(None, max_length=64, description="where it may be shown; null or empty is everywhere")
    safety: Literal[SAFETY] | None = Field(None, description="null counts as safe")
    fingerprint: Int64 | None = Field(None, description="equal for copies of the same content")
    vector: list[Component] | None = Field(
        None, max_length=2048, fail_fast=True, description="content vector, as wide as in the log"
    )
    title: str | None = Field(None, max_length=TITLE_CHARACTERS, description="for people, as the addresses")
    thumbnail_url: str | None = Field(None, max_length=URL_BYTES, pattern=URL)
    url: str | None = Field(None, max_length=URL_BYTES, pattern=URL)
    features: VideoFeatures = Field(
        default_factory=dict, description="further columns of videos that the feature schema declares"
    )


class PostedVideo(VideoMetadata):
    video_id: Id
    upload_ms: int | None = Field(
        None, ge=0, le=LATEST_MS, description="ms UTC, by default now; a video is shown from then on, so it may lie ahead"
    )


class VideosRequest(Strict):
    videos: list[PostedVideo] = Field(
        fail_fast=True,
        min_length=1,
        max_length=VIDEOS_MOST,
        description=f"at most {VIDEOS_MOST}",
        examples=[[{"video_id": 60000001, "creator_id": 9038, "duration_ms": 30000, "tags": ["t18"]}]],
    )


class PostedResponse(Strict):
    release: str
    created: int = Field(description="videos that were not known")
    changed: int = Field(description="videos that were known: what was posted replaces all that was known of them")


class VideoPatch(VideoMetadata):
    """Fields to change; what is not named stays. `available` false withdraws the video, true brings it back."""

    available: bool | None = Field(None, description="false withdraws the video, true brings it back")


class AvailableVideo(ListedVideo):
    release: str
    available: bool = Field(description="false for a video that was withdrawn")


class VideoHandlers:
    """Answer the calls about videos. An answer means that the change is on disk, and that every later request sees it.

    `settled()` waits, in a thread, until the store has what was committed; None where a commit makes it so.
    """

    def __init__(
        self,
        *,
        handlers: Handlers,
        store: Store,
        commits: GroupCommit,
        clock: Callable[[], int],
        metrics: ServerMetrics,
        timeout_s: float,
        settled: Callable[[], object] | None = None,
    ) -> None:
        self._settled = settled
        self._handlers, self._store, self._catalogue = handlers, store, store.catalogue
        self._commits, self._clock, self._metrics, self._timeout_s = commits, clock, metrics, timeout_s

    async def post(self, body: VideosRequest) -> dict:
        """Return a PostedResponse. Raises IdKindError for an id or a value that the release refuses, and StoreError."""
        now_ms = self._clock()
        events = [self._posted(f"body.videos.{index}", video, now_ms) for index, video in enumerate(body.videos)]
        results = await self._commit(events)
        created = results.count(CREATED)
        return {"release": self._handlers.release_id, "created": created, "changed": len(results) - created}

    async def change(self, text: str, body: VideoPatch) -> dict:
        """Return a AvailableVideo; `text` is the id in the path. Raises as `post`, and UnknownVideoError."""
        video_id, given = self._known(text), body.model_dump(include=body.model_fields_set)
        available, events = given.pop("available", None), []
        if given:
            self._require("body", given)
            events.append(self._event("changed", video_id, self._clock(), given))
        if available is not None:
            events.append(self._event("restored" if available else "withdrawn", video_id, self._clock()))
        if events:
            await self._commit(events)
        return self._answer(video_id)

    async def withdraw(self, text: str) -> dict:
        """Return a AvailableVideo of a video that is shown no more. Raises UnknownVideoError and StoreError."""
        video_id = self._known(text)
        await self._commit([self._event("withdrawn", video_id, self._clock())])
        return self._answer(video_id)

    def _posted(self, where: str, video, now_ms: int) -> Event:
        require_kind(f"{where}.video_id", video.video_id, self._catalogue.ids, self._handlers.release_id)
        metadata = video.model_dump(exclude={"video_id"})
        self._require(where, metadata)
        if metadata["upload_ms"] is None:
            metadata["upload_ms"] = self._uploaded(video.video_id, now_ms)
        return self._event("posted", video.video_id, now_ms, metadata)

    def _uploaded(self, video_id: int | str, now_ms: int) -> int:
        """Return the upload time of a video that is posted again, so that a repeated call makes it no newer; else now."""
        row = int(self._catalogue.ids.rows([video_id])[0])
        upload_ms = self._catalogue.upload_ms[row] if row >= 0 else math.nan
        return now_ms if math.isnan(upload_ms) else int(upload_ms)

    def _require(self, where: str, metadata: Mapping) -> None:
        try:
            self._catalogue.encoder.require(metadata)
        except MetadataError as error:
            raise IdKindError(f"{where}.{error.field}", error.value, error.expected) from error

    def _event(self, kind: str, video_id: int | str, known_at: int, metadata: Mapping | None = None) -> Event:
        return Event(kind=kind, user_id="", video_id=video_id, known_at=known_at, metadata=metadata)

    async def _commit(self, events: Sequence[Event]) -> list[str]:
        began = time.perf_counter()
        results = await committed(self._commits, events, self._timeout_s)
        self._metrics.committed(time.perf_counter() - began)
        if self._settled is not None:
            await asyncio.to_thread(self._settled)
        return results

    def _known(self, text: str) -> int | str:
        """Read the id in a path. Raises IdKindError for one of another kind, UnknownVideoError for an unknown one."""
        video_id = parsed_id(text, self._catalogue.ids)
        require_kind("path.video_id", video_id, self._catalogue.ids, self._handlers.release_id)
        if self._catalogue.ids.rows([video_id])[0] < 0:
            raise UnknownVideoError("path.video_id", video_id, "a video of the release, or one that was posted", status=404)
        return video_id

    def _answer(self, video_id: int | str) -> dict:
        row = int(self._catalogue.ids.rows([video_id])[0])
        described = self._handlers.listed(row, self._clock())
        return {"release": self._handlers.release_id, **described, "available": not self._store.unavailable[row]}

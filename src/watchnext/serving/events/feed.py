"""Events from a log into a server: each message is one event as `POST /v1/events` takes it."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from watchnext.client import ApiError, Client
from watchnext.serving.events.event_log import WAIT_S, EventLog, LogMessage
from watchnext.serving.events.refused_messages import RefusedMessages
from watchnext.serving.events.retrying import Retrying, StoppedError

log = logging.getLogger(__name__)

BATCH = 500  # messages a call, some 150 kB
NAMED_MOST = 20  # unknown videos that an answer names
FAILURES = 2  # answers 500 after which a call is halved
FAILURES_ALONE = 8  # after which a message that is alone is put aside, in 23 s


class Posted(NamedTuple):
    """A message, and the event that it is."""

    message: LogMessage
    event: dict[str, Any]


class EventFeed:
    """Post the messages of a log to a server, in their order, until it is to stop.

    The position is committed once the server has acknowledged what was read: after `kill -9` messages are posted again, and
    their keys let each count once. A message without a key gets one made of its position, and one without a time the broker's:
    so the server refuses what is so old that its key is forgotten. What the server refuses, or fails at each time, goes to
    `refused`: one such message must not hold up all behind it.
    """

    def __init__(self, log: EventLog, client: Client, refused: RefusedMessages, retrying: Retrying) -> None:
        self._log, self._client, self._refused, self._retrying = log, client, refused, retrying
        self.messages = self.put_aside = 0

    def run(self) -> None:
        """Return when it is to stop. Raises ApiError where the server refuses the call and not a message: a missing key."""
        with suppress(StoppedError):
            while not self._retrying.stop.is_set():
                if messages := self._retrying(partial(self._log.read, BATCH, WAIT_S)):
                    self._post([posted for message in messages if (posted := self._parsed(message))])
                    self._retrying(self._log.commit)
                    self.messages += len(messages)

    def _parsed(self, message: LogMessage) -> Posted | None:
        try:
            event = orjson.loads(message.body)
        except ValueError as error:
            return self._put_aside(message, f"the message is not valid JSON ({error})")
        if not isinstance(event, dict) or any(isinstance(value, dict | list) for value in event.values()):
            return self._put_aside(message, "the message is not an event, expected one flat JSON object")
        event = {"type": "outcome", "at_ms": message.time_ms} | event
        if event["type"] != "shown":  # one that was shown counts once in its request
            event.setdefault("key", self._key(message))
        return Posted(message, event)

    def _key(self, message: LogMessage) -> str:
        """Name a message; its time tells it from one of a topic that was made anew."""
        text = f"{self._log.name}\0{message.position}\0{message.time_ms}"
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def _post(self, batch: Sequence[Posted]) -> None:
        """Return once each event of `batch` is stored or refused."""
        if not batch:
            return
        call = partial(self._client.events, [posted.event for posted in batch])
        try:
            self._retrying(call, failures=FAILURES if len(batch) > 1 else FAILURES_ALONE)
        except ApiError as error:
            expected = {detail["value"]: detail["expected"] for detail in error.details if error.code == "unknown_video"}
            if unknown := [posted for posted in batch if repr(posted.event.get("video_id")) in expected]:
                self._without(unknown, expected)  # the other events count
                if len(error.details) >= NAMED_MOST:  # there may be others
                    self._post([posted for posted in batch if posted not in unknown])
            elif error.status not in (413, 422, 500) and error.code != "bad_json":
                raise
            elif len(batch) == 1:
                self._put_aside(batch[0].message, error.message)
            else:  # find the message that it is about; what counted counts once
                self._post(batch[: len(batch) // 2])
                self._post(batch[len(batch) // 2 :])

    def _without(self, unknown: Sequence[Posted], expected: Mapping[str, str]) -> None:
        for message, event in unknown:
            video = repr(event["video_id"])
            self._put_aside(message, f"video_id is {video}: expected {expected[video]}")

    def _put_aside(self, message: LogMessage, reason: str) -> None:
        self._retrying(partial(self._refused.add, self._log.name, message, reason))
        self.put_aside += 1
        about = message.position, self._log.name, reason, self.put_aside, self._refused.path
        log.warning("message %s of %s was refused: %s; number %d in %s", *about)

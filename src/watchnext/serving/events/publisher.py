"""Events of a store to a log: each that it commits is appended once, as the event that `POST /v1/events` takes."""

import logging
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from watchnext.data.tables import OUTCOMES
from watchnext.serving.events.event_log import EventLog
from watchnext.serving.events.retrying import Retrying, StoppedError
from watchnext.serving.store.building.opening import opened_journal
from watchnext.serving.store.engines.engine import Engine
from watchnext.serving.store.tables.journal import VIEWERLESS, Event, is_session, journal_of

log = logging.getLogger(__name__)

BATCH = 1_000  # events of one append
POLL_S = 0.5  # between two looks at a journal without new events


class Publisher:
    """Append the events of the journal in the store at `location` to a log, in their order, until it is to stop.

    The number of a message is the event's position in the journal, so that it goes on behind the last one that the log has. A
    server may write the store meanwhile, and replace it by the one of another release: positions stay the same.
    """

    def __init__(self, location: Path | str, log: EventLog, retrying: Retrying) -> None:
        self._location, self._log, self._retrying = location, log, retrying
        self._position: int | None = None  # of the next event; None until the log says what it has
        self.messages = 0

    def run(self) -> None:
        """Return when it is to stop. Raises JournalBehindError."""
        with suppress(StoppedError):
            while not self._retrying.stop.is_set():
                self._retrying(self._follow)
                self._retrying.stop.wait(POLL_S)

    def _follow(self) -> None:
        """Append all that is not there yet; after an error the log is asked again what it has."""
        position, self._position = self._begin(), None
        with closing(opened_journal(self._location)) as engine:
            while not self._retrying.stop.is_set() and (entries := self._entries(engine, position)):
                messages = [(at, orjson.dumps(posted)) for at, event in entries if (posted := as_posted(at, event))]
                if messages:
                    self._log.append(messages)
                self.messages += len(messages)
                position = entries[-1][0] + 1
        self._position = position

    def _begin(self) -> int:
        if self._position is not None:
            return self._position
        last = self._log.appended()
        return 0 if last is None else last + 1

    def _entries(self, engine: Engine, position: int) -> list[tuple[int, Event]]:
        with engine.read() as txn:
            if (end := txn.end("journal")) < position:
                raise JournalBehindError(
                    f"the log has event {position - 1} of a journal, but that of {self._location} ends before {end}: it is "
                    "another store, or one that was restored; run `events out` with an events.group of its own"
                )
            entries = list(islice(journal_of(txn, position), BATCH))
        if entries and position and (dropped := entries[0][0] - position):
            log.warning("the journal of %s has dropped %d events that the log does not have", self._location, dropped)
        return entries


class JournalBehindError(RuntimeError):
    """A journal that ends before the last event that a log has of it."""


def as_posted(position: int, event: Event) -> dict[str, Any] | None:
    """Return an event of a journal as `POST /v1/events` takes it, None for one that is not about a viewer.

    It has a key, or a request, of its own or else its position. The text of a session is known to its client alone: the session
    becomes another one, of its digest.
    """
    if event.kind in VIEWERLESS:
        return None
    viewer = {"session": str(event.user_id).strip()} if is_session(event.user_id) else {"user_id": event.user_id}
    posted = {"type": event.kind, **viewer, "video_id": event.video_id, "at_ms": event.known_at}
    posted |= {"surface": event.surface} if event.surface else {}
    if event.kind == "shown":
        return posted | {"request_id": event.request_id or f"journal-{position}"}
    posted |= {"request_id": event.request_id} if event.request_id else {}
    posted |= {name: True for name in OUTCOMES if getattr(event, name)}
    return posted | {"watch_ms": event.watch_ms, "key": event.key or f"journal-{position}"}

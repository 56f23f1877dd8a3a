"""Events of viewers and videos, and how the journal stores them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple

import numpy as np
import orjson

from watchnext.data.tables import ID_BYTES, LATEST_MS, OUTCOMES, WATCH_MS
from watchnext.serving.store.engines.engine import Transaction, number_key
from watchnext.serving.store.tables.seal import unsealed

# The first two at the indices SHOWN and OUTCOME of features.state.fold.
KINDS = ("shown", "outcome", "withdrawn", "restored", "posted", "changed", "erased")
VIEWERLESS = KINDS[2:]


SESSION_KEYS = (b"s ", b"s!")  # the first key of an anonymous session, and the first behind all of them

ALWAYS = ("user_id", "video_id", "known_at")  # encoded also where they are 0 or empty


class EventFields(NamedTuple):
    """The fields of an `Event`.

    known_at    ms UTC, when the server learned of it
    request_id  of the answer with the impression; "" unknown
    surface     where the video was shown; "" unknown
    key         idempotency key; without one, an outcome counts once for a request and video
    metadata    of a video that is posted: all; of one that is changed: what has another value now
    """

    kind: str
    user_id: int | str
    video_id: int | str
    known_at: int
    watch_ms: int = 0
    click: bool = False
    long_view: bool = False
    like: bool = False
    share: bool = False
    follow: bool = False
    comment: bool = False
    hide: bool = False
    request_id: str = ""
    surface: str = ""
    key: str = ""
    metadata: Mapping | None = None


class Event(EventFields):
    """One impression, one outcome, or (without a user) a video that is withdrawn, restored, posted or changed, or what
    is left of an event of a viewer who was erased.

    A tuple, as a commit reads the fields of a thousand of them column by column. Raises ValueError for an impossible one.
    """

    __slots__ = ()

    def __new__(cls, *arguments, **named) -> "Event":
        event = super().__new__(cls, *arguments, **named)
        if event.kind not in KINDS:
            raise ValueError(f"an event's kind is {event.kind!r}, expected one of {', '.join(KINDS)}")
        if not 0 <= event.known_at <= LATEST_MS:
            raise ValueError(f"an event has known_at {event.known_at}, expected 0 to {LATEST_MS}")
        if not 0 <= event.watch_ms <= WATCH_MS:
            raise ValueError(f"an event has watch_ms {event.watch_ms}, expected 0 to {WATCH_MS}")
        id_key(event.user_id), id_key(event.video_id)
        return event

    @property
    def idempotency_digest(self) -> bytes | None:
        """Digest the identity of an event that may count only once: its key, else the video in its request, else None."""
        if self.kind in VIEWERLESS:
            return None
        if self.key and self.kind == "outcome":
            scope = ("key", self.key, b"")
        elif self.request_id:
            scope = ("request", self.request_id, id_key(self.video_id))
        else:
            return None
        parts = (scope[0].encode(), id_key(self.user_id), scope[1].encode(), scope[2])
        return blake2b(b"\0".join(parts), digest_size=16).digest()

    def to_bytes(self) -> bytes:
        """Encode as JSON without default values, as most flags of most events are false."""
        return orjson.dumps(_stored(self))

    @classmethod
    def from_bytes(cls, packed: bytes) -> "Event":
        return cls(**orjson.loads(packed))


class OwnImpression(Event):
    """An impression of a slate that this server has just made, so that nothing else can be known of its request."""

    __slots__ = ()

    @classmethod
    def shown_together(
        cls, video_ids: Sequence[int | str], *, user_id: int | str, known_at: int, request_id: str, surface: str
    ) -> "list[OwnImpression]":
        """Return the impressions of one slate. Ids are those of a catalogue; the first is checked, with all that they share."""
        if not video_ids:
            return []
        first = cls("shown", user_id, video_ids[0], known_at, request_id=request_id, surface=surface)
        head, tail = first[:VIDEO_ID], first[VIDEO_ID + 1 :]
        return [first, *[tuple.__new__(cls, (*head, video_id, *tail)) for video_id in video_ids[1:]]]


VIDEO_ID = Event._fields.index("video_id")


def _stored(event: Event) -> dict:
    return {name: value for name, value in zip(Event._fields, event, strict=True) if value or name in ALWAYS}


def encoded(events: Sequence[Event]) -> list[bytes]:
    """Return `to_bytes` of each event. What the events of a slate share is encoded once."""
    packed, shared, head, tail = [], None, b"", b""
    for event in events:
        if (others := event[:VIDEO_ID] + event[VIDEO_ID + 1 :]) != shared:
            shared, fields = others, _stored(event)
            before = {name: fields.pop(name) for name in Event._fields[:VIDEO_ID]}
            fields.pop("video_id")
            head, tail = orjson.dumps(before)[:-1] + b',"video_id":', b"," + orjson.dumps(fields)[1:]
        packed.append(head + orjson.dumps(event.video_id) + tail)
    return packed


def columns_of(events: Sequence[Event]) -> dict[str, tuple]:
    """Return the fields of events by name, one value an event each."""
    return dict(zip(Event._fields, zip(*events, strict=True) if events else [()] * len(Event._fields), strict=True))


def outcome_columns(columns: Mapping[str, Sequence]) -> dict[str, np.ndarray]:
    """Return OUTCOMES as booleans and `watch_ms` as float64, (N,) each."""
    outcomes = {name: np.array(columns[name], np.bool_) for name in OUTCOMES}
    return outcomes | {"watch_ms": np.array(columns["watch_ms"], np.float64)}


@lru_cache(65_536, typed=True)
def video_digest(video_id: int | str) -> bytes:
    """Digest the identity of a video, in as many bytes as it has in the key of a request."""
    return blake2b(id_key(video_id), digest_size=8).digest()


def request_digest(user_id: int | str, request_id: str) -> bytes:
    """Digest the identity of all that is shown to a viewer in one request."""
    return blake2b(b"\0".join((b"shown", id_key(user_id), request_id.encode())), digest_size=16).digest()


@lru_cache(65_536, typed=True)  # an event asks for the keys of its ids five times
def id_key(given: int | str) -> bytes:
    """Encode an id as bytes that sort and never collide between kinds. Raises ValueError for an id outside the limits."""
    if isinstance(given, str):
        encoded = given.encode()
        if len(encoded) > ID_BYTES:
            raise ValueError(f"the id {given!r} takes {len(encoded)} bytes, expected at most {ID_BYTES}")
        return b"s" + encoded
    if not -(2**63) <= given < 2**63:
        raise ValueError(f"the id {given} is not an int64, expected -2**63 to 2**63 - 1")
    return b"i" + (int(given) + 2**63).to_bytes(8, "big")


def session_id(session: str) -> str:
    """Return the viewer id under which an anonymous session has its state.

    It begins with a blank, which no viewer id does in a log or a request, so that both never meet. The session itself, which a
    client may treat as a secret, is not written down.
    """
    return f" {blake2b(session.encode(), digest_size=16).hexdigest()}"


def is_session(viewer_id: int | str) -> bool:
    return str(viewer_id).startswith(" ")


def id_of(key: bytes) -> int | str:
    """Decode a key of `id_key`."""
    return key[1:].decode() if key[:1] == b"s" else int.from_bytes(key[1:], "big") - 2**63


def journal_of(txn: Transaction, start: int) -> Iterator[tuple[int, Event]]:
    """Yield positions and events of a journal from position `start` on."""
    for key, packed in txn.items("journal", number_key(start)):
        yield int.from_bytes(key, "big"), event_of(key, packed)


def event_of(key: bytes, packed: bytes) -> Event:
    """Decode an event of the journal. Raises StoreDamagedError."""
    return Event.from_bytes(unsealed("journal", key, packed))


def latest_of(txn: Transaction, end: int, since_ms: float, most: int) -> Iterator[Event]:
    """Yield at most `most` events of a journal before the position `end`, latest first, until one known before `since_ms`."""
    for key, packed in islice(txn.items("journal", reverse=True), most):
        if key >= number_key(end):
            continue
        event = event_of(key, packed)
        if event.known_at < since_ms:
            return
        yield event

"""Events of viewers and videos, and how the journal stores them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from operator import attrgetter

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One impression, one outcome, or (without a user) a video that is withdrawn, restored, posted or changed, or what
    is left of an event of a viewer who was erased.

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

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"an event's kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        for name, most in (("known_at", LATEST_MS), ("watch_ms", WATCH_MS)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"an event has {name} {getattr(self, name)}, expected 0 to {most}")
        id_key(self.user_id), id_key(self.video_id)

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
        values = zip(FIELDS, VALUES(self), strict=True)
        return orjson.dumps({name: value for name, value in values if value or name in ALWAYS})

    @classmethod
    def from_bytes(cls, packed: bytes) -> "Event":
        return cls(**orjson.loads(packed))


FIELDS = tuple(field.name for field in fields(Event))
VALUES = attrgetter(*FIELDS)


def outcome_columns(events: Sequence[Event]) -> dict[str, np.ndarray]:
    """Return OUTCOMES as booleans and `watch_ms` as float64, (N,) each."""
    columns = {name: np.array([getattr(event, name) for event in events], np.bool_) for name in OUTCOMES}
    return columns | {"watch_ms": np.array([event.watch_ms for event in events], np.float64)}


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

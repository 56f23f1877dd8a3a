"""Remember the keys of events, so that none counts twice."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from struct import Struct
from typing import NamedTuple

from watchnext.serving.store.engines.engine import Transaction, number_key
from watchnext.serving.store.tables.journal import Event, OwnImpression, request_digest, video_digest
from watchnext.serving.store.tables.seal import sealed, unsealed

PURGED, STEP_MS = 4, 60_000
CLOCK = Struct(">QQ")  # time, and the latest time of an event
TIME_BYTES, MARK_BYTES = 8, 8


class RecentKeys:
    """Remember at most `limit` keys for `keep_ms`; the oldest are forgotten first, PURGED for each that is added.

    Time is that of the events. None moves it by more than STEP_MS or back, so that a clock that jumps forgets no key too early.
    A process that starts takes the time of its first event for the latest.
    """

    def __init__(self, name: str, *, limit: int, keep_ms: int) -> None:
        self.table, self._order = name, f"{name}_order"
        self._limit, self._keep_ms = limit, keep_ms
        self._is_started = False

    def add(self, txn: Transaction, added: Mapping[bytes, tuple[int, bytes]]) -> None:
        """Remember keys, each with the time of its event and with bytes that are kept behind the time."""
        if not added:
            return
        items, (now_ms, latest_ms) = [], self._clock(txn, next(iter(added.values()))[0])
        for key, (at_ms, marks) in added.items():
            now_ms += min(max(at_ms - latest_ms, 0), STEP_MS)
            latest_ms = max(at_ms, latest_ms)
            items.append((key, sealed(key, number_key(now_ms) + marks)))
        txn.append_many(self._order, list(added))
        txn.put_many(self.table, items)
        txn.put("clocks", self.table.encode(), CLOCK.pack(now_ms, latest_ms))

    def purge(self, txn: Transaction, added: int) -> None:
        """Forget old keys: a few for each that the transaction `added`, so that no call pays for many others."""
        if (clock := txn.get("clocks", self.table.encode())) is None:
            return
        until_ms = CLOCK.unpack(clock)[0] - self._keep_ms
        excess = txn.count(self.table) - self._limit
        if excess <= 0 and all(self._added_ms(txn, key) >= until_ms for _, key in txn.head(self._order, 1)):
            return  # as most often; the others are not read
        oldest = txn.head(self._order, PURGED * added)
        txn.prefetch(self.table, [key for _, key in oldest])
        for i, (position, key) in enumerate(oldest):
            if i >= excess and self._added_ms(txn, key) >= until_ms:
                return
            txn.delete(self.table, key)
            txn.delete(self._order, position)

    def _clock(self, txn: Transaction, at_ms: int) -> tuple[int, int]:
        """Return the time, and the latest time of an event."""
        if clock := txn.get("clocks", self.table.encode()):
            now_ms, latest_ms = CLOCK.unpack(clock)
        else:  # a store of an older version, or a new one
            last = next(txn.items(self._order, reverse=True), None)
            now_ms = latest_ms = self._added_ms(txn, last[1]) if last else at_ms
        latest_ms, self._is_started = latest_ms if self._is_started else at_ms, True
        return now_ms, latest_ms

    def _added_ms(self, txn: Transaction, key: bytes) -> int:
        value = txn.get(self.table, key)
        return 0 if value is None else int.from_bytes(unsealed(self.table, key, value)[:TIME_BYTES], "big")


class EventKeys:
    """Say which events are new. Those of one request that are shown together, as a slate is, share one key, which has a mark of
    MARK_BYTES for each with it: twenty keys would be as many pages that a commit writes.

    A mark is the digest of the video, or the start of the event's own key. A slate of this server has the former: making twenty
    keys took a third of its commit.
    """

    def __init__(self, *, keys: RecentKeys, shown: RecentKeys) -> None:
        self._keys, self._shown = keys, shown

    def admit(self, txn: Transaction, events: Sequence[Event]) -> list[bool]:
        """Say of each event whether it is new, and remember those that are."""
        keys, shown = _Draft(txn, self._keys.table), _Draft(txn, self._shown.table)
        runs = [_Run.of(*each) for each in groupby(events, REQUEST)]
        for run in runs:
            (shown if run.request else keys).prefetch(run.keys)
        shown.prefetch(run.request for run in runs if run.keys)
        admitted = []
        for run in runs:
            admitted += _of_request(shown, run) if run.request else map(partial(_of_key, keys), run.events, run.keys)
        self._keys.add(txn, keys.added)
        self._shown.add(txn, shown.added)
        return admitted

    def purge(self, txn: Transaction, added: int) -> None:
        """Forget old keys, as `RecentKeys.purge`."""
        for recent in (self._keys, self._shown):
            recent.purge(txn, added)


class _Draft:
    """The keys of a table with those that the transaction adds: key > time of the event and marks."""

    def __init__(self, txn: Transaction, table: str) -> None:
        self._txn, self._table = txn, table
        self.added: dict[bytes, tuple[int, bytes]] = {}

    def prefetch(self, keys: Iterable[bytes | None]) -> None:
        self._txn.prefetch(self._table, [key for key in keys if key])

    def marks(self, key: bytes) -> bytes | None:
        """Return the marks of a key, None for one that is not remembered."""
        if key in self.added:
            return self.added[key][1]
        value = self._txn.get(self._table, key)
        return None if value is None else unsealed(self._table, key, value)[TIME_BYTES:]


REQUEST = attrgetter("kind", "user_id", "request_id")


class _Run(NamedTuple):
    """Events that follow one another and have REQUEST in common, and their own keys; none of a slate of this server.

    request  digest of the request in which they were shown; None where they are no impressions, or of no request
    """

    events: Sequence[Event]
    keys: Sequence[bytes | None]
    request: bytes | None

    @classmethod
    def of(cls, common: tuple, events: Iterable[Event]) -> "_Run":
        (kind, user_id, request_id), events = common, list(events)
        request = request_digest(user_id, request_id) if kind == "shown" and request_id else None
        is_own = type(events[0]) is type(events[-1]) is OwnImpression
        return cls(events, () if is_own else [event.idempotency_digest for event in events], request)


def _of_key(draft: _Draft, event: Event, key: bytes | None) -> bool:
    if key is None:
        return True
    if is_new := draft.marks(key) is None:
        draft.added[key] = event.known_at, b""
    return is_new


def _of_request(draft: _Draft, run: _Run) -> list[bool]:
    """Say which events of one request are new. A key that exists is not added to: a request would be as large as it likes."""
    if not run.keys:
        draft.added[run.request] = run.events[0].known_at, b"".join([video_digest(event.video_id) for event in run.events])
        return [True] * len(run.events)
    common = draft.marks(run.request)
    held = {common[at : at + MARK_BYTES] for at in range(0, len(common or b""), MARK_BYTES)}
    new: dict[bytes, int] = {}
    for event, key in zip(run.events, run.keys, strict=True):
        marks = {key[:MARK_BYTES], video_digest(event.video_id)}
        if key not in new and held.isdisjoint(marks) and draft.marks(key) is None:
            new[key] = event.known_at
    if common is None and len(new) > 1:
        draft.added[run.request] = max(new.values()), b"".join(key[:MARK_BYTES] for key in new)
    else:
        draft.added |= {key: (known_at, b"") for key, known_at in new.items()}
    left = dict(new)
    return [left.pop(key, None) is not None for key in run.keys]

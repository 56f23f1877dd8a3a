"""Remember the keys of events, so that none counts twice."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from struct import Struct

from watchnext.serving.store.engines.engine import Transaction, number_key
from watchnext.serving.store.tables.journal import Event, request_digest

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
            items.append((key, number_key(now_ms) + marks))
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
        return int.from_bytes((txn.get(self.table, key) or b"")[:TIME_BYTES], "big")


class EventKeys:
    """Say which events are new. Those of one request that are shown together, as a slate is, share one key, which has the first
    MARK_BYTES of each event's own key with it: twenty keys would be as many pages that a commit writes."""

    def __init__(self, *, keys: RecentKeys, shown: RecentKeys) -> None:
        self._keys, self._shown = keys, shown

    def admit(self, txn: Transaction, events: Sequence[Event]) -> list[bool]:
        """Say of each event whether it is new, and remember those that are."""
        digests = [event.idempotency_digest for event in events]
        keys, shown = _Draft(txn, self._keys.table), _Draft(txn, self._shown.table)
        keyed = groupby(zip(events, digests, strict=True), lambda each: _request(each[0]))
        runs = [(request, list(run)) for request, run in keyed]
        for request, run in runs:
            (shown if request else keys).prefetch(key for _, key in run)
        shown.prefetch(request_digest(*request) for request, _ in runs if request)
        admitted = []
        for request, run in runs:
            admitted += _of_request(shown, request, run) if request else [_of_key(keys, *each) for each in run]
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
        return None if value is None else value[TIME_BYTES:]


def _request(event: Event) -> tuple | None:
    return (event.user_id, event.request_id) if event.kind == "shown" and event.request_id else None


def _of_key(draft: _Draft, event: Event, key: bytes | None) -> bool:
    if key is None:
        return True
    if is_new := draft.marks(key) is None:
        draft.added[key] = event.known_at, b""
    return is_new


def _of_request(draft: _Draft, request: tuple, run: Sequence[tuple[Event, bytes]]) -> list[bool]:
    """Say which events of one request are new. A key that exists is not added to: a request would be as large as it likes."""
    common = draft.marks(shared := request_digest(*request))
    held = {common[at : at + MARK_BYTES] for at in range(0, len(common or b""), MARK_BYTES)}
    new: dict[bytes, int] = {}
    for event, key in run:
        if key not in new and key[:MARK_BYTES] not in held and draft.marks(key) is None:
            new[key] = event.known_at
    if common is None and len(new) > 1:
        draft.added[shared] = max(new.values()), b"".join(key[:MARK_BYTES] for key in new)
    else:
        draft.added |= {key: (known_at, b"") for key, known_at in new.items()}
    left = dict(new)
    return [left.pop(key, None) is not None for _, key in run]

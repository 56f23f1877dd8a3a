"""Remember the keys of events, so that none counts twice."""

from struct import Struct

from watchnext.serving.store.engines.engine import Transaction, number_key

PURGED, STEP_MS = 4, 60_000
CLOCK = Struct(">QQ")  # time, and the latest time of an event


class RecentKeys:
    """Remember at most `limit` keys for `keep_ms`; the oldest are forgotten first, PURGED for each that is added.

    Time is that of the events. None moves it by more than STEP_MS or back, so that a clock that jumps forgets no key too early.
    A process that starts takes the time of its first event for the latest.
    """

    def __init__(self, name: str, *, limit: int, keep_ms: int) -> None:
        self._table, self._order = name, f"{name}_order"
        self._limit, self._keep_ms = limit, keep_ms
        self._is_started = False

    def holds(self, txn: Transaction, key: bytes) -> bool:
        return txn.get(self._table, key) is not None

    def add(self, txn: Transaction, key: bytes, at_ms: int) -> None:
        now_ms, latest_ms = self._clock(txn, at_ms)
        now_ms += min(max(at_ms - latest_ms, 0), STEP_MS)
        txn.put("clocks", self._table.encode(), CLOCK.pack(now_ms, max(at_ms, latest_ms)))
        txn.put(self._table, key, number_key(now_ms))
        txn.append(self._order, key)

    def purge(self, txn: Transaction, added: int) -> None:
        """Forget old keys: a few for each that the transaction `added`, so that no call pays for many others."""
        if (clock := txn.get("clocks", self._table.encode())) is None:
            return
        until_ms = CLOCK.unpack(clock)[0] - self._keep_ms
        excess = txn.count(self._table) - self._limit
        oldest = txn.head(self._order, PURGED * added)
        txn.prefetch(self._table, [key for _, key in oldest])
        for i, (position, key) in enumerate(oldest):
            if i >= excess and self._added_ms(txn, key) >= until_ms:
                return
            txn.delete(self._table, key)
            txn.delete(self._order, position)

    def _clock(self, txn: Transaction, at_ms: int) -> tuple[int, int]:
        """Return the time, and the latest time of an event."""
        if clock := txn.get("clocks", self._table.encode()):
            now_ms, latest_ms = CLOCK.unpack(clock)
        else:  # a store of an older version, or a new one
            last = next(txn.items(self._order, reverse=True), None)
            now_ms = latest_ms = self._added_ms(txn, last[1]) if last else at_ms
        latest_ms, self._is_started = latest_ms if self._is_started else at_ms, True
        return now_ms, latest_ms

    def _added_ms(self, txn: Transaction, key: bytes) -> int:
        return int.from_bytes(txn.get(self._table, key) or b"", "big")

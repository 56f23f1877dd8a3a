"""Remember the keys of events, so that none counts twice."""

from watchnext.serving.store.engines.engine import Transaction, number_key

PURGED, STEP_MS = 4, 60_000


class RecentKeys:
    """Remember at most `limit` keys for `keep_ms`; the oldest are forgotten first, PURGED for each that is added.

    Time is that of the events. None moves it by more than STEP_MS or back, so that a clock that jumps forgets no key too early.
    """

    def __init__(self, name: str, *, limit: int, keep_ms: int) -> None:
        self._table, self._order = name, f"{name}_order"
        self._limit, self._keep_ms = limit, keep_ms
        self._now_ms = self._latest_ms = None

    def holds(self, txn: Transaction, key: bytes) -> bool:
        return txn.get(self._table, key) is not None

    def add(self, txn: Transaction, key: bytes, at_ms: int) -> None:
        txn.put(self._table, key, number_key(self._time_ms(txn, at_ms)))
        txn.append(self._order, key)

    def purge(self, txn: Transaction, added: int) -> None:
        """Forget old keys: a few for each that the transaction `added`, so that no call pays for many others."""
        if self._now_ms is None:
            return
        oldest = txn.head(self._order, PURGED * added)
        txn.prefetch(self._table, [key for _, key in oldest])
        excess = txn.count(self._table) - self._limit
        for i, (position, key) in enumerate(oldest):
            if i >= excess and self._added_ms(txn, key) >= self._now_ms - self._keep_ms:
                return
            txn.delete(self._table, key)
            txn.delete(self._order, position)

    def _time_ms(self, txn: Transaction, at_ms: int) -> int:
        if self._now_ms is None:
            last = next(txn.items(self._order, reverse=True), None)
            self._now_ms = self._added_ms(txn, last[1]) if last else at_ms
            self._latest_ms = at_ms
        self._now_ms += min(max(at_ms - self._latest_ms, 0), STEP_MS)
        self._latest_ms = max(at_ms, self._latest_ms)
        return self._now_ms

    def _added_ms(self, txn: Transaction, key: bytes) -> int:
        return int.from_bytes(txn.get(self._table, key) or b"", "big")

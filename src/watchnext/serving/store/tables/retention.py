"""Decide which events count, and bound what a store keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.serving.store.engines.engine import Engine, Transaction
from watchnext.serving.store.tables.journal import Event, event_of, id_key
from watchnext.serving.store.tables.recent_keys import EventKeys, RecentKeys
from watchnext.serving.store.tables.records import OF_VIEWER, queued, unpacked

ACCEPTED, DUPLICATE, UNKNOWN, CREATED = "accepted", "duplicate", "unknown", "created"
HOUR_MS = 3_600_000
KEYS_KEPT, KEYS_KEPT_MS = 10_000_000, 7 * 24 * HOUR_MS  # a client may repeat an event for this long
SHOWN_KEPT, SHOWN_KEPT_MS = 1_000_000, 24 * HOUR_MS
VIEWERS_KEPT, JOURNAL_BYTES, LIVE_VIDEOS = 2_000_000, 4 << 30, 100_000
QUARANTINE_KEPT = 10_000


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Bound what a store keeps.

    viewers        number of records; above it those without a recent event go, and before all others those without a watch
    journal_bytes  size of the journal: above it the oldest events go that the release holds; the others always stay
    live_videos    number of videos that are posted or changed between two releases; more are refused
    """

    viewers: int = VIEWERS_KEPT
    journal_bytes: int = JOURNAL_BYTES
    live_videos: int = LIVE_VIDEOS


class Retention:
    """Keep the keys of events from counting twice, and drop the oldest keys, events and viewers above the `bounds`.

    as_of_ms  of the release, which holds the events before it
    """

    def __init__(self, layout: Layout, as_of_ms: int, bounds: Bounds) -> None:
        self.bounds = bounds
        self._layout, self._as_of_ms = layout, as_of_ms
        self._keys = EventKeys(
            keys=RecentKeys("keys", limit=KEYS_KEPT, keep_ms=KEYS_KEPT_MS),
            shown=RecentKeys("shown", limit=SHOWN_KEPT, keep_ms=SHOWN_KEPT_MS),
        )

    def admit(self, txn: Transaction, events: Sequence[Event], rows: np.ndarray) -> list[str]:
        """Decide which events count, and remember their keys; those about unknown videos (row -1) are quarantined."""
        for table in ("viewers", "seen"):
            txn.prefetch(table, [*map(id_key, {event.user_id for event in events})])
        known = (rows >= 0).tolist()
        new = iter(self._keys.admit(txn, [event for event, is_known in zip(events, known, strict=True) if is_known]))
        results = [(ACCEPTED if next(new) else DUPLICATE) if is_known else UNKNOWN for is_known in known]
        txn.append_many("quarantine", [event.to_bytes() for event, is_known in zip(events, known, strict=True) if not is_known])
        return results

    def remember(self, txn: Transaction, events: Sequence[Event]) -> None:
        """Remember the keys of events that another store accepted."""
        self._keys.admit(txn, events)

    def drop_excess(self, txn: Transaction, added: int, unknown: int) -> None:
        """Drop what is above the bounds: a few more than were added, so that no call pays for many others."""
        self._keys.purge(txn, added)
        for position, _ in txn.head("quarantine", min(2 * unknown, max(txn.count("quarantine") - QUARANTINE_KEPT, 0))):
            txn.delete("quarantine", position)
        self.drop_viewers(txn, 2 * added)
        if txn.size("journal") > self.bounds.journal_bytes:
            self._drop_events(txn, 2 * added)

    def _drop_events(self, txn: Transaction, most: int) -> None:
        for key, packed in txn.head("journal", most):
            if txn.size("journal") <= self.bounds.journal_bytes or event_of(key, packed).known_at >= self._as_of_ms:
                return
            txn.delete("journal", key)

    def drop_viewers(self, txn: Transaction, most: int) -> None:
        """Drop viewers above the bound, by the second-chance algorithm (Corbató, 1968).

        They stand in a queue. Who is at its head goes without an event since being queued, or without any watch; others are
        queued again.
        """
        if (excess := txn.count("viewers") - self.bounds.viewers) <= 0:
            return
        queue = [(position, int.from_bytes(value[:8], "big"), value[8:]) for position, value in txn.head("viewers_order", most)]
        for table in OF_VIEWER:
            txn.prefetch(table, [key for _, _, key in queue if key])
        for position, queued_ms, key in queue:
            if not key:  # of a viewer who was erased
                txn.delete("viewers_order", position)
                continue
            record = unpacked("viewers", key, txn.get("viewers", key), self._layout.viewer)
            txn.delete("viewers_order", position)
            if record[0] > queued_ms and record[self._layout.at_history]:
                txn.append("viewers_order", queued(key, record))
                continue
            excess -= txn.delete("viewers", key)
            txn.delete("seen", key)
            txn.delete("slates", key)
            if excess <= 0:
                return


def queue_viewers(engine: Engine) -> None:
    """Queue all viewers of a store that was just built, or by a version that had no queue."""
    with engine.read() as txn:
        if txn.count("viewers") == txn.count("viewers_order"):
            return
    with engine.write() as txn:
        txn.clear("viewers_order")
        for key, packed in txn.items("viewers"):
            txn.append("viewers_order", queued(key, np.frombuffer(packed, count=1)))

"""Fold events into the records of a store, within a transaction."""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from watchnext.features.state import counters, history
from watchnext.features.state.fold import OUTCOME, SHOWN, fold_events
from watchnext.features.state.seen import SeenSet, days_of, keys_of
from watchnext.serving.release.live_catalogue import LiveCatalogue, LiveIds
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import CHUNK, REPAIR, Engine, StoreError, Transaction, number_key
from watchnext.serving.store.tables.item_records import ItemRecords
from watchnext.serving.store.tables.journal import (
    VIEWERLESS,
    Event,
    columns_of,
    id_key,
    is_session,
    journal_of,
    outcome_columns,
)
from watchnext.serving.store.tables.live_videos import LiveDraft
from watchnext.serving.store.tables.records import Records
from watchnext.serving.store.tables.retention import ACCEPTED, CREATED, UNKNOWN
from watchnext.serving.store.tables.seal import sealed

NO_ROWS = np.zeros(0, np.int64)


class Folding:
    """Fold events into working copies of the records `items` and of viewers, and write these into a transaction."""

    def __init__(self, engine: Engine, release: Release, catalogue: LiveCatalogue, items: ItemRecords) -> None:
        self._engine, self._catalogue, self._items = engine, catalogue, items
        self._layout, self._as_of_ms, self._user_ids = release.layout, release.as_of_ms, release.user_ids
        self._counts = release.pipeline.schema.state.counts

    def warm(self) -> None:
        """Compile the fold before the first event needs it."""
        item, row, number = np.zeros((1, self._layout.item)), np.zeros(1, np.int64), np.zeros(1)
        viewer, amounts = np.zeros((1, self._layout.viewer)), np.zeros((1, len(self._counts)))
        SeenSet.empty().with_events(np.zeros(1, np.uint32), np.zeros(1, np.uint16))
        records = viewer, item, item.copy(), np.zeros((1, 3), np.int64)
        tags = self._catalogue.tag_rows[:1].copy()
        fold_events(self._layout, *records, row, number, row, row - 1, tags, amounts, number, number)

    def fold(self, txn: Transaction, events: Sequence[Event], rows: np.ndarray) -> None:
        """Fold events about the videos `rows` into working copies, and write these into the transaction."""
        for event in events:
            if event.kind in VIEWERLESS:
                _withdraw(txn, event)
        of_viewers = [i for i, event in enumerate(events) if event.kind not in VIEWERLESS]
        if of_viewers:
            self._fold(txn, [events[i] for i in of_viewers], rows[of_viewers])

    def _fold(self, txn: Transaction, events: Sequence[Event], rows: np.ndarray) -> None:
        """Fold events of viewers, all in one call of the compiled fold."""
        catalogue, columns = self._catalogue, columns_of(events)
        creator_rows = catalogue.creator_rows[rows].astype(np.int64)
        of_events = {"keys": [*map(id_key, columns["user_id"])], "rows": rows, "creator_rows": creator_rows}
        records = Records(txn, self._layout, self._items, **of_events)
        duration_ms = catalogue.duration_ms[rows]
        outcomes = outcome_columns(columns) | {"duration_ms": np.where(np.isnan(duration_ms), 0.0, duration_ms)}
        bits, watch_ms = history.outcome_bits(outcomes), outcomes["watch_ms"]
        kinds = np.array([SHOWN if kind == "shown" else OUTCOME for kind in columns["kind"]])
        known_at = np.array(columns["known_at"], np.int64)
        about = catalogue.tag_rows[rows], counters.amounts(self._counts, outcomes), watch_ms, bits
        copies = records.viewers, records.videos, records.creators, records.at
        fold_events(self._layout, *copies, kinds, known_at.astype(np.float64), rows, creator_rows, *about)
        records.write(keys_of(rows, watch_ms, bits), days_of(known_at))

    def fold_behind(self, txn: Transaction, events: Sequence[Event] = (), rows: np.ndarray = NO_ROWS) -> int:
        """Fold `events` about the videos `rows`, and before them those that servers of another catalogue wrote to the journal.

        Returns the number of the latter. Raises StoreError where they are too many for a transaction with others.
        """
        late, late_rows = [], NO_ROWS
        start, end = int.from_bytes(txn.get("meta", b"folded") or b"", "big"), txn.end("journal")
        if self._engine.is_shared and start < end:
            part = list(islice(journal_of(txn, start), CHUNK))
            first, until = (part[0][0], part[-1][0] + 1) if part else (end, end)
            if 0 < start < first:
                raise StoreError(f"the journal dropped {first - start} events that the records lack; run `{REPAIR}`")
            if events and until < end:
                raise StoreError(
                    f"the records lack {end - start} events that other servers wrote; they are being folded, retry"
                )
            late, late_rows = self.foldable(txn, [event for _, event in part])
            self.mark_folded(txn, late, until)
        self.fold(txn, [*late, *events], np.concatenate([late_rows, rows]))
        return len(late)

    def foldable(self, txn: Transaction, events: Sequence[Event]) -> tuple[list[Event], np.ndarray]:
        """Return those of the journal's `events` that the state lacks and can hold, and the rows of their videos."""
        since_ms = int.from_bytes(txn.get("meta", b"since") or b"", "big")
        events = [event for event in events if event.known_at >= since_ms]
        rows = self._catalogue.ids.rows([event.video_id for event in events])
        known = np.flatnonzero([self._is_known(event, row) for event, row in zip(events, rows, strict=True)])
        return [events[i] for i in known], rows[known]

    def _is_known(self, event: Event, row: int) -> bool:
        if event.kind not in ("shown", "outcome"):
            # A shared table is common to all catalogues, and up to date.
            return not self._engine.is_shared and (row >= 0 or event.kind == "posted")
        return row >= 0 and (is_session(event.user_id) or self._user_ids.takes(event.user_id))

    def fold_catalogue(self, txn: Transaction, events: Sequence[Event], known_beside: LiveIds | None = None) -> list[str]:
        """Write what events about videos alone say into the transaction; return what each was: ACCEPTED, CREATED or UNKNOWN.

        Of a video that is `known_beside` alone, only its withdrawal is written.
        """
        draft, results = LiveDraft(txn, self._catalogue, self._as_of_ms), []
        for event in events:
            known = draft.knows(event.video_id)
            beside = not known and known_beside is not None and known_beside.rows([event.video_id])[0] >= 0
            results.append(ACCEPTED if known else CREATED if event.kind == "posted" else ACCEPTED if beside else UNKNOWN)
            if results[-1] == UNKNOWN:
                continue
            if event.kind == "posted" or (known and event.kind == "changed"):
                draft.change(event)
            _withdraw(txn, event)
        draft.write()
        return results

    def mark_folded(self, txn: Transaction, events: Sequence[Event], end: int) -> None:
        """Remember the time of the latest of `events`, and where the journal is shared, the `end` of what is folded."""
        before = int.from_bytes(txn.get("meta", b"last_known_at") or b"", "big")
        txn.put("meta", b"last_known_at", number_key(max([before, *(event.known_at for event in events)])))
        if self._engine.is_shared:
            txn.put("meta", b"folded", number_key(end))


def _withdraw(txn: Transaction, event: Event) -> None:
    if event.kind == "withdrawn":
        key = id_key(event.video_id)
        txn.put("withdrawn", key, sealed(key, number_key(event.known_at)))
    elif event.kind in ("restored", "posted"):
        txn.delete("withdrawn", id_key(event.video_id))

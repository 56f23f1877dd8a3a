"""Read a store: its tables on disk, and its records in memory."""

from abc import ABC
from collections.abc import Iterator, Sequence
from itertools import chain, islice, takewhile

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.features.state.seen import SeenSet
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.serving.store.engines.engine import TABLES, Engine
from watchnext.serving.store.tables.item_records import ItemRecords
from watchnext.serving.store.tables.journal import SESSION_KEYS, Event, id_key, id_of, journal_of
from watchnext.serving.store.tables.records import is_erased, seen_of, slate_of, unpacked
from watchnext.serving.store.tables.seal import unsealed


class Reading(ABC):
    """Reads of a store. Any thread may call them; each sees whole commits."""

    _engine: Engine
    _items: ItemRecords
    layout: Layout
    catalogue: LiveCatalogue

    @property
    def videos(self) -> np.ndarray:
        return self._items.videos[: len(self.catalogue)]

    @property
    def creators(self) -> np.ndarray:
        return self._items.creators[: max(len(self.catalogue.creator_names), 1)]

    @property
    def unavailable(self) -> np.ndarray:
        return self._items.unavailable[: len(self.catalogue)]

    def viewer(self, user_id: int | str) -> np.ndarray:
        """Return a viewer's record (layout.viewer,) float64; zeros for an unknown viewer. Raises StoreError."""
        key = id_key(user_id)
        return unpacked("viewers", key, self._engine.get("viewers", key), self.layout.viewer)

    def seen(self, user_id: int | str) -> SeenSet:
        """Return what a viewer has seen; nothing for an unknown viewer. Raises StoreError."""
        key = id_key(user_id)
        return seen_of(key, self._engine.get("seen", key))

    def stored(self, user_id: int | str) -> tuple[bytes | None, SeenSet]:
        """Return a viewer's precomputed slate as it was stored, and with one what the viewer has seen, of one moment. Raises
        StoreError."""
        key = id_key(user_id)
        with self._engine.read() as txn:
            slate = slate_of(key, txn.get("slates", key))
            return slate, SeenSet.empty() if slate is None else seen_of(key, txn.get("seen", key))

    def viewers(self, user_ids: Sequence[int | str]) -> tuple[np.ndarray, list[SeenSet]]:
        """Return the records (N, layout.viewer) of several viewers and what each has seen, of one moment. Raises StoreError."""
        keys, records = [id_key(user_id) for user_id in user_ids], np.zeros((len(user_ids), self.layout.viewer))
        with self._engine.read() as txn:
            for table in ("viewers", "seen"):
                txn.prefetch(table, keys)
            for record, key in zip(records, keys, strict=True):
                if (packed := txn.get("viewers", key)) is not None:
                    record[:] = np.frombuffer(unsealed("viewers", key, packed))
            return records, [seen_of(key, txn.get("seen", key)) for key in keys]

    def counters(self, viewer: np.ndarray, rows: np.ndarray, as_of: float) -> np.ndarray:
        """Return counters (C, 4, block) of the candidates `rows` (C,) for a viewer's record, as of `as_of` and one commit."""
        return self._items.counters(self.catalogue, viewer, rows, as_of)

    def crosses(self, viewer: np.ndarray, rows: np.ndarray, as_of: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what of `counters` is the viewer's own (n, 2, block), and the positions (n,) in `rows` that have any."""
        return self._items.crosses(self.catalogue, viewer, rows, as_of)

    def video_records(self, rows: np.ndarray) -> np.ndarray:
        """Return records (n, layout.item) of the videos `rows` (n,), as of one commit."""
        return self._items.of_videos(rows)

    def viewer_ids(self, limit: int) -> list[int | str]:
        """Return the first `limit` known viewers, in id order, without anonymous sessions."""
        first, end = SESSION_KEYS
        with self._engine.read() as txn:
            before = takewhile(lambda item: item[0] < first, txn.items("viewers"))
            return [id_of(key) for key, _ in islice(chain(before, txn.items("viewers", end)), limit)]

    def journal(self, start: int = 0) -> Iterator[Event]:
        """Yield the accepted events from position `start` on that the journal keeps, as of the start of the reading."""
        for _, event in self.entries(start):
            yield event

    def entries(self, start: int = 0) -> Iterator[tuple[int, Event]]:
        """Yield positions and events from position `start` on, as `journal` does."""
        with self._engine.read() as txn:
            yield from journal_of(txn, start)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return table > number of entries, and bytes."""
        with self._engine.read() as txn:
            return {name: (txn.count(name), txn.size(name)) for name in TABLES}

    def quarantined(self) -> list[Event]:
        """Return events about videos that the catalogue does not know, oldest first, at most QUARANTINE_KEPT."""
        with self._engine.read() as txn:
            return [Event.from_bytes(packed) for _, packed in txn.items("quarantine")]

    def erased(self, user_ids: Sequence[int | str]) -> set[int | str]:
        """Return those of some viewers who were erased and have not come back. Raises StoreError."""
        with self._engine.read() as txn:
            return {user_id for user_id in user_ids if is_erased(txn, id_key(user_id))}

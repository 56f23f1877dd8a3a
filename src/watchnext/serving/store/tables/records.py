"""Working copies of the records that one transaction changes; no other thread sees them before the commit."""

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.features.state.seen import SeenSet
from watchnext.serving.store.engines.engine import Transaction, number_key
from watchnext.serving.store.tables.seal import sealed, unsealed

OF_VIEWER = ("viewers", "seen", "slates")  # tables with the viewer's key


def unpacked(table: str, key: bytes, packed: bytes | None, width: int) -> np.ndarray:
    """Decode a record for the fold: writable, contiguous float64; zeros for an absent one. Raises StoreDamagedError."""
    return np.zeros(width) if packed is None else np.frombuffer(unsealed(table, key, packed)).copy()


def seen_of(key: bytes, packed: bytes | None) -> SeenSet:
    """Decode what a viewer has seen; nothing for an absent one. Raises StoreDamagedError."""
    return SeenSet.empty() if packed is None else SeenSet.from_bytes(unsealed("seen", key, packed))


def queued(key: bytes, record: np.ndarray) -> bytes:
    """Encode a viewer's place in the queue of those to drop: the time of the last event, and the key."""
    return number_key(int(record[0])) + key


class Records:
    """Records by viewer key, video row and creator row, copied when first read."""

    def __init__(self, txn: Transaction, layout: Layout, videos: np.ndarray, creators: np.ndarray) -> None:
        self._txn, self._layout = txn, layout
        self._videos, self._creators = videos, creators
        self._changed_viewers: dict[bytes, np.ndarray] = {}
        self._new_viewers: list[bytes] = []
        self._seen: dict[bytes, list[tuple[int, int]]] = {}
        self._changed_videos: dict[int, np.ndarray] = {}
        self._changed_creators: dict[int, np.ndarray] = {}
        self._no_creator = np.zeros(layout.item)  # the record for videos without a creator

    def viewer(self, key: bytes) -> np.ndarray:
        if key not in self._changed_viewers:
            packed = self._txn.get("viewers", key)
            if packed is None:
                self._new_viewers.append(key)
            self._changed_viewers[key] = unpacked("viewers", key, packed, self._layout.viewer)
        return self._changed_viewers[key]

    def see(self, key: bytes, seen_key: int, day: int) -> None:
        """Add a key of `features.state.seen` to what the viewer has seen."""
        self._seen.setdefault(key, []).append((seen_key, day))

    def video(self, row: int) -> np.ndarray:
        if row not in self._changed_videos:
            self._changed_videos[row] = self._videos[row].copy()
        return self._changed_videos[row]

    def creator(self, row: int) -> np.ndarray:
        if row < 0:
            return self._no_creator
        if row not in self._changed_creators:
            self._changed_creators[row] = self._creators[row].copy()
        return self._changed_creators[row]

    def write(self) -> None:
        """Write every copy into the transaction, and queue new viewers."""
        for key in self._new_viewers:
            self._txn.append("viewers_order", queued(key, self._changed_viewers[key]))
        items = {"viewers": self._changed_viewers.items()}
        for name, changed in (("videos", self._changed_videos), ("creators", self._changed_creators)):
            items[name] = [(number_key(row), record) for row, record in changed.items()]
        for name, records in items.items():
            self._txn.put_many(name, [(key, sealed(key, record.tobytes())) for key, record in records])
        self._txn.put_many("seen", [(key, sealed(key, self._seen_after(key))) for key in self._seen])

    def _seen_after(self, key: bytes) -> bytes:
        keys, days = zip(*self._seen[key], strict=True)
        before = seen_of(key, self._txn.get("seen", key))
        return before.with_events(np.array(keys, np.uint32), np.array(days, np.uint16)).to_bytes()

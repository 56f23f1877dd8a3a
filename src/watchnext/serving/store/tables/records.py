"""Working copies of the records that one transaction changes; no other thread sees them before the commit."""

from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.features.state.seen import SeenSet
from watchnext.serving.store.engines.engine import Transaction, number_key
from watchnext.serving.store.tables.item_records import ItemRecords
from watchnext.serving.store.tables.seal import SEAL_BYTES, is_intact, sealed, unsealed

OF_VIEWER = ("viewers", "seen", "slates")  # tables with the viewer's key


def digest_of(key: bytes) -> bytes:
    """Digest a viewer's key, so that a store knows whom it erased without naming them."""
    return blake2b(b"erased\0" + key, digest_size=16).digest()


def is_erased(txn: Transaction, key: bytes) -> bool:
    """Return True for a viewer who was erased and has not come back."""
    return txn.get("erased", digest_of(key)) is not None and txn.get("viewers", key) is None


def unpacked(table: str, key: bytes, packed: bytes | None, width: int) -> np.ndarray:
    """Decode a record for the fold: writable, contiguous float64; zeros for an absent one. Raises StoreDamagedError."""
    return np.zeros(width) if packed is None else np.frombuffer(unsealed(table, key, packed)).copy()


def seen_of(key: bytes, packed: bytes | None) -> SeenSet:
    """Decode what a viewer has seen; nothing for an absent one. Raises StoreDamagedError."""
    return SeenSet.empty() if packed is None else SeenSet.from_bytes(unsealed("seen", key, packed))


def slate_of(key: bytes, packed: bytes | None) -> bytes | None:
    """Return a slate as it was stored; None for an absent or damaged one, which the next batch makes again."""
    return packed[:-SEAL_BYTES] if packed is not None and is_intact("slates", key, packed) else None


def queued(key: bytes, record: np.ndarray) -> bytes:
    """Encode a viewer's place in the queue of those to drop: the time of the last event, and the key."""
    return number_key(int(record[0])) + key


class Records:
    """Copies of the records of the viewers `keys`, the videos `rows` and the creators `creator_rows` of N events.

    viewers (n, layout.viewer), videos and creators (m, layout.item)  float64, each record once
    at (N, 3)                                                         positions of each event's records in them; those without
                                                                      a creator (row -1) share a record that is not written
    """

    def __init__(
        self,
        txn: Transaction,
        layout: Layout,
        items: ItemRecords,
        *,
        keys: Sequence[bytes],
        rows: np.ndarray,
        creator_rows: np.ndarray,
    ) -> None:
        self._txn = txn
        self._keys, of_viewers = _distinct(keys)
        self._rows, of_videos = _distinct(rows.tolist())
        self._creator_rows, of_creators = _distinct(creator_rows.tolist())
        packed = [txn.get("viewers", key) for key in self._keys]
        self._new = [at for at in dict.fromkeys(of_viewers) if packed[at] is None]
        self.viewers = np.array(
            [unpacked("viewers", key, each, layout.viewer) for key, each in zip(self._keys, packed, strict=True)]
        )
        self.videos, self.creators = items.videos[self._rows], items.creators[self._creator_rows]
        if self._creator_rows[0] < 0:
            self.creators[0] = 0.0
        self.at = np.array([of_viewers, of_videos, of_creators]).T.copy()

    def write(self, seen_keys: np.ndarray, days: np.ndarray) -> None:
        """Write every copy into the transaction, queue new viewers, and add the keys (N,) and days (N,) of
        `features.state.seen` to what viewers have seen."""
        txn, keys, unknown = self._txn, self._keys, int(self._creator_rows[0] < 0)
        txn.append_many("viewers_order", [queued(keys[at], self.viewers[at]) for at in self._new])
        txn.put_many("viewers", _sealed(keys, self.viewers))
        txn.put_many("videos", _sealed(map(number_key, self._rows), self.videos))
        txn.put_many("creators", _sealed(map(number_key, self._creator_rows[unknown:]), self.creators[unknown:]))
        order = np.argsort(self.at[:, 0], kind="stable")
        ends = np.searchsorted(self.at[order, 0], np.arange(1, len(keys))).tolist()
        seen_keys, days = seen_keys[order], days[order]
        spans = zip(keys, [0, *ends], [*ends, len(order)], strict=True)
        txn.put_many("seen", [(key, self._seen(key, seen_keys[first:end], days[first:end])) for key, first, end in spans])

    def _seen(self, key: bytes, seen_keys: np.ndarray, days: np.ndarray) -> bytes:
        return sealed(key, seen_of(key, self._txn.get("seen", key)).with_events(seen_keys, days).to_bytes())


def _distinct(values: Sequence) -> tuple[list, list[int]]:
    """Return the distinct values, sorted, and the position of each value among them. For the few of a commit, `np.unique` takes
    several times as long."""
    ordered = sorted(set(values))
    positions = {value: at for at, value in enumerate(ordered)}
    return ordered, [positions[value] for value in values]


def _sealed(keys: Iterable[bytes], records: np.ndarray) -> list[tuple[bytes, bytes]]:
    return [(key, sealed(key, record.tobytes())) for key, record in zip(keys, records, strict=True)]

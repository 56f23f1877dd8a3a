"""Records of videos and creators in memory, as of the last commit of the store."""

import threading
from collections.abc import Sequence

import numpy as np

from watchnext.features.state.fold import Layout, read_all_crosses, read_candidates
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.serving.store.engines.engine import CHUNK, Changes, Transaction, batched
from watchnext.serving.store.tables.seal import unsealed


class ItemRecords:
    """Records of `videos` and `creators`, with room for those that are posted. Any thread may read, never half of a commit.

    videos (V, layout.item), creators (R, layout.item)  float64; rows that no video or creator has yet take no memory
    unavailable (V,) bool                               withdrawn since the release was built
    """

    def __init__(self, layout: Layout, *, videos: int, creators: int) -> None:
        self._layout, self._publishing = layout, threading.Lock()
        self.videos = np.zeros((videos, layout.item))
        self.creators = np.zeros((creators, layout.item))
        self.unavailable = np.zeros(videos, bool)

    def load(self, txn: Transaction) -> None:
        """Load all records. Raises StoreDamagedError."""
        for name, array in self._arrays():
            for part in batched(txn.items(name), CHUNK):
                rows, records = _unpacked(name, part)
                array[rows] = records.reshape(len(part), -1)

    def _arrays(self) -> tuple[tuple[str, np.ndarray], ...]:
        return ("videos", self.videos), ("creators", self.creators)

    def publish(self, changes: Changes) -> None:
        """Take the records of one commit. Raises StoreDamagedError."""
        tables = [(array, *_unpacked(name, changes[name])) for name, array in self._arrays() if name in changes]
        with self._publishing:
            for array, rows, records in tables:
                array[rows] = records.reshape(len(rows), -1)

    def mirror(self, earlier: "ItemRecords") -> None:
        """Copy the arrays of a store over the same records."""
        with earlier._publishing, self._publishing:
            for name in ("videos", "creators", "unavailable"):
                mine, theirs = getattr(self, name), getattr(earlier, name)
                mine[: len(theirs)] = theirs[: len(mine)]

    def of_videos(self, rows: np.ndarray) -> np.ndarray:
        """Return records (n, layout.item) of the videos `rows` (n,), as of one commit."""
        with self._publishing:
            return self.videos[rows]

    def counters(self, catalogue: LiveCatalogue, viewer: np.ndarray, rows: np.ndarray, as_of: float) -> np.ndarray:
        """Return counters (C, 4, block) of the candidates `rows` (C,) for a viewer's record, as of `as_of` and one commit."""
        out, creator_rows = np.empty((len(rows), 4, self._layout.block)), catalogue.creator_rows[rows]
        with self._publishing:
            videos, creators = self.videos[rows], self.creators[creator_rows]
        read_candidates(self._layout, viewer, videos, creators, as_of, creator_rows, catalogue.tag_rows[rows], out)
        return out

    def crosses(
        self, catalogue: LiveCatalogue, viewer: np.ndarray, rows: np.ndarray, as_of: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the last two `counters` (n, 2, block) of the videos that have any, and their positions (n,) in `rows`."""
        out, places = np.empty((len(rows), 2, self._layout.block)), np.empty(len(rows), np.int64)
        about = self._layout, viewer, as_of, catalogue.creator_rows[rows], catalogue.tag_rows[rows]
        found = read_all_crosses(*about, out, places)
        return out[:found], places[:found]


def _unpacked(table: str, items: Sequence[tuple[bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n,) int64 and, one after another, the records of a table's items. Raises StoreDamagedError."""
    rows = np.frombuffer(b"".join(key for key, _ in items), ">u8").astype(np.int64)
    return rows, np.frombuffer(b"".join(unsealed(table, key, packed) for key, packed in items))

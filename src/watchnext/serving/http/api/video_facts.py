"""Facts of a video that are in every answer with it: creator, tags, length, texts."""

from collections.abc import Sequence
from itertools import starmap

import numpy as np

from watchnext.serving.release.live_catalogue import LiveCatalogue

KEPT = 20_000  # videos


class VideoFacts:
    """Describe videos of a catalogue, and keep the facts of the last ones until any video changes. Any thread may call it."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue
        self._kept: tuple[object, dict[int, dict]] = (None, {})

    def of(self, rows: np.ndarray) -> list[dict]:
        """Return the VideoDetails of each of `rows` (n,), without its age. They are shared: do not change them."""
        changes, kept = self._catalogue.changes, self._kept
        if kept[0] is not changes or len(kept[1]) > KEPT:  # a thread that began before a change keeps what it read for itself
            kept = self._kept = (changes, {})
        facts = kept[1]
        if unknown := [row for row in rows.tolist() if row not in facts]:
            facts.update(zip(unknown, self._read(unknown), strict=True))
        return [facts[row] for row in rows.tolist()]

    def _read(self, rows: Sequence[int]) -> list[dict]:
        catalogue = self._catalogue
        columns = catalogue.creator_rows[rows].tolist(), catalogue.tag_rows[rows].tolist(), catalogue.duration_ms[rows]
        return [*starmap(self._facts, zip(rows, *columns[:2], finite(columns[2]), strict=True))]

    def _facts(self, row: int, creator: int, tags: Sequence[int], duration_ms: float | None) -> dict:
        catalogue = self._catalogue
        return {
            "creator_id": catalogue.creator_names[creator] if creator >= 0 else None,
            "tags": [catalogue.tag_names[tag] for tag in tags if tag >= 0],
            "duration_ms": duration_ms,
            **catalogue.texts_of(row),
        }


def finite(values: np.ndarray) -> list:
    """Return a list of the values, None for what is not finite."""
    is_finite = np.isfinite(values)
    return values.tolist() if is_finite.all() else np.where(is_finite, values, None).tolist()

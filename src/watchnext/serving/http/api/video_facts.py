"""Facts of a video that are in every answer with it: creator, tags, length, texts."""

from collections.abc import Sequence
from itertools import starmap

import numpy as np
import orjson

from watchnext.serving.release.live_catalogue import LiveCatalogue

KEPT = 20_000  # videos


class VideoFacts:
    """Describe videos of a catalogue, and keep the facts of the last ones until any video changes. Any thread may call it."""

    def __init__(self, catalogue: LiveCatalogue) -> None:
        self._catalogue = catalogue
        self._kept: tuple[object, dict[int, bytes]] = (None, {})

    def of(self, rows: np.ndarray) -> list[dict]:
        """Return the VideoDetails of each of `rows` (n,), without its age."""
        return [*self._read(rows.tolist())]

    def aged(self, rows: np.ndarray, ages_h: np.ndarray) -> list[orjson.Fragment]:
        """Return the VideoDetails of each of `rows` (n,) with its age, as JSON: writing it anew takes a fifth of a look-up."""
        changes, kept = self._catalogue.changes, self._kept
        if kept[0] is not changes or len(kept[1]) > KEPT:  # a thread that began before a change keeps what it read for itself
            kept = self._kept = (changes, {})
        heads, listed = kept[1], rows.tolist()
        if unknown := [row for row in listed if row not in heads]:
            heads.update(
                (row, orjson.dumps(facts)[:-1] + b',"age_h":') for row, facts in zip(unknown, self._read(unknown), strict=True)
            )
        ages = orjson.dumps(finite(ages_h))[1:-1].split(b",")
        return [orjson.Fragment(heads[row] + age + b"}") for row, age in zip(listed, ages, strict=bool(listed))]

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

"""Videos that were posted or changed since a release was built, and the order of all videos by upload time."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CatalogueChanges:
    """Videos that were posted or changed, as of one moment.

    version               number of changes
    released              number of videos of the release, whose rows come first; None is all
    rows (n,) int64       by upload time, oldest first, unknown last
    uploads (n,) float64  their upload times in ms
    replaced              how many of them are of the release
    changed (V,) bool     marks them
    latest (m,) int64     rows of the last change
    """

    version: int
    released: int | None
    rows: np.ndarray
    uploads: np.ndarray
    replaced: int
    changed: np.ndarray
    latest: np.ndarray

    def between(self, since_ms: float, until_ms: float) -> np.ndarray:
        """Return the rows uploaded from `since_ms` on and before `until_ms`, oldest first."""
        return self.rows[_span(self.uploads, since_ms, until_ms)]

    def with_rows(self, rows: np.ndarray, upload_ms: np.ndarray) -> "CatalogueChanges":
        """Return the state after a change of the distinct `rows` (m,); `upload_ms` (V,) are the times of all videos."""
        kept = ~np.isin(self.rows, rows) if self.changed[rows].any() else np.ones(len(self.rows), bool)
        added = rows[np.lexsort((rows, upload_ms[rows]))]
        before = self.uploads[kept]
        at = np.searchsorted(before, upload_ms[added], side="right")
        every = np.insert(self.rows[kept], at, added)
        uploads = np.insert(before, at, upload_ms[added])
        changed = self.changed.copy()
        changed[rows] = True
        replaced = int(np.count_nonzero(every < self.released))
        return CatalogueChanges(self.version + 1, self.released, every, uploads, replaced, changed, rows)


def no_changes(released: int | None = None, room: int = 0) -> CatalogueChanges:
    """Return the state of a release as it was built, with room for more videos."""
    marks = np.zeros((released or 0) + room, bool)
    return CatalogueChanges(0, released, np.zeros(0, np.int64), np.zeros(0), 0, marks, np.zeros(0, np.int64))


NO_CHANGES = no_changes()


def unchanged() -> CatalogueChanges:
    return NO_CHANGES


class ByUpload:
    """Rows by upload time, without those of unknown time; `upload_ms` (V,) may change with `changes()`."""

    def __init__(self, upload_ms: np.ndarray, changes: Callable[[], CatalogueChanges]) -> None:
        known = np.flatnonzero(np.isfinite(upload_ms[: changes().released]))
        self._rows = known[np.argsort(upload_ms[known], kind="stable")]
        self._uploads, self._upload_ms, self._changes = upload_ms[self._rows], upload_ms, changes

    def between(self, since_ms: float, until_ms: float, most: int | None = None) -> np.ndarray:
        """Return rows uploaded from `since_ms` on and before `until_ms`, oldest first, ties by row: all, or the last `most`."""
        changes = self._changes()
        rows = self._rows[_span(self._uploads, since_ms, until_ms)]
        if not len(changes.rows):
            return last(rows, most)
        later = last(changes.between(since_ms, until_ms), most)
        rows = last(rows, None if most is None else most + changes.replaced)
        rows = np.concatenate([rows[~changes.changed[rows]], later])
        return last(rows[np.lexsort((rows, self._upload_ms[rows]))], most)


def _span(uploads: np.ndarray, since_ms: float, until_ms: float) -> slice:
    return slice(*np.searchsorted(uploads, (since_ms, until_ms)))


def last(rows: np.ndarray, most: int | None) -> np.ndarray:
    """Return the last `most` of `rows`; None is all."""
    return rows if most is None else rows[max(len(rows) - most, 0) :]

"""Find videos by a part of their id, title, creator or tags: a scan of one text in memory, made at the first search."""

from functools import cached_property

import numpy as np
import polars as pl

from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.serving.release.release import Release

SEPARATOR = "\n"  # ends the words of a video; no query has one
HITS = 20_000  # most videos with the rarest word that are looked at


class VideoSearch:
    """Search the videos of a release and those that were posted since. Safe to call from any thread.

    A million titles are some 80 MB, of which a search that finds nothing reads every byte.
    """

    def __init__(self, release: Release, catalogue: LiveCatalogue) -> None:
        self._release, self._catalogue = release, catalogue
        self._posted: tuple[int, dict[int, str]] = (0, {})

    @cached_property
    def _text(self) -> tuple[bytes, np.ndarray]:
        """Return the words of all videos in small letters, and where those of each end (V,) int64."""
        release, catalogue = self._release, self._release.catalogue
        texts = release.texts.by_name.get("title")
        ids = [str(release.video_ids.value(row)) for row in range(len(catalogue))]
        titles = [texts[row] or "" for row in range(len(ids))] if texts else [""] * len(ids)
        creators = _named(catalogue.creator_rows, catalogue.creator_names)
        tags = [_named(column, catalogue.tag_names) for column in np.asarray(catalogue.tag_rows).T]
        words = pl.select(pl.concat_str([pl.Series(ids), pl.Series(titles), creators, *tags], separator=" ")).to_series()
        lines = words.str.to_lowercase().str.replace_all(SEPARATOR, " ", literal=True) + SEPARATOR
        return "".join(lines.to_list()).encode(), lines.str.len_bytes().cast(pl.Int64).cum_sum().to_numpy()

    def rows(self, query: str) -> np.ndarray:
        """Return the rows (n,) of the videos that have every word of `query`, in the catalogue's order; HITS at most, and those
        that were posted or changed."""
        changed, words = self._catalogue.changes.changed, query.lower().split()
        posted = [row for row, text in sorted(self._posted_words().items()) if words and all(word in text for word in words)]
        released = self._released_rows(query)
        return np.sort(np.concatenate([released[~changed[released]], np.array(posted, np.int64)]))

    def _posted_words(self) -> dict[int, str]:
        """Return row > words of the videos that were posted or changed."""
        changes, (version, kept) = self._catalogue.changes, self._posted
        if version != changes.version:
            rows = changes.latest if changes.version == version + 1 else changes.rows
            kept = kept | {row: self._words(row) for row in rows.tolist()}
            self._posted = (changes.version, kept)
        return kept

    def _words(self, row: int) -> str:
        catalogue = self._catalogue
        creator, tags = int(catalogue.creator_rows[row]), catalogue.tag_rows[row]
        words = [str(catalogue.ids.value(row)), catalogue.texts_of(row)["title"] or ""]
        words += [catalogue.creator_names[creator]] * (creator >= 0) + [catalogue.tag_names[tag] for tag in tags if tag >= 0]
        return " ".join(words).lower()

    def _released_rows(self, query: str) -> np.ndarray:
        content, ends = self._text
        rarest, *others = sorted((word.encode() for word in query.lower().split()), key=len, reverse=True) or [b""]
        found, at = [], content.find(rarest) if rarest else -1
        while at >= 0 and len(found) < HITS:
            row = int(np.searchsorted(ends, at, side="right"))
            start, end = int(ends[row - 1]) if row else 0, int(ends[row])
            if all(content.find(word, start, end) >= 0 for word in others):
                found.append(row)
            at = content.find(rarest, end)
        return np.array(found, np.int64)


def _named(codes: np.ndarray, names: np.ndarray) -> pl.Series:
    """Return names (n,) by code, empty for -1."""
    return pl.Series(np.append(names, "").astype(np.str_)[np.asarray(codes)])

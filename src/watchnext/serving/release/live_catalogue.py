"""The catalogue that serves: the videos of a release, and behind them those that were posted since.

One thread at a time changes it, any thread reads it without a lock: a row is complete before anything names it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from watchnext.features.catalogue import SAFETY, Catalogue, Ids
from watchnext.features.video_texts import CLEANED, VideoTexts
from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.sources.changes import no_changes
from watchnext.serving.release.release import Release
from watchnext.serving.release.video_encoder import EncodedVideos, VideoEncoder

LANGUAGE = "language"
NO_VIDEOS = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class ChangedVideo:
    """A video that was posted or changed.

    slot      position among all such videos
    row       of the catalogue; from the number of the release's videos on for a posted one
    metadata  what is known of it, by the names of the API; of a video of the release what has changed
    """

    slot: int
    row: int
    video_id: int | str
    metadata: Mapping
    creator_row: int
    tag_rows: Sequence[int]
    regions: int  # bits


class Overlay:
    """A column of the release (V, ...), and apart from it the rows that were posted or changed; read by rows like an array.

    Row -1 is the last row of the release's column. `places` (V + room + 1,) has the slot of a row + 1, or 0.
    """

    def __init__(self, released: np.ndarray, places: np.ndarray, room: int) -> None:
        self._released, self._places = released, places
        self._changed = np.zeros((room, *released.shape[1:]), released.dtype)  # takes no memory until it is written
        self.shape, self.dtype = released.shape, released.dtype
        self._is_changed = False

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if not self._is_changed:  # nor was any video posted
            return self._released[rows]
        places, rows = self._places[rows], np.where(rows < len(self._released), rows, -1)  # posted after a reader began
        changed = places > 0
        if not changed.any():
            return self._released[rows]
        values = self._released[np.where(changed, -1, rows)]
        values[changed] = self._changed[places[changed] - 1]
        return values

    def put(self, slot: int, value: np.ndarray) -> None:
        self._changed[slot] = value
        self._is_changed = True


class NamesByRow:
    """Names by row: those of the release, then those that were added, at most `most` in all."""

    def __init__(self, released: np.ndarray, most: int) -> None:
        self._released, self._added, self.most = released, [], most

    def __len__(self) -> int:
        return len(self._released) + len(self._added)

    def __getitem__(self, row: int) -> str:
        return str(self._released[row]) if row < len(self._released) else self._added[row - len(self._released)]

    @cached_property
    def rows(self) -> dict[str, int]:
        """Name > row."""
        return {name: row for row, name in enumerate([*self._released.tolist(), *self._added])}

    def add(self, name: str) -> None:
        """Add a name behind the others; a known one changes nothing."""
        if name not in self.rows:
            self.rows[name] = len(self)
            self._added.append(name)

    def marked(self, wanted: Sequence[str]) -> np.ndarray:
        """Return a mask (most + 1,) by row of the names that are wanted; the last one is for row -1, no name."""
        marks = np.zeros(self.most + 1, bool)
        marks[[self.rows[name] for name in wanted if name in self.rows]] = True
        return marks

    def all(self) -> np.ndarray:
        return np.array([*self._released.tolist(), *self._added], np.str_)


class LiveIds:
    """Rows of video ids, those of posted videos included; `takes`, `rows`, `values` and `value` as of `Ids`."""

    def __init__(self, released: Ids) -> None:
        self._released, self._posted, self._rows = released, [], {}
        self.are_strings, self.takes = released.are_strings, released.takes

    def __len__(self) -> int:
        return len(self._released.ids) + len(self._posted)

    def rows(self, values: Sequence) -> np.ndarray:
        rows = self._released.rows(values)
        if self._rows:
            for at in np.flatnonzero(rows < 0):
                rows[at] = self._rows.get(values[at], -1) if self.takes(values[at]) else -1
        return rows

    def values(self, rows: np.ndarray) -> list[int | str]:
        if not self._posted:
            return self._released.values(rows)
        return [self.value(row) for row in rows.tolist()]

    def value(self, row: int) -> int | str:
        released = len(self._released.ids)
        return self._released.value(row) if row < released else self._posted[row - released]

    def add(self, value: int | str) -> None:
        self._rows[value] = len(self)
        self._posted.append(value)

    def all(self) -> np.ndarray:
        kind = np.bytes_ if self.are_strings else np.int64
        posted = [each.encode() if self.are_strings else each for each in self._posted]
        return np.concatenate([self._released.ids, np.array(posted, kind)]) if posted else self._released.ids


class LiveCatalogue:
    """Columns by row as in `Catalogue`, with `room` for videos that are posted or changed; names as `NamesByRow`.

    ids      of the videos
    inputs   static inputs of networks by name, as `Release.videos`
    index    the vectors of the towers
    names_taken  position behind the last name that was taken from the store
    texts    row > titles and addresses of a posted or changed video, by name
    languages  language of a video > code
    first_upload_ms  (creators,) of each creator's first video, nan unknown
    changes  the videos that were posted or changed, as of the last call of `publish`
    """

    def __init__(self, release: Release, *, room: int) -> None:
        released, self._release, self.room = release.catalogue, release, room
        self.released = len(released)
        self.creator_rows, self.tag_rows = _longer(released.creator_rows, room), _longer(released.tag_rows, room)
        self.upload_ms, self.duration_ms = _longer(released.upload_ms, room), _longer(released.duration_ms, room)
        self.regions, self.safety = _longer(released.regions, room), _longer(released.safety, room)
        self.fingerprints = _longer(released.fingerprints, room)
        self._places = np.zeros(self.released + room + 1, np.int32)
        self.vectors = Overlay(released.vectors, self._places, room)
        self.inputs = {name: Overlay(values, self._places, room) for name, values in release.videos.items()}
        self.creator_names = NamesByRow(released.creator_names, len(released.creator_names) + room)
        self.tag_names = NamesByRow(released.tag_names, len(released.tag_names) + room)
        self.region_names = NamesByRow(released.region_names, 64)
        self.ids, self.index = LiveIds(release.video_ids), LiveIndex(release.index)
        self.encoder = VideoEncoder(release)
        self.first_upload_ms = first_uploads(released, room)
        categories = [each.name for each in release.pipeline.schema.columns("video") if each.kind == "categorical"]
        self._language = categories.index(LANGUAGE) if LANGUAGE in categories else None
        known = release.pipeline.fitted[f"vocabulary.{LANGUAGE}"].tolist() if self.has_language else []
        self.languages = {str(name): code for code, name in enumerate(known, 1)}
        self._slots: dict[int, int] = {}
        self.names_taken = 0
        self.texts: dict[int, Mapping[str, str | None]] = {}
        self.changes, self.slots = no_changes(self.released, room), 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def region_bits(self) -> Mapping[str, int]:
        return self.region_names.rows

    @property
    def has_language(self) -> bool:
        return self._language is not None

    def language_codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the code (n,) of the language of each video, 0 unknown."""
        return self.inputs["video_codes"][rows][:, self._language] if self.has_language else np.zeros(len(rows), np.int32)

    def of_creators(self, names: Sequence[str]) -> np.ndarray:
        """Return the rows (n,) of all videos of some creators, ascending; an unknown name has none."""
        return np.flatnonzero(self.creator_names.marked(names)[self.creator_rows[: len(self)]]) if names else NO_VIDEOS

    def slot(self, row: int) -> int | None:
        """Return the slot of a video that was posted or changed, or None."""
        return self._slots.get(row)

    def texts_of(self, row: int) -> Mapping[str, str | None]:
        """Return `VideoTexts.of_video` of a video."""
        released = self._release.texts.of_video(row) if row < self.released else dict.fromkeys(CLEANED)
        return {**released, **self.texts.get(row, {})}

    def hold(self, slots: Mapping[int, int], end: int) -> None:
        """Keep the slots (row > slot) of changes that the release holds; the next new slot is `end`."""
        self._slots |= slots
        self.slots = max(self.slots, end)

    def encode(self, videos: Sequence[ChangedVideo]) -> EncodedVideos:
        return self.encoder.encode([video.row for video in videos], [video.metadata for video in videos])

    def publish(self, videos: Sequence[ChangedVideo], encoded: EncodedVideos) -> None:
        """Let every later request see `videos`, one a row and new rows in their order, with what `encode` made of them."""
        self.texts |= {video.row: texts for video, texts in zip(videos, _texts(videos), strict=True)}
        for at, video in enumerate(videos):
            self._put(video, {name: values[at] for name, values in encoded.inputs.items()}, encoded.contents[at])
            if video.row == len(self.ids):
                self.ids.add(video.video_id)
        rows = np.array([video.row for video in videos], np.int64)
        self.changes = self.changes.with_rows(rows, self.upload_ms)
        embedded = self._vectors(rows, encoded)
        if len(embedded[0]):
            self.index.add(*embedded)

    def _vectors(self, rows: np.ndarray, encoded: EncodedVideos) -> tuple[np.ndarray, np.ndarray]:
        """Return rows (n,) and vectors (n, D) for the index: of what is new to it, and of changed videos as they were there."""
        vectors = [self.index.vector(row) if at is None else encoded.vectors[at : at + 1]
                   for row, at in zip(rows.tolist(), encoded.positions, strict=True)]  # fmt: skip
        known = np.array([len(vector) > 0 for vector in vectors], bool)
        return rows[known], np.concatenate([np.zeros((0, self.index.dimension), np.float32), *vectors])

    def _put(self, video: ChangedVideo, inputs: Mapping[str, np.ndarray], content: np.ndarray) -> None:
        row, metadata = video.row, video.metadata
        is_new = row >= self.released
        facts = {
            "creator_id": (self.creator_rows, video.creator_row),
            "tags": (self.tag_rows, _padded(video.tag_rows, self.tag_rows.shape[1])),
            "upload_ms": (self.upload_ms, _number(metadata.get("upload_ms"))),
            "duration_ms": (self.duration_ms, _number(metadata.get("duration_ms"))),
            "regions": (self.regions, video.regions),
            "safety": (self.safety, SAFETY.index(metadata.get("safety") or SAFETY[0])),
            "fingerprint": (self.fingerprints, metadata.get("fingerprint") or 0),
        }
        for name, (column, value) in facts.items():
            if is_new or name in metadata:
                column[row] = value
        if (creator := int(self.creator_rows[row])) >= 0:
            self.first_upload_ms[creator] = np.fmin(self.first_upload_ms[creator], self.upload_ms[row])
        for name, column in self.inputs.items():
            column.put(video.slot, inputs[f"{name}"])
        self.vectors.put(video.slot, content)
        self._places[row] = video.slot + 1  # from here on, its inputs are read

    def merged(self) -> Catalogue:
        """Return the whole catalogue as of now."""
        rows = np.arange(len(self))
        columns = ("creator_rows", "tag_rows", "upload_ms", "duration_ms", "regions", "safety", "fingerprints", "vectors")
        names = {name: getattr(self, name).all() for name in ("creator_names", "tag_names", "region_names")}
        return Catalogue(video_ids=self.ids.all(), **{name: getattr(self, name)[rows] for name in columns}, **names)


def first_uploads(catalogue: Catalogue, room: int) -> np.ndarray:
    """Return the upload time (creators + room,) of each creator's first video, nan unknown."""
    first, known = np.full(len(catalogue.creator_names) + room, np.nan), catalogue.creator_rows >= 0
    np.fmin.at(first, catalogue.creator_rows[known], catalogue.upload_ms[known])
    return first


def _longer(values: np.ndarray, room: int) -> np.ndarray:
    """Copy a column with room behind it, which takes no memory until it is written."""
    longer = np.zeros((len(values) + room, *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer


def _texts(videos: Sequence[ChangedVideo]) -> list[dict[str, str | None]]:
    """Return the texts that the metadata of each video names, cleaned as those of a log."""
    columns = {name: pl.Series([video.metadata.get(name) for video in videos], dtype=pl.String) for name in CLEANED}
    cleaned = VideoTexts.of(pl.DataFrame(columns))
    named = [[name for name in CLEANED if name in video.metadata] for video in videos]
    return [{name: cleaned.by_name[name][at] for name in names} for at, names in enumerate(named)]


def _padded(rows: Sequence[int], width: int) -> np.ndarray:
    return np.array([*rows[:width], *[-1] * (width - len(rows))], np.int32)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)

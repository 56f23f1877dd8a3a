"""Encode the metadata of posted videos with the feature pipeline and the item tower of a release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.tables import VIDEOS
from watchnext.features.encode.encodings import names_of
from watchnext.schema import Feature
from watchnext.serving.release.release import Release

CONTENT = ("creator_id", "duration_ms", "tags", "language", "vector", "features")  # metadata that the item tower may read


class MetadataError(ValueError):
    """Metadata of a video that the schema does not allow: `field`, its `value`, and what was `expected`."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} is {value!r}: expected {expected}")
        self.field, self.value, self.expected = field, value, expected


@dataclass(frozen=True)
class EncodedVideos:
    """n encoded videos.

    inputs           static inputs of networks by name, (n, ...)
    contents (n, .)  content vectors, zeros where missing
    vectors (m, D)   vectors of the item tower
    positions (n,)   position of each video among `vectors`; None keeps the vector that it has
    """

    inputs: Mapping[str, np.ndarray]
    contents: np.ndarray
    vectors: np.ndarray
    positions: Sequence[int | None]


class VideoEncoder:
    """Encode metadata as the feature stage encodes the table of videos."""

    def __init__(self, release: Release) -> None:
        self._pipeline, self._videos, self._tower = release.pipeline, release.videos, release.video_tower
        self._released, self._contents = len(release.catalogue), release.catalogue.vectors
        self._features = release.pipeline.schema.columns("video")
        self._id = self._pipeline.sizes.video_id

    def require(self, metadata: Mapping) -> None:
        """Raise MetadataError for a field that the schema lacks, or a value outside its bounds or of another kind or width."""
        vector, width = metadata.get("vector"), self._contents.shape[1]
        if vector is not None and len(vector) != width:
            raise MetadataError("vector", f"{len(vector)} numbers", f"{width} numbers" if width else "none in this data set")
        declared = {feature.name: feature for feature in self._features}
        further = metadata.get("features") or {}
        for name in further:
            if name not in declared or name in VIDEOS:
                names = ", ".join(sorted(declared.keys() - VIDEOS.keys())) or "none in this data set"
                raise MetadataError(f"features.{name}", further[name], f"one of the declared features: {names}")
        for name, feature in declared.items():
            if (value := _value(metadata, name)) is not None and feature.kind in ("categorical", "numerical"):
                self._require_value(f"features.{name}" if name in further else name, feature, value)

    def _require_value(self, field: str, feature: Feature, value: object) -> None:
        low, high = feature.bounds
        if feature.kind == "numerical":
            is_number = isinstance(value, int | float)
            if not is_number or (low is not None and value < low) or (high is not None and value > high):
                raise MetadataError(field, value, f"a number within [{low}, {high}]" if is_number else "a number")
        elif self._is_number(feature) and not isinstance(value, int | float):
            raise MetadataError(field, value, "a whole number, as in the log")

    def encode(self, rows: Sequence[int], metadata: Sequence[Mapping]) -> EncodedVideos:
        """Encode the videos `rows` (n,): posted ones by their `metadata` alone, those of the release with it on top."""
        given = np.stack([self._content(each) for each in metadata])
        inputs = {name: values[:-1].copy() for name, values in self._pipeline.videos(self._frame(metadata), given).items()}
        for at, row in enumerate(rows):
            if row < self._released:
                given[at] = given[at] if "vector" in metadata[at] else self._contents[row]
                self._lay_over(inputs, at, row, metadata[at])
        embedded = [at for at, row in enumerate(rows) if row >= self._released or any(name in metadata[at] for name in CONTENT)]
        embedded = embedded if self._tower else []
        positions = {at: position for position, at in enumerate(embedded)}
        vectors = self._embed({name: values[embedded] for name, values in inputs.items()})
        return EncodedVideos(inputs, given, vectors, [positions.get(at) for at in range(len(rows))])

    def _lay_over(self, inputs: Mapping[str, np.ndarray], at: int, row: int, metadata: Mapping) -> None:
        """Replace what `metadata` does not name in position `at` of `inputs` by the inputs of the release's video `row`."""
        named = {feature.name for feature in self._features if feature.name in metadata}
        named |= (metadata.get("features") or {}).keys()
        categories = [feature.name for feature in self._features if feature.kind == "categorical"]
        values = [f for f in self._features if f.kind == "numerical"]
        owners = [f.name for f in values for _ in names_of((f,))]
        kept = {
            "video_codes": [name not in named for name in categories],
            "video_values": [name not in named for name in owners],
            "video_tags": "tags" not in metadata,
            "video_vector": "vector" not in metadata,
            "video_duration_s": "duration_ms" not in metadata,
        }
        for name, unnamed in kept.items():
            inputs[name][at] = np.where(unnamed, self._videos[name][row], inputs[name][at])

    def _embed(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute vectors (m, D) of the item tower; a video without an id is a new one to it."""
        codes = inputs["video_codes"]
        if not len(codes):
            return np.zeros((0, 0), np.float32)
        is_new = codes[:, self._id] == 0 if self._id is not None else np.ones(len(codes), bool)
        return self._tower({**inputs, "video_new": is_new.astype(np.float32)})

    def _content(self, metadata: Mapping) -> np.ndarray:
        """Return the content vector; zeros without one, or for one of another width, which another release took."""
        vector, width = metadata.get("vector"), self._contents.shape[1]
        return np.array(vector if vector is not None and len(vector) == width else [0.0] * width, np.float32)

    def _frame(self, metadata: Sequence[Mapping]) -> pl.DataFrame:
        kinds = {"tags": pl.List(pl.String), "duration_ms": pl.Float64}
        for feature in self._features:
            if feature.kind == "numerical":
                kinds[feature.name] = pl.Float64
            elif feature.kind == "categorical":
                kinds[feature.name] = pl.Int64 if self._is_number(feature) else pl.String
        columns = {name: [_as(_value(each, name), kind) for each in metadata] for name, kind in kinds.items()}
        return pl.DataFrame({name: pl.Series(values, dtype=kinds[name]) for name, values in columns.items()})

    def _is_number(self, feature: Feature) -> bool:
        vocabulary = self._pipeline.fitted[f"vocabulary.{feature.name}"]
        return len(vocabulary) > 0 and vocabulary.dtype.kind == "i"


def _value(metadata: Mapping, name: str) -> object:
    return metadata.get(name) if name in VIDEOS else (metadata.get("features") or {}).get(name)


def _as(value: object, kind: pl.DataType | type[pl.DataType]) -> object:
    """Convert a value to a column's kind; None for one that is not of it, which a release of another schema took."""
    if value is None or kind == pl.List(pl.String):
        return value
    if kind == pl.String:
        return str(value)
    is_number = isinstance(value, int | float)
    return (int(value) if kind == pl.Int64 else float(value)) if is_number else None

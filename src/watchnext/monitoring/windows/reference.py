"""Held-out impressions by name, and references: that of a release, and that of its first served windows."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.features.dataset.batches import FeatureSet
from watchnext.monitoring.sketch.rows import SLICES, Impressions
from watchnext.monitoring.sketch.sketch import Sketch
from watchnext.nn.weights import written_aside
from watchnext.ranking.scoring import Ranker
from watchnext.schema import FeatureSchema
from watchnext.serving.funnel.query import features_by_name
from watchnext.types import TARGETS

ROWS = 100_000  # impressions of a reference, evenly spaced in time
SAMPLE = 10_000  # of which the release keeps so many, for Evidently's page
CHUNK = 4_096
SERVED = "served.json"  # beside a reference of served windows
IDS = ("user_id", "video_id", "creator_id")


def held_out(features: FeatureSet, ranker: Ranker, split: str) -> Impressions:
    """Return up to ROWS impressions of a split with features as in the served log, scores and targets."""
    rows = _spaced(features.rows(split), ROWS)
    heads = [name in ranker.heads for name in TARGETS]
    return impressions_of(features, rows, np.where(heads, ranker.scored(features, rows), np.nan).astype(np.float32))


def impressions_of(features: FeatureSet, rows: np.ndarray, predictions: np.ndarray) -> Impressions:
    """Return the impressions `rows` (n,) of a feature set, with `predictions` (n, T). A viewer without training rows is new."""
    columns, viewers = _columns(features, rows), np.asarray(features.columns["user_rows"], np.int64)
    return Impressions(
        columns=columns,
        viewers=pl.Series(viewers[rows]).cast(pl.String),
        slices=slices_of(columns, np.isin(viewers[rows], viewers[features.rows("train")])),
        predictions=predictions,
        outcomes=np.asarray(features.columns["targets"][rows], np.float32),
        videos=np.asarray(features.columns["video_rows"][rows], np.int64),
    )


def slices_of(columns: pl.DataFrame, known: np.ndarray) -> pl.DataFrame:
    """Return the columns SLICES: surface and region, where such features are declared, and whether the viewer is known."""
    declared = {name: columns[name].cast(pl.String) if name in columns.columns else None for name in SLICES[:2]}
    return pl.DataFrame(
        {
            **{
                name: pl.repeat(None, len(known), dtype=pl.String, eager=True) if each is None else each
                for name, each in declared.items()
            },
            SLICES[2]: np.where(known, "known", "new"),
        },
        schema_overrides=dict.fromkeys(SLICES, pl.String),
    )


def drift_tests(schema: FeatureSchema, columns: Iterable[str]) -> dict[str, str]:
    """Return column > drift test, which the feature may declare. Ids are left out, as new ids are not drift."""
    declared = {feature.name: feature.drift for feature in schema.features} | dict.fromkeys(IDS, "none")
    return {name: test for name in columns if (test := declared.get(name, "auto")) != "none"}


def write_reference(rows: Impressions, features: FeatureSet, folder: Path) -> None:
    """Write the reference of a release: `sketch/`, from which verdicts follow, and a sample of rows for Evidently's page."""
    compared = drift_tests(features.pipeline.schema, rows.columns.columns)
    rows = replace(rows, columns=rows.columns.select(*compared))
    Sketch.of(rows, vectors_of(features.videos)).save(folder / "sketch")
    sample(rows).write_parquet(folder / "reference.parquet")


@dataclass(frozen=True)
class Reference:
    """Reference of windows: a sketch, and a sample of its rows for Evidently; of served windows also their times."""

    sketch: Sketch
    sample: pl.DataFrame
    start_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """Read what `write_reference` wrote. Raises ReleaseError for another format."""
        sketch, times = Sketch.load(folder / "sketch"), {}
        if (path := folder / SERVED).exists():
            times = json.loads(path.read_text())
        return cls(sketch, pl.read_parquet(folder / "reference.parquet"), **times)

    @classmethod
    def of_served(cls, rows: Impressions, vectors: np.ndarray, folder: Path, *, start_ms: int, end_ms: int) -> "Reference":
        """Summarise served rows in a folder of that name, whole or not at all."""
        with written_aside(folder) as made:
            Sketch.of(rows, vectors).save(made / "sketch")
            sample(rows).write_parquet(made / "reference.parquet")
            (made / SERVED).write_text(json.dumps({"start_ms": start_ms, "end_ms": end_ms}))
        return cls.load(folder)


def vectors_of(videos: dict[str, np.ndarray]) -> np.ndarray:
    """Return the vectors (V + 1, d) of the static blocks of videos; d is 0 without any."""
    return videos["video_vector"]


def sample(rows: Impressions, *, every: int | None = None) -> pl.DataFrame:
    """Return one of `every` impressions, else up to SAMPLE evenly spaced: features, `score <target>`, `outcome <target>`."""
    table = pl.DataFrame(dict(rows.values))
    return table[_spaced(np.arange(len(table)), SAMPLE)] if every is None else table[::every]


def _spaced(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // most))]


def _columns(features: FeatureSet, rows: np.ndarray) -> pl.DataFrame:
    parts = [_decoded(features, rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    return pl.concat(parts) if parts else _decoded(features, rows)


def _decoded(features: FeatureSet, rows: np.ndarray) -> pl.DataFrame:
    inputs = {name: tensor.numpy() for name, tensor in features.batch(rows).items()}
    # Decoded categories are objects; without a type, a column that starts with None would remain one.
    return pl.DataFrame(
        {
            name: pl.Series(values.tolist(), dtype=pl.String) if values.dtype == object else values
            for name, values in features_by_name(features.pipeline, inputs).items()
        }
    )

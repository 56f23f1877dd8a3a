"""FeaturePipeline: the statistics fitted on training days, and the one transform shared by training and serving.

Inputs of every network, by name (N rows; static blocks are gathered by row number, the rest is as of the request):

    user_codes (N, Fu)   user_values (N, .)      the user's columns
    context_codes (N, Fc)   query_values (N, .)  the request's context, the viewer's counters and gap
    history_rows (N, H)   history_values (N, H, 5)   latest watch first, row -1 after the last
    video_codes (N, Fv)   video_tags (N, tags)   video_values (N, .)   video_vector (N, D + 1)   the video's columns
    video_duration_s (N, 1)                      0 if unknown; watch-time heads read it
    candidate_values (N, .)                      age, video, creator, user x tag and user x creator counters

Code 0 is missing, unseen in training or too rare. The last row of a static block is the unknown entity, selected by row -1.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.catalogue import padded
from watchnext.features.encode.encodings import (
    Arrays,
    InputSizes,
    encode,
    encode_column,
    fitted_scale,
    frequent,
    names_of,
    raw,
    scaled_rates,
    standardised,
)
from watchnext.features.encode.expressions import EXPRESSIONS
from watchnext.features.state import counters
from watchnext.features.state.fold import Reads
from watchnext.schema import Feature, FeatureSchema, SchemaError

COUNTER_ENTITIES = ("video", "creator", "user x tag", "user x creator")  # order of Reads.candidate
KNOTS = np.linspace(0.0, 1.0, 101)
UNSCALED = np.array([[0.0], [1.0], [-np.inf], [np.inf]])  # the scale while a pipeline is fitted


@dataclass(frozen=True)
class TrainingCounts:
    """Counts over the training days: impressions of each user (U,) and video (V,), and the distinct values of each logged
    categorical context column with their counts."""

    users: np.ndarray
    videos: np.ndarray
    context: dict[str, tuple[pl.Series, np.ndarray]]

    @classmethod
    def nothing(cls, users: int, videos: int, context: Mapping[str, pl.Series]) -> "TrainingCounts":
        none = {name: (values, np.zeros(len(values), np.int64)) for name, values in context.items()}
        return cls(np.zeros(users, np.int64), np.zeros(videos, np.int64), none)

    def count(self, columns: Arrays, rows: np.ndarray) -> None:
        """Count the training `rows` of stored columns."""
        counts = {"user_rows": self.users, "video_rows": self.videos}
        counts |= {f"context.{name}": into for name, (_, into) in self.context.items()}
        for name, into in counts.items():
            indices = columns[name][rows]
            into += np.bincount(indices[indices >= 0], minlength=len(into))


def _single(values: np.ndarray) -> np.ndarray:
    """Round state to single precision, as training reads it from disk; serving rounds alike before any computation."""
    return np.ascontiguousarray(values, np.float32)


class FeaturePipeline:
    """Vocabularies, quantiles, means and deviations of training days, for one schema.

    Raises KeyError for an expression of the schema that `encode/expressions.py` lacks.
    """

    def __init__(self, *, schema: FeatureSchema, utc_offset_h: float, fitted: Arrays) -> None:
        self.schema = schema
        self.utc_offset_h = utc_offset_h
        self.fitted = dict(fitted)
        for feature in schema.features:
            if feature.expression is not None and feature.expression not in EXPRESSIONS:
                raise KeyError(
                    f"feature {feature.name!r} has the expression {feature.expression!r}, "
                    f"expected one of {', '.join(EXPRESSIONS)}"
                )

    # ---- fit ---------------------------------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        *,
        schema: FeatureSchema,
        utc_offset_h: float,
        users: pl.DataFrame,
        videos: pl.DataFrame,
        training_counts: TrainingCounts,
        user_rows: np.ndarray,
        video_rows: np.ndarray,
        context: Arrays,
        as_of_ms: np.ndarray,
        reads: Reads,
        min_count: int,
    ) -> "FeaturePipeline":
        """Fit a pipeline on training days.

        Vocabularies come from all of them (`training_counts`). Quantiles, means and deviations come from a sample of their
        impressions: its `user_rows`, `video_rows`, `context` columns, times and state `reads` (all (N, ...)).
        """
        pipeline = cls(schema=schema, utc_offset_h=utc_offset_h, fitted={})
        for frame, entity, rows, counts in (
            (users, "user", user_rows, training_counts.users),
            (videos, "video", video_rows, training_counts.videos),
        ):
            for feature in schema.columns(entity):
                if feature.kind == "categorical":
                    pipeline.fitted[f"vocabulary.{feature.name}"] = frequent(frame[feature.name], counts, min_count)
                elif feature.transform == "quantile":
                    pipeline._fit_knots(feature.name, raw(frame[feature.name], "numerical")[rows])
        if schema.of("video", "sequence"):
            flat = videos["tags"].filter(pl.Series(training_counts.videos > 0)).explode().drop_nulls().cast(pl.String)
            pipeline.fitted["vocabulary.tags"] = np.sort(np.array(flat.unique().to_list(), dtype=np.str_))
        for name, values in pipeline._context_columns(context, as_of_ms, "categorical").items():
            values, counts = training_counts.context.get(name) or (pl.Series(values), np.ones(len(values), np.int64))
            pipeline.fitted[f"vocabulary.{name}"] = frequent(values, counts, min_count)
        pipeline._fit_counters(reads)
        pipeline.fitted["scale.user_values"] = fitted_scale(pipeline._user_values(users)[user_rows])
        pipeline.fitted["scale.video_values"] = fitted_scale(pipeline._video_values(videos)[video_rows])
        pipeline.fitted["scale.query_values"] = fitted_scale(pipeline._query_values(context, as_of_ms, reads, fitting=True))
        upload_ms = raw(videos["upload_ms"], "numerical")[video_rows]
        candidates = pipeline._candidate_values(upload_ms, as_of_ms, reads.candidate, fitting=True)
        pipeline.fitted["scale.candidate_values"] = fitted_scale(candidates)
        return pipeline

    def _fit_knots(self, name: str, values: np.ndarray) -> None:
        known = values[np.isfinite(values)]
        self.fitted[f"knots.{name}"] = np.quantile(known, KNOTS) if len(known) else KNOTS

    def _fit_counters(self, reads: Reads) -> None:
        """Fit the mean rate of every count at every half-life, the prior of smoothed rates.

        The denominator is the impressions, or the impressions of the commonest outcome if those decayed less
        (`encodings.scaled_rates`).
        """
        for entity, values in self._counter_blocks(reads.user, reads.candidate):
            totals = values.sum(axis=0, dtype=np.float64).reshape(len(self.schema.state.counts), -1)
            impressions_of_outcomes = (totals / self._most[:, None]).max(axis=0)
            impressions = impressions_of_outcomes if self._impression >= 0 else np.ones(totals.shape[1])
            self.fitted[f"rate.{entity}"] = totals / np.maximum(impressions, 1e-12)

    # ---- raw blocks --------------------------------------------------------------------------------------------------

    @property
    def _impression(self) -> int:
        """Index of the impressions among the counts, -1 if they are not counted."""
        counts = self.schema.state.counts
        return counts.index("impression") if "impression" in counts else -1

    @property
    def _most(self) -> np.ndarray:
        return counters.most(self.schema.state.counts)

    def _counter_blocks(self, user: np.ndarray, candidate: np.ndarray):
        """Yield (entity, values (N, block)) for the declared counters."""
        user, candidate = _single(user), _single(candidate)
        if self.schema.of("user", "counter"):
            yield "user", user
        for i, entity in enumerate(COUNTER_ENTITIES):
            if self.schema.of(entity, "counter"):
                yield entity, candidate[:, i]

    def _block(self, block: str, columns: list[np.ndarray], counters: list[tuple[str, np.ndarray]], rows: int, fitting: bool):
        """Stack plain columns (N,) and counters (N, block): standardised, clipped, float32, missing values 0.

        While the pipeline is `fitting`, values are not scaled.
        """
        width = len(columns) + sum(values.shape[1] for _, values in counters)
        out = np.empty((rows, width), np.float64 if fitting else np.float32)
        scale = np.repeat(UNSCALED, width, axis=1) if fitting else np.array(self.fitted[f"scale.{block}"])
        if columns:
            plain, at = np.stack(columns, axis=1), len(columns)
            out[:, :at] = plain if fitting else standardised(plain, scale[:, :at])
        at = len(columns)
        for entity, values in counters:
            part, rate = slice(at, at + values.shape[1]), np.array(self.fitted[f"rate.{entity}"])
            scaled_rates(values, rate, scale[:, part], self._most, self._impression, out[:, part])
            at = part.stop
        return out

    def _numerical(self, feature: Feature, values: np.ndarray) -> list[np.ndarray]:
        """Transform a raw column (N,); a nullable feature adds a flag column for missing values."""
        if feature.transform == "log1p":
            # asinh-like on the negative side, so that an out-of-range value does not become nan
            transformed = np.sign(values) * np.log1p(np.abs(values))
        elif feature.transform == "quantile":
            transformed = np.where(np.isnan(values), np.nan, np.interp(values, self.fitted[f"knots.{feature.name}"], KNOTS))
        else:
            transformed = values
        return [transformed, np.isnan(values).astype(np.float64)] if feature.nullable else [transformed]

    def _table_values(self, entity: str, frame: pl.DataFrame) -> np.ndarray:
        features = [f for f in self.schema.columns(entity) if f.kind == "numerical"]
        columns = [column for f in features for column in self._numerical(f, raw(frame[f.name], "numerical"))]
        return np.stack(columns, axis=1) if columns else np.zeros((len(frame), 0))

    def _user_values(self, users: pl.DataFrame) -> np.ndarray:
        return self._table_values("user", users)

    def _video_values(self, videos: pl.DataFrame) -> np.ndarray:
        return self._table_values("video", videos)

    def _context_columns(self, context: Arrays, as_of_ms: np.ndarray, kind: str) -> dict[str, np.ndarray]:
        columns = {}
        for feature in self.schema.of("context", kind):
            if feature.expression:
                columns[feature.name] = EXPRESSIONS[feature.expression](context, as_of_ms, self.utc_offset_h)
            else:
                columns[feature.name] = context[feature.name]
        return columns

    def _computed(self, entity: str) -> list[Feature]:
        return [f for f in self.schema.of(entity, "numerical") if f.expression is not None]

    def _query_values(self, context: Arrays, as_of_ms: np.ndarray, reads: Reads, *, fitting: bool = False) -> np.ndarray:
        logged = self._context_columns(context, as_of_ms, "numerical")
        columns = [column for f in self.schema.of("context", "numerical") for column in self._numerical(f, logged[f.name])]
        gap_s = _single(reads.gap_s).astype(np.float64)
        for feature in self._computed("user"):
            columns += self._numerical(feature, EXPRESSIONS[feature.expression]({"gap_s": gap_s}, as_of_ms, self.utc_offset_h))
        counters = [("user", _single(reads.user))] if self.schema.of("user", "counter") else []
        return self._block("query_values", columns, counters, len(as_of_ms), fitting)

    def _candidate_values(
        self, upload_ms: np.ndarray, as_of_ms: np.ndarray, candidate: np.ndarray, *, fitting: bool = False
    ) -> np.ndarray:
        columns = []
        for feature in self._computed("video"):
            columns += self._numerical(
                feature, EXPRESSIONS[feature.expression]({"upload_ms": upload_ms}, as_of_ms, self.utc_offset_h)
            )
        candidate = _single(candidate)
        counters = [(entity, candidate[:, i]) for i, entity in enumerate(COUNTER_ENTITIES) if self.schema.of(entity, "counter")]
        return self._block("candidate_values", columns, counters, len(candidate), fitting)

    def _scaled(self, block: str, values: np.ndarray) -> np.ndarray:
        return standardised(values, self.fitted[f"scale.{block}"]).astype(np.float32)

    # ---- transform ---------------------------------------------------------------------------------------------------

    def users(self, users: pl.DataFrame) -> dict[str, np.ndarray]:
        """Return the static blocks of the user table, (U + 1, ...): the last row is an unknown user."""
        return self._static("user", users, self._scaled("user_values", self._user_values(users)))

    def videos(self, videos: pl.DataFrame, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Return the static blocks of the video table, (V + 1, ...). `vectors` (V, D), zeros if missing."""
        blocks = self._static("video", videos, self._scaled("video_values", self._video_values(videos)))
        vocabulary = self.fitted.get("vocabulary.tags", np.zeros(0, np.str_))
        tags = np.zeros((len(videos) + 1, self.schema.state.tags_per_video), np.int32)
        if len(vocabulary):
            rows, names = padded(videos["tags"], tags.shape[1])
            tags[:-1] = np.append(encode(np.array(names, dtype=np.str_), vocabulary), 0)[rows]  # -1 selects the 0
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.concatenate([vectors / np.maximum(norms, 1e-12), norms > 0], axis=1, dtype=np.float32)
        seconds = np.nan_to_num(raw(videos["duration_ms"], "numerical")) / 1000.0
        return {
            **blocks,
            "video_tags": tags,
            "video_vector": np.concatenate([unit, np.zeros((1, unit.shape[1]), np.float32)]),
            "video_duration_s": np.append(seconds, 0.0).astype(np.float32)[:, None],
        }

    def _static(self, entity: str, frame: pl.DataFrame, values: np.ndarray) -> dict[str, np.ndarray]:
        features = [f for f in self.schema.columns(entity) if f.kind == "categorical"]
        codes = np.zeros((len(frame) + 1, len(features)), np.int32)
        for i, feature in enumerate(features):
            codes[:-1, i] = encode_column(frame[feature.name], self.fitted[f"vocabulary.{feature.name}"])
        return {
            f"{entity}_codes": codes,
            f"{entity}_values": np.concatenate([values, np.zeros((1, values.shape[1]), np.float32)]),
        }

    def query(self, context: Arrays, as_of_ms: np.ndarray, reads: Reads) -> dict[str, np.ndarray]:
        """Return the blocks of N requests as of their times: context_codes, query_values, history_rows, history_values."""
        columns = self._context_columns(context, as_of_ms, "categorical")
        codes = [encode(values, self.fitted[f"vocabulary.{name}"]) for name, values in columns.items()]
        watches = np.empty((*reads.history.shape[:2], 5), np.float32)
        watches[:, :, 0] = np.log1p(reads.history[:, :, 0]) / 10.0
        watches[:, :, 1] = np.log1p(reads.history[:, :, 1]) / 5.0
        bits = reads.history[:, :, 2].astype(np.uint8)
        for bit in range(3):
            watches[:, :, 2 + bit] = bits >> bit & 1
        return {
            "context_codes": np.stack(codes, axis=1) if codes else np.zeros((len(as_of_ms), 0), np.int32),
            "query_values": self._query_values(context, as_of_ms, reads),
            "history_rows": reads.history_rows,
            "history_values": watches,
        }

    def candidates(self, upload_ms: np.ndarray, as_of_ms: np.ndarray, candidate: np.ndarray) -> np.ndarray:
        """Return candidate_values (N, .) float32 of videos with `upload_ms` (N,) and counters `candidate` (N, 4, block)."""
        return self._candidate_values(upload_ms, as_of_ms, candidate)

    def put_crosses(self, crosses: np.ndarray, values: np.ndarray) -> None:
        """Replace the columns of the last two counters in candidate_values (N, .) by those of `crosses` (N, 2, block)."""
        crosses, scale = _single(crosses), np.array(self.fitted["scale.candidate_values"])
        kept = [entity for entity in COUNTER_ENTITIES if self.schema.of(entity, "counter")]
        for i, entity in enumerate(COUNTER_ENTITIES[2:]):
            if entity in kept:
                end = values.shape[1] - (len(kept) - 1 - kept.index(entity)) * crosses.shape[2]
                part, rate = slice(end - crosses.shape[2], end), np.array(self.fitted[f"rate.{entity}"])
                scaled_rates(crosses[:, i], rate, scale[:, part], self._most, self._impression, values[:, part])

    def value_names(self, block: str) -> list[str]:
        """Return the column names of `query_values` or `candidate_values`, for reports and the served log."""
        state = self.schema.state
        counters = [f"{count} {half_life:g}h" for count in state.counts for half_life in state.half_lives_h]
        if block == "query_values":
            names = names_of(self.schema.of("context", "numerical")) + names_of(tuple(self._computed("user")))
            return names + [f"user {c}" for c in counters if self.schema.of("user", "counter")]
        names = names_of(tuple(self._computed("video")))
        return names + [f"{entity} {c}" for entity in COUNTER_ENTITIES if self.schema.of(entity, "counter") for c in counters]

    @property
    def sizes(self) -> InputSizes:
        """Sizes of the network inputs."""

        def vocabularies(features) -> tuple[int, ...]:
            return tuple(len(self.fitted[f"vocabulary.{f.name}"]) + 1 for f in features if f.kind == "categorical")

        def position(entity: str, name: str) -> int | None:
            names = [f.name for f in self.schema.columns(entity) if f.kind == "categorical"]
            return names.index(name) if name in names else None

        widths = {
            block: self.fitted[f"scale.{block}"].shape[1]
            for block in ("user_values", "query_values", "video_values", "candidate_values")
        }
        vector = self.schema.of("video", "vector")
        return InputSizes(
            user_codes=vocabularies(self.schema.columns("user")),
            context_codes=vocabularies(self.schema.of("context")),
            video_codes=vocabularies(self.schema.columns("video")),
            tags=len(self.fitted.get("vocabulary.tags", ())) + 1,
            vector=(vector[0].dimension if vector else 0) + 1,
            user_id=position("user", "user_id"),
            video_id=position("video", "video_id"),
            **widths,
        )

    # ---- artefact ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write `schema.json`, `pipeline.json` and one array per fitted value."""
        folder = Path(folder)
        save_arrays(folder, self.fitted)
        self.schema.save(folder / "schema.json")
        meta = {"utc_offset_h": self.utc_offset_h, "fingerprint": self.schema.fingerprint, "sizes": asdict(self.sizes)}
        (folder / "pipeline.json").write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path) -> "FeaturePipeline":
        """Load a saved pipeline. Raises FileNotFoundError for a missing folder, SchemaError for an inconsistent one."""
        folder = Path(folder)
        if not (folder / "pipeline.json").exists():
            repair = "`dvc repro features` (other data: `python -m watchnext.lifecycle pipeline data=NAME`)"
            raise FileNotFoundError(f"{folder} holds no feature pipeline; run {repair}")
        meta = json.loads((folder / "pipeline.json").read_text())
        schema = FeatureSchema.load(folder / "schema.json")
        schema.require(meta["fingerprint"], artefact=str(folder), repair="dvc repro features")
        fitted = load_arrays(folder)
        if any(len(values) != len(UNSCALED) for name, values in fitted.items() if name.startswith("scale.")):
            raise SchemaError(
                f"{folder} was fitted without bounds of its values, by an older version; run `dvc repro release`, then "
                "`python -m watchnext.lifecycle promote`"
            )
        return cls(schema=schema, utc_offset_h=meta["utc_offset_h"], fitted=fitted)

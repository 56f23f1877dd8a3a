"""Hydrate a request with the viewer's state, and encode it with the feature pipeline that training used."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from watchnext.features.encode.encodings import MISSING, Arrays, joined, names_of
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.state import history
from watchnext.features.state.fold import Reads, creators_of, read_viewer
from watchnext.features.state.seen import SeenSet
from watchnext.retrieval.sources.source import slot_of
from watchnext.schema import Feature
from watchnext.serving.release.live_catalogue import LiveCatalogue
from watchnext.serving.release.release import Release
from watchnext.types import Query, Request

NO_VIDEOS = np.zeros(0, np.int64)
AGE, LANGUAGE = "age_group", "user_language"  # user features that rules read, where the data set has them


class FieldError(ValueError):
    """A field of a request that the release has no use for; the message begins with its name."""


class ContextError(FieldError):
    """A request's context that the schema does not declare; the message names the declared keys or bounds."""


class QueryEncoder:
    """Hydrate requests: read a viewer's state as of the request, and encode it for networks."""

    def __init__(self, release: Release, catalogue: LiveCatalogue) -> None:
        self._release, self._catalogue = release, catalogue
        self._pipeline, self._layout = release.pipeline, release.layout
        self._follow_slot = slot_of(self._pipeline.schema.state, release.retrieval["followed"]["count"])
        self._context = {feature.name: feature for feature in self._pipeline.schema.columns("context")}
        categories = [each.name for each in self._pipeline.schema.columns("user") if each.kind == "categorical"]
        self._read_by_rules = {name: categories.index(name) for name in (AGE, LANGUAGE) if name in categories}

    def hydrate(self, requests: Sequence[Request], records: np.ndarray, seen: Sequence[SeenSet]) -> list[Query]:
        """Make the queries of N requests; `records` (N, layout.viewer) are the viewers' states, `seen` what each has seen.

        Raises ContextError.
        """
        layout, as_of = self._layout, np.array([each.as_of_ms for each in requests], np.float64)
        users = self._users(requests)
        reads = Reads.empty(layout, len(requests), 0)
        for i, record in enumerate(records):
            reads.gap_s[i] = read_viewer(layout, record, as_of[i], reads.user[i], reads.history_rows[i], reads.history[i])
        blocks = self._pipeline.query(self._context_columns(requests), as_of, reads)
        inputs = joined(blocks, self._release.users, self._catalogue.inputs, users, NO_VIDEOS)
        return [
            self._query(request, record, user, seen_set.rows, reads, i, inputs)
            for i, (request, record, user, seen_set) in enumerate(zip(requests, records, users, seen, strict=True))
        ]

    def _query(
        self, request: Request, record: np.ndarray, user: int, seen: np.ndarray, reads: Reads, i: int, inputs: Arrays
    ) -> Query:
        """Make the query of the request `i` of those that `reads` and `inputs` are of."""
        kept = reads.history_rows[i] >= 0
        ago_s, watch_s, bits = reads.history[i][kept].T
        creators, engagement = creators_of(self._layout, record, float(request.as_of_ms), self._follow_slot)
        return Query(
            request=request,
            region=self._region(request, user),
            state=record,
            seen=seen,
            history_rows=reads.history_rows[i][kept].astype(np.int64),
            ago_s=ago_s,
            watch_s=watch_s,
            bits=bits.astype(np.int64),
            creators=creators,
            engagement=engagement,
            inputs={name: values[i : i + 1] for name, values in inputs.items()},
            age=self._category(AGE, user),
            language=self._category(LANGUAGE, user),
            muted=self._catalogue.of_creators(request.muted),
        )

    def profile(self, request: Request) -> dict[str, str | None]:
        """Return `region`, of a request or else the viewer's own, `age` and `language` of its viewer; None unknown."""
        user = self._users([request])[0]
        return {
            "region": self._region(request, user),
            "age": self._category(AGE, user),
            "language": self._category(LANGUAGE, user),
        }

    def _category(self, name: str, row: int) -> str | None:
        """Return a user's category as the log names it; None where it is missing, or too rare to have a code."""
        if name not in self._read_by_rules:
            return None
        code = int(self._release.users["user_codes"][row, self._read_by_rules[name]])
        return str(self._pipeline.fitted[f"vocabulary.{name}"][code - 1]) if code else None

    def _region(self, request: Request, user: int) -> str | None:
        return request.region or (str(self._release.user_regions[user]) if user >= 0 else "") or None

    def _users(self, requests: Sequence[Request]) -> np.ndarray:
        """Return the rows of the viewers (N,), -1 for an unknown one and where a request is not personalised."""
        rows = self._release.user_ids.rows([each.user_id for each in requests])
        return np.where([each.personalised for each in requests], rows, -1)

    def watched(self, record: np.ndarray, as_of_ms: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the last watches (m,) with their ages in s."""
        layout = self._layout
        rows, values = np.empty(layout.history, np.int32), np.empty((layout.history, 3))
        history.read(record, layout.at_history, layout.history, as_of_ms, rows, values)
        kept = rows >= 0
        return rows[kept], values[kept, 0]

    def _context_columns(self, requests: Sequence[Request]) -> dict[str, np.ndarray]:
        given = [{"surface": request.surface, **request.context} for request in requests]
        for name in (name for request in requests for name in request.context):
            if name not in self._context:
                raise ContextError(
                    f"context has the unknown key {name!r}, expected some of {', '.join(self._context) or 'none'}"
                )
        return {name: self._column(feature, [each.get(name) for each in given]) for name, feature in self._context.items()}

    def _column(self, feature: Feature, given: Sequence[str | float | None]) -> np.ndarray:
        """Write values as a column of a log would hold them; a missing or new value is encoded as unknown."""
        if feature.kind == "numerical":
            return np.array([math.nan if each is None else _number(feature, each) for each in given])
        if self._pipeline.fitted[f"vocabulary.{feature.name}"].dtype.kind == "i":
            return np.array([MISSING if each is None else int(_number(feature, each)) for each in given], np.int64)
        return np.array(["" if each is None else str(each) for each in given], np.str_)


def _number(feature: Feature, given: str | float) -> float:
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 2**53:
        raise ContextError(f"context.{feature.name} is {given!r}, expected a finite number")
    low, high = feature.bounds  # the bounds that rows of a log must keep
    if (low is not None and number < low) or (high is not None and number > high):
        raise ContextError(f"context.{feature.name} is {given!r}, expected a number within [{low}, {high}]")
    return number


def features_by_name(pipeline: FeaturePipeline, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return inputs by feature name, (N,) each: categories decoded (object, None for unknown), values as fed (float32).

    This works on the rows of a log and of a request alike; an input with one row is repeated for all.
    """
    rows, (categories, values_of) = len(inputs["candidate_values"]), _names(pipeline)
    columns: dict[str, np.ndarray] = {}
    for block, names in categories.items():
        for index, name in enumerate(names):
            codes, vocabulary = inputs[block][:, index], pipeline.fitted[f"vocabulary.{name}"]
            values = np.array([str(vocabulary[code - 1]) if code else None for code in codes.tolist()], object)
            columns[name] = values if len(values) == rows else np.repeat(values, rows)
    for block, names in values_of.items():
        values = inputs[block] if len(inputs[block]) == rows else np.repeat(inputs[block], rows, axis=0)
        columns.update(zip(names, values.T, strict=True))
    return columns


@lru_cache(4)  # pipelines: of the release that serves, and of one that is about to
def _names(pipeline: FeaturePipeline) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the names of the categories, and of the values, by the block of inputs that holds them in their order."""
    schema = pipeline.schema
    features = {"user": schema.columns("user"), "context": schema.of("context"), "video": schema.columns("video")}
    categories = {f"{entity}_codes": [f.name for f in of if f.kind == "categorical"] for entity, of in features.items()}
    logged = {entity: tuple(f for f in features[entity] if f.kind == "numerical") for entity in ("user", "video")}
    values = {f"{entity}_values": names_of(of) for entity, of in logged.items()}
    return categories, values | {block: pipeline.value_names(block) for block in ("query_values", "candidate_values")}

"""Answers > rows of the served log. A column is made of the arrays of many answers at once: value by value, an answer took a
millisecond more of the processor."""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter

import numpy as np
import orjson
import polars as pl

from watchnext.serving.funnel.answer import Answer
from watchnext.types import TARGETS, Request

# Ids are always strings here, so that the files of all releases can be read together.
COLUMNS = {
    "request_id": pl.String,
    "release": pl.String,
    "mode": pl.String,
    "user_id": pl.String,
    "as_of_ms": pl.Int64,
    "k": pl.Int32,
    "asked": pl.String,  # the rest of the request as JSON, without what is left at its default
    "why": pl.List(pl.String),
    "journal_position": pl.Int64,  # events that were read; null where that is not known
    "candidate_rows": pl.List(pl.Int32),
    "candidate_sources": pl.List(pl.UInt16),
    "candidate_scores": pl.List(pl.Float32),
    "candidate_ranks": pl.List(pl.UInt16),  # of all candidates one after another, as many each as there are sources
    "video_ids": pl.List(pl.String),
    "values": pl.List(pl.Float64),
    "propensities": pl.List(pl.Float64),
    **{f"predicted_{name}": pl.List(pl.Float32) for name in TARGETS},
    # Names are inside the rows: releases differ in their features, but the files must have the same columns.
    "categories": pl.List(pl.Struct({"name": pl.String, "of": pl.List(pl.String)})),
    "numbers": pl.List(pl.Struct({"name": pl.String, "of": pl.List(pl.Float32)})),
}
SLATE = ("video_ids", "values", "propensities", *(f"predicted_{name}" for name in TARGETS))  # columns with one entry a video
WHOLE = (
    "request_id",
    "release",
    "mode",
    "user_id",
    "as_of_ms",
    "k",
    "asked",
    "why",
    "journal_position",
)  # columns without an array
ASKED = tuple(each.name for each in fields(Request) if each.name not in COLUMNS)
_values = attrgetter(*ASKED)
_DEFAULTS = _values(Request("", "", 0, 0))


def frame_of(answers: Sequence[Answer]) -> pl.DataFrame:
    """Make a table with COLUMNS, one row an answer."""
    candidates = [answer.scored.candidates for answer in answers]
    ranks = [np.zeros(0, np.uint16) if each.ranks is None else each.ranks for each in candidates]
    parts = (
        pl.DataFrame([_row(answer) for answer in answers], schema={name: COLUMNS[name] for name in WHOLE}, orient="row"),
        _lists(
            [len(each) for each in candidates],
            candidate_rows=_joined([each.rows for each in candidates]),
            candidate_sources=_joined([each.sources for each in candidates]),
            candidate_scores=_joined([each.scores for each in candidates]),
        ),
        _lists([each.size for each in ranks], candidate_ranks=_joined([each.ravel() for each in ranks])),
        _lists([len(answer.ids) for answer in answers], **_slates(answers)),
        _features(answers, "categories", "O"),
        _features(answers, "numbers", "f"),
    )
    return pl.concat(parts, how="horizontal").select(*COLUMNS).cast(COLUMNS)


def _row(answer: Answer) -> dict:
    return {
        "request_id": answer.request.request_id,
        "release": answer.release,
        "mode": answer.mode,
        "user_id": str(answer.request.user_id),
        "as_of_ms": answer.request.as_of_ms,
        "k": answer.request.k,
        "asked": _asked(answer.request),
        "why": [each.code for each in answer.degradations],
        "journal_position": answer.position,
    }


def _asked(request: Request) -> str:
    values = _values(request)
    if values == _DEFAULTS:  # as of most requests
        return "{}"
    parts = zip(ASKED, values, _DEFAULTS, strict=True)
    return orjson.dumps({name: value for name, value, default in parts if value != default}).decode()


def _slates(answers: Sequence[Answer]) -> dict[str, Sequence]:
    predictions = _joined([answer.predictions for answer in answers]).reshape(-1, len(TARGETS))
    return {
        "video_ids": [str(each) for answer in answers for each in answer.ids],
        "values": _joined([answer.slate.values for answer in answers]),
        "propensities": _joined([answer.slate.propensities for answer in answers]),
        **{f"predicted_{name}": predictions[:, column] for column, name in enumerate(TARGETS)},
    }


def _features(answers: Sequence[Answer], column: str, kind: str) -> pl.DataFrame:
    """Return the features whose arrays are of a kind as one column: a list of names, each with its values."""
    kept = [[(name, of) for name, of in answer.features.items() if of.dtype.kind == kind] for answer in answers]
    flat = [each for features in kept for each in features]
    values = _joined([of for _, of in flat])
    named = _lists([len(of) for _, of in flat], of=values.tolist() if kind == "O" else values)
    names = pl.Series("name", [name for name, _ in flat], dtype=pl.String)
    return _lists([len(features) for features in kept], **{column: named.select(names, "of").to_struct()})


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _lists(lengths: Sequence[int], **flat: Sequence) -> pl.DataFrame:
    """Cut every flat column into lists of these lengths, one a row; nothing gives an empty list."""
    rows = np.arange(len(lengths), dtype=np.uint32)
    columns = pl.DataFrame({"row": np.repeat(rows, np.array(lengths, np.int64)), **flat})
    lists = columns.group_by("row", maintain_order=True).agg(pl.all())
    return (
        pl.DataFrame({"row": rows})
        .join(lists, on="row", how="left", maintain_order="left")
        .select(pl.col(name).fill_null([]) for name in flat)
    )

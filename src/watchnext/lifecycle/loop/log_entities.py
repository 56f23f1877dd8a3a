"""Rows of a log's users and videos, with what was served of them laid on top: later metadata replaces earlier."""

from collections.abc import Mapping, Sequence

import polars as pl

from watchnext.data.structure import Expected


def with_metadata(
    catalogue: pl.DataFrame, posted: Mapping[int | str, Mapping], expected: Mapping[str, Expected]
) -> tuple[pl.DataFrame, int, int]:
    """Return the videos of a log with posted metadata, the number of new ones, and of those with another value now.

    posted    video_id > values by the names of the API; a name that is not there leaves the log's value
    expected  the columns that a table of videos may have; one that the log lacks is added where a value needs it

    Rows keep their order, new videos come last. A value that the column cannot hold, or a null where it has none, leaves the
    log's too: the row would be rejected, and with it what keeps a video from being shown.
    """
    flat = {video: {**values, **values.get("features", {})} for video, values in posted.items()}
    catalogue = catalogue.with_columns(_lacking(catalogue, [*flat.values()], expected))
    types = catalogue.schema
    ids = pl.Series([*flat], strict=False).cast(types["video_id"], strict=False).to_list()
    given = {video: values for video, values in zip(ids, flat.values(), strict=True) if video is not None}
    at = catalogue.with_row_index("row")
    is_given = pl.col("video_id").is_in(pl.Series([*given], dtype=types["video_id"]).implode())
    before = {row["video_id"]: row for row in at.filter(is_given).iter_rows(named=True)}
    rows = [before.get(video, {"row": len(catalogue) + n, "video_id": video}) for n, video in enumerate(given)]
    columns = [pl.Series(name, [row[name] for row in rows], dtype=at.schema[name]) for name in ("row", "video_id")]
    for name in types.keys() - {"video_id"}:
        nullable = name not in expected or expected[name].nullable
        columns.append(_replaced([row.get(name) for row in rows], [*given.values()], name, types[name], nullable=nullable))
    later = pl.DataFrame(columns).select(at.columns)
    changed = sum(before.get(row["video_id"], row) != row for row in later.iter_rows(named=True))
    return pl.concat([at.filter(~is_given), later]).sort("row").drop("row"), len(given) - len(before), changed


def _lacking(catalogue: pl.DataFrame, values: Sequence[Mapping], expected: Mapping[str, Expected]) -> list[pl.Expr]:
    """Return columns of nulls that the table lacks and a value needs."""
    lacking = []
    for name, column in expected.items():
        known = [each[name] for each in values if each.get(name) is not None]
        if name not in catalogue.columns and known:
            lacking.append(pl.lit(None, dtype=_held_by(known, column.types)).alias(name))
    return lacking


def _held_by(values: Sequence, types: Sequence) -> pl.DataType:
    """Return the first of the types that holds every value, else the last."""
    series = pl.Series(values, strict=False)
    return next((kind for kind in types if not series.cast(kind, strict=False).null_count()), types[-1])


def _replaced(before: Sequence, given: Sequence[Mapping], name: str, dtype: pl.DataType, *, nullable: bool) -> pl.Series:
    typed = pl.Series([values.get(name) for values in given], strict=False).cast(dtype, strict=False).to_list()
    kept = []
    for old, values, value in zip(before, given, typed, strict=True):
        is_taken = name in values and (value is not None or (values[name] is None and nullable))
        kept.append(value if is_taken else old)
    return pl.Series(name, kept, dtype)

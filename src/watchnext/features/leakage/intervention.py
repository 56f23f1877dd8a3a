"""Interventions: rebuild the features on a log whose future was changed; every difference is a leak."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.tables import OUTCOMES, Tables
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.dataset import freshness
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.encode.context import context_of
from watchnext.features.encode.encodings import Arrays
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.features.state import log_arrays
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold import Layout, Reads, State
from watchnext.features.state.fold_log import read_all
from watchnext.schema import FeatureSchema

HOUR_MS = 3_600_000


def flip_outcomes(impressions: pl.DataFrame, changed: np.ndarray, *, early: bool) -> pl.DataFrame:
    """Flip the outcomes of the rows `changed` (N,) bool; `early` sets their received time before the request, as a broken clock
    would."""
    flipped = pl.Series(changed)
    columns = {name: pl.col(name) ^ flipped for name in OUTCOMES}
    columns["watch_ms"] = pl.when(flipped).then(pl.col("watch_ms") + 1_000).otherwise(pl.col("watch_ms"))
    if early:
        before = (pl.col("time_ms") - HOUR_MS).clip(0)
        columns["received_ms"] = pl.when(flipped).then(before).otherwise(pl.col("received_ms"))
    return impressions.with_columns(**columns)


def scramble(frame: pl.DataFrame, rows: np.ndarray) -> pl.DataFrame:
    """Change every number, text, flag and list of text of `rows` (n,) bool."""
    columns = {}
    for name, kind in frame.schema.items():
        if kind == pl.String:
            changed = pl.col(name) + "~"
        elif kind == pl.List(pl.String):
            changed = pl.col(name).list.eval(pl.element() + "~")
        elif kind == pl.Boolean:
            changed = ~pl.col(name)
        elif kind.is_numeric():
            changed = pl.col(name) * 3 + 1 if kind.is_float() else pl.col(name) + 1
        else:
            continue
        columns[name] = pl.when(pl.Series(rows)).then(changed).otherwise(pl.col(name))
    return frame.with_columns(**columns)


@dataclass(frozen=True)
class Rebuild:
    """Rebuilds the features of every k-th viewer, at most about `limit` rows.

    split, visible   of these rows
    context_rows     position of the row whose time and context each of them is encoded with
    """

    builder: FeatureBuilder
    tables: Tables
    split: np.ndarray
    visible: np.ndarray
    context_rows: np.ndarray
    is_whole: bool
    catalogue: Catalogue
    users: Ids

    @classmethod
    def of(cls, builder, tables: Tables, split: np.ndarray, user_rows: np.ndarray, catalogue, *, limit: int) -> "Rebuild":
        visible = freshness.visible_until(builder.regime, tables.impressions, split)
        context_rows = freshness.encoded_with(builder.regime, tables.impressions, split)
        numbers = np.flatnonzero(user_rows % -(-len(split) // limit) == 0)
        context_rows = np.searchsorted(numbers, context_rows[numbers])  # a group is of one viewer
        fewer = Tables(tables.impressions[numbers], tables.users, tables.videos)
        users = Ids.of(tables.users["user_id"])
        return cls(builder, fewer, split[numbers], visible[numbers], context_rows, len(numbers) == len(split), catalogue, users)

    @property
    def schema(self) -> FeatureSchema:
        return self.builder.schema

    @property
    def _sizes(self) -> dict[str, int]:
        creators = max(len(self.catalogue.creator_names), 1)
        return {"users": len(self.users.ids), "videos": len(self.catalogue), "creators": creators}

    def _log(self, tables: Tables) -> Log:
        return log_arrays.log_of(tables, self.catalogue, self.users, self.schema)

    def _reads(self, log: Log, visible: np.ndarray, as_of: np.ndarray | None = None) -> Reads:
        layout = Layout.of(self.schema.state)
        return read_all(layout, State.empty(layout, **self._sizes), log, visible, as_of=as_of)

    def columns(self, impressions: pl.DataFrame, pipeline: FeaturePipeline) -> dict[str, np.ndarray]:
        """Build the as-of input blocks of every row, with `impressions` (the first n rows) as the log."""
        log = self._log(Tables(impressions, self.tables.users, self.tables.videos))
        context_rows = self.context_rows[: len(impressions)]
        as_of = log.time_ms[context_rows]
        reads = self._reads(log, self.visible[: len(impressions)], as_of)
        upload_ms = np.asarray(self.catalogue.upload_ms)[log.video_rows]
        context = {name: values[context_rows] for name, values in context_of(impressions, self.schema).items()}
        blocks = pipeline.query(context, as_of, reads)
        return blocks | {"candidate_values": pipeline.candidates(upload_ms, as_of, reads.candidate)}

    def fitted(self) -> Arrays:
        """Fit the pipeline on this log."""
        return self._fit(self.tables, self.visible, self.split, self.tables)

    def fitted_without_held_out(self) -> tuple[Arrays, int]:
        """Fit the pipeline without held-out impressions. Returns it and the number of removed impressions.

        Users and videos that occur only in held-out rows get other raw values. If days overlap in time, held-out rows that
        training rows may have seen remain.
        """
        time_ms = self.tables.impressions["time_ms"].to_numpy()
        remaining = (self.split == 0) | (time_ms < time_ms[self.split == 0].max())
        impressions = self.tables.impressions.filter(pl.Series(remaining))
        log = self.tables.impressions.filter(pl.Series(self.split == 0))
        unknown = {
            name: ~getattr(self.tables, name)[key].is_in(log[key].unique().implode()).to_numpy()
            for name, key in (("users", "user_id"), ("videos", "video_id"))
        }
        others = {name: scramble(getattr(self.tables, name), rows) for name, rows in unknown.items()}
        tables = Tables(impressions, self.tables.users, self.tables.videos)
        fitted = self._fit(tables, self.visible[remaining], self.split[remaining], Tables(impressions, **others))
        return fitted, int((~remaining).sum())

    def _fit(self, tables: Tables, visible: np.ndarray, split: np.ndarray, raw: Tables) -> Arrays:
        # The log has the ids of `tables`; vocabularies and means read `raw`.
        log = self._log(tables)
        return self.builder.fit(raw, log, self._reads(log, visible), split).fitted

"""The feature stage: canonical tables > the state of every impression as of its request, and the fitted pipeline.

The stage folds the log partition by partition. Columns hold the state as read, not encoded, so they depend on nothing fitted:
a new day adds its rows and changes no others. A build in several steps, or from a late day on, gives the same bytes as one
build of the whole log.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS, TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.data.tables import Tables
from watchnext.features import video_texts
from watchnext.features.arrays import save_arrays
from watchnext.features.catalogue import Ids
from watchnext.features.dataset.labels import Labels, rates
from watchnext.features.dataset.log_columns import LogColumns
from watchnext.features.encode.context import context_of
from watchnext.features.encode.pipeline import FeaturePipeline, TrainingCounts
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold import Reads
from watchnext.features.state.fold_log import replay
from watchnext.features.video_texts import VideoTexts
from watchnext.schema import FeatureSchema

FIT_ROWS = 200_000  # training rows for means and deviations; more rows change them by less than noise


def sampled(training_rows: int) -> slice:
    """Return the slice of the training rows, in log order, that the pipeline is fitted on."""
    return slice(None, None, max(1, training_rows // FIT_ROWS))


@dataclass(frozen=True)
class BuildResult:
    """The report, as in report.json, and the numbers of days that were `kept` and `folded`."""

    report: dict
    kept: int
    folded: int


@dataclass(frozen=True)
class FeatureBuilder:
    """Builds the features of one log: everything between the tables and a network.

    labels     definition of the targets
    min_count  categorical values in fewer training impressions share the code 0
    snapshots  number of last days whose final state is kept: a late or changed day is replayed from the snapshot before it, a
               day before all snapshots from the start
    """

    schema: FeatureSchema
    labels: Labels
    utc_offset_h: float
    regime: str
    min_count: int
    snapshots: int = 7

    def build(self, stored: StoredTables, split: TimeSplit, folder: Path, replay: Callable = replay) -> BuildResult:
        """Update `folder` to the tables, keeping the valid part of the last build; `replay` folds, here or on an engine.

        It holds pipeline/, catalogue/, users/, user_table/, videos/, columns/, watches/, context/ and state/, and where
        the log has titles, thumbnails or links, video_texts/.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = LogColumns(
            folder, stored, split, schema=self.schema, labels=self.labels, regime=self.regime, snapshots=self.snapshots
        )
        kept = log.build(replay)
        log.state.as_of(log.as_of_ms)  # the initial state of a release
        pipeline = self._fit_stored(log)
        for part in ("pipeline", "catalogue", "users", "user_table", "videos", video_texts.FOLDER):
            shutil.rmtree(folder / part, ignore_errors=True)
        pipeline.save(folder / "pipeline")
        log.catalogue.save(folder / "catalogue")
        VideoTexts.of(stored.videos).save(folder / video_texts.FOLDER)
        save_arrays(folder / "users", pipeline.users(stored.users))
        save_arrays(folder / "user_table", _user_table(stored.users, log.state.users))
        save_arrays(folder / "videos", pipeline.videos(stored.videos, log.catalogue.vectors))
        report = self._report(log, pipeline)
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        return BuildResult(report, kept, len(stored.days) - kept)

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def _fit_stored(self, log: LogColumns) -> FeaturePipeline:
        """Fit vocabularies on all training rows, means and rates on a sample of them.

        Without training rows, vocabularies hold all users and videos, means and rates are 0, and deviations 1.
        """
        training_counts = TrainingCounts.nothing(len(log.state.users.ids), len(log.catalogue), log.dictionaries.values)
        chosen = sampled(sum(int((columns["split"] == 0).sum()) for columns in log.rows()))
        parts, trained = [log.columns.rows(0, 0)], 0
        for columns in log.rows():
            train = np.flatnonzero(columns["split"] == 0)
            training_counts.count(columns, train)
            sample_rows = train[-trained % chosen.step :: chosen.step]
            parts.append({name: column[sample_rows] for name, column in columns.items()})
            trained += len(train)
        if not trained:
            training_counts.users[:], training_counts.videos[:] = self.min_count, self.min_count
        sample = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        context = log.dictionaries.raw(sample)
        none = np.zeros((len(sample["gap_s"]), 0))  # nothing is fitted on histories
        reads = Reads(sample["user"], none, none, sample["gap_s"], sample["candidate"])
        return self._fit(log.stored, training_counts, sample, context, reads)

    def _fit(
        self, tables: Tables | StoredTables, training_counts: TrainingCounts, sample: dict, context: dict, reads: Reads
    ) -> FeaturePipeline:
        return FeaturePipeline.fit(
            schema=self.schema,
            utc_offset_h=self.utc_offset_h,
            users=tables.users,
            videos=tables.videos,
            training_counts=training_counts,
            user_rows=sample["user_rows"],
            video_rows=sample["video_rows"],
            context=context,
            as_of_ms=sample["time_ms"],
            reads=reads,
            min_count=self.min_count,
        )

    def fit(self, tables: Tables, log: Log, reads: Reads, split: np.ndarray) -> FeaturePipeline:
        """Fit on a log in memory, given the `reads` of all its impressions; raw values come from `tables`."""
        train = np.flatnonzero(split == 0)
        context = context_of(tables.impressions, self.schema)
        training_counts = TrainingCounts.nothing(len(tables.users), len(tables.videos), {})
        training_counts.count({"user_rows": log.user_rows, "video_rows": log.video_rows}, train)
        logged = [f.name for f in self.schema.columns("context") if f.kind == "categorical"]
        once = np.ones(len(train), np.int64)
        training_counts.context.update({name: (tables.impressions[name].gather(train), once) for name in logged})
        rows = train[sampled(len(train))]
        sample = {"user_rows": log.user_rows[rows], "video_rows": log.video_rows[rows], "time_ms": log.time_ms[rows]}
        sample_reads = Reads(*(values[rows] for values in vars(reads).values()))
        return self._fit(
            tables, training_counts, sample, {name: values[rows] for name, values in context.items()}, sample_reads
        )

    # ---- report ------------------------------------------------------------------------------------------------------

    def _report(self, log: LogColumns, pipeline: FeaturePipeline) -> dict:
        # A day that continues beyond the next day's first request has a part in both partitions.
        parts = [
            (split, entry.encoded["sums"][day.day])
            for entry, partition in zip(log.state.entries, log.plan.partitions, strict=True)
            for day, split in zip(partition.days, partition.split, strict=True)
        ]
        return {
            "regime": self.regime,
            "schema": self.schema.fingerprint,
            "data_hash": log.stored.hash,
            "as_of_ms": log.as_of_ms,
            "impressions": {
                name: int(sum(sums["rows"] for split, sums in parts if split == i)) for i, name in enumerate(SPLITS)
            },
            **log.state.sizes,
            "viewer_state_bytes": 8 * log.state.layout.viewer,
            "inputs": asdict(pipeline.sizes),
            "labels": rates(parts),
        }


def _user_table(users: pl.DataFrame, ids: Ids) -> dict[str, np.ndarray]:
    """Return the user ids and regions, which serving needs beside the encoded blocks."""
    regions = users["region"].cast(pl.String).fill_null("") if "region" in users.columns else pl.Series([""] * len(users))
    return {"user_ids": ids.ids, "regions": np.array(regions.to_list(), dtype=np.str_)}

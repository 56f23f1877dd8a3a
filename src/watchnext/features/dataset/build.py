"""The feature stage: canonical tables > what every impression may know as of its request, and the pipeline that encodes it.

It goes through the log a day, or a few small days, at a time. Columns hold what was read of the state, not yet encoded, so that
they depend on nothing that is fitted: a new day adds its own rows and leaves the others as they are. What is built day by day,
or again from a late day on, is bit for bit what is built at once.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.splits import SPLITS, TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.data.tables import Tables
from watchnext.features.arrays import save_arrays
from watchnext.features.catalogue import Ids
from watchnext.features.dataset.folded import Folding
from watchnext.features.dataset.labels import Labels, rates
from watchnext.features.encode.context import context_of
from watchnext.features.encode.pipeline import FeaturePipeline, Seen
from watchnext.features.state.events import Log
from watchnext.features.state.fold import Reads
from watchnext.schema import FeatureSchema

FIT_ROWS = 200_000  # training rows that means and deviations are taken over; more changes them by less than noise


def sampled(training_rows: int) -> slice:
    """Which of the training rows, in the order of the log, are fitted on."""
    return slice(None, None, max(1, training_rows // FIT_ROWS))


@dataclass(frozen=True)
class Built:
    """The report, as in report.json, and how many days were `kept` as they were, how many `folded`."""

    report: dict
    kept: int
    folded: int


@dataclass(frozen=True)
class FeatureBuilder:
    """Everything between the tables and a network, for one log.

    labels     what the targets are
    min_count  a value of a categorical feature that fewer training impressions show shares the code 0
    snapshots  of how many of the last days the state is kept as it was at their end: a day that comes late, or again, is
               replayed from the snapshot before it; one before all snapshots, from the start
    """

    schema: FeatureSchema
    labels: Labels
    utc_offset_h: float
    regime: str
    min_count: int
    snapshots: int = 7

    def build(self, stored: StoredTables, split: TimeSplit, folder: Path) -> Built:
        """Bring `folder` up to the tables: pipeline/, catalogue/, users/, user_table/, videos/, columns/, watches/, context/,
        state/. What is there and still true stays."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        folding = self._folding(stored, split, folder)
        kept, why = folding.begin()
        if why and folding.plan.stretches:
            print(f"{folder}: rebuilding from {folding.plan.stretches[kept].days[0].day} on: {why}")
        folding.run(kept)
        folding.save_opening()
        pipeline = self._fit_stored(folding)
        for part in ("pipeline", "catalogue", "users", "user_table", "videos"):
            shutil.rmtree(folder / part, ignore_errors=True)
        pipeline.save(folder / "pipeline")
        folding.catalogue.save(folder / "catalogue")
        save_arrays(folder / "users", pipeline.users(stored.users))
        save_arrays(folder / "user_table", _user_table(stored.users, folding.users))
        save_arrays(folder / "videos", pipeline.videos(stored.videos, folding.catalogue.vectors))
        report = self._report(folding, pipeline)
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        days = sum(stretch.begun for stretch in folding.plan.stretches[:kept])
        return Built(report, days, len(stored.days) - days)

    def _folding(self, stored: StoredTables, split: TimeSplit, folder: Path) -> Folding:
        return Folding(
            folder,
            stored,
            split,
            schema=self.schema,
            labels=self.labels,
            regime=self.regime,
            snapshots=self.snapshots,
        )

    # ---- fit ---------------------------------------------------------------------------------------------------------

    def _fit_stored(self, folding: Folding) -> FeaturePipeline:
        """Vocabularies of all training rows; means and rates of some, as their requests saw the log. Where there are none,
        vocabularies of all users and videos; means and rates are 0 then, and deviations 1."""
        seen = Seen.nothing(len(folding.users.ids), len(folding.catalogue), folding.dictionaries.values)
        chosen = sampled(sum(int((columns["split"] == 0).sum()) for columns in folding.rows()))
        parts, trained = [folding.columns.rows(0, 0)], 0
        for columns in folding.rows():
            train = np.flatnonzero(columns["split"] == 0)
            seen.count(columns, train)
            mine = train[-trained % chosen.step :: chosen.step]
            parts.append({name: column[mine] for name, column in columns.items()})
            trained += len(train)
        if not trained:
            seen.users[:], seen.videos[:] = self.min_count, self.min_count
        sample = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        context = folding.dictionaries.raw(sample)
        none = np.zeros((len(sample["gap_s"]), 0))  # of histories nothing is fitted
        reads = Reads(sample["user"], none, none, sample["gap_s"], sample["candidate"])
        return self._fit(folding.stored, seen, sample, context, reads)

    def _fit(self, tables: Tables | StoredTables, seen: Seen, sample: dict, context: dict, reads: Reads) -> FeaturePipeline:
        return FeaturePipeline.fit(
            schema=self.schema,
            utc_offset_h=self.utc_offset_h,
            users=tables.users,
            videos=tables.videos,
            seen=seen,
            user_rows=sample["user_rows"],
            video_rows=sample["video_rows"],
            context=context,
            as_of_ms=sample["time_ms"],
            reads=reads,
            min_count=self.min_count,
        )

    def fit(self, tables: Tables, log: Log, reads: Reads, split: np.ndarray) -> FeaturePipeline:
        """The same of a log in memory, with the `reads` of all its impressions; raw values are those of `tables`."""
        train = np.flatnonzero(split == 0)
        context = context_of(tables.impressions, self.schema)
        seen = Seen.nothing(len(tables.users), len(tables.videos), {})
        seen.count({"user_rows": log.user_rows, "video_rows": log.video_rows}, train)
        logged = [f.name for f in self.schema.columns("context") if f.kind == "categorical"]
        once = np.ones(len(train), np.int64)
        seen.context.update({name: (tables.impressions[name].gather(train), once) for name in logged})
        mine = train[sampled(len(train))]
        sample = {"user_rows": log.user_rows[mine], "video_rows": log.video_rows[mine], "time_ms": log.time_ms[mine]}
        few = Reads(*(values[mine] for values in vars(reads).values()))
        return self._fit(tables, seen, sample, {name: values[mine] for name, values in context.items()}, few)

    # ---- report ------------------------------------------------------------------------------------------------------

    def _report(self, folding: Folding, pipeline: FeaturePipeline) -> dict:
        # Of a day that goes on behind the next one's first request there is a part in each stretch.
        parts = [
            (split, entry.sums[day.day])
            for entry, stretch in zip(folding.ledger.entries, folding.plan.stretches, strict=True)
            for day, split in zip(stretch.days, stretch.split, strict=True)
        ]
        return {
            "regime": self.regime,
            "schema": self.schema.fingerprint,
            "data_hash": folding.stored.hash,
            "as_of_ms": folding.as_of_ms,
            "impressions": {
                name: int(sum(sums["rows"] for split, sums in parts if split == i)) for i, name in enumerate(SPLITS)
            },
            **folding.sizes,
            "viewer_state_bytes": 8 * folding.layout.viewer,
            "inputs": asdict(pipeline.sizes),
            "labels": rates(parts),
        }


def _user_table(users: pl.DataFrame, ids: Ids) -> dict[str, np.ndarray]:
    """What serving needs of users beside the encoded blocks: ids, and where they live."""
    regions = users["region"].cast(pl.String).fill_null("") if "region" in users.columns else pl.Series([""] * len(users))
    return {"user_ids": ids.ids, "regions": np.array(regions.to_list(), dtype=np.str_)}

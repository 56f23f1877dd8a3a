"""The feature stage: canonical tables > fitted pipeline, encoded columns, folded state."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.lib.format import open_memmap
from tqdm import tqdm

from watchnext.data.tables import OUTCOMES, Tables
from watchnext.features import counters, history
from watchnext.features.arrays import save_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.encoding import raw
from watchnext.features.fold import Layout, Log, Reads, State, fold, replay
from watchnext.features.labels import Labels, watch_ratio
from watchnext.features.pipeline import FeaturePipeline
from watchnext.schema import FeatureSchema

REGIMES = ("frozen", "daily", "streaming")
FIT_ROWS = 500_000  # training rows that means and deviations are taken over; more changes them by less than noise
DAY_MS = 86_400_000


def log_of(tables: Tables, catalogue: Catalogue, users: Ids, schema: FeatureSchema) -> Log:
    """Impressions as the arrays that the fold takes. An outcome is known when received, else after the watch."""
    impressions = tables.impressions
    video_rows = Ids(catalogue.video_ids).rows_of(impressions["video_id"])
    watch_ms = impressions["watch_ms"].to_numpy().astype(np.float64)
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    received = impressions["received_ms"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    outcomes = {name: impressions[name].to_numpy() for name in OUTCOMES}
    outcomes |= {"watch_ms": watch_ms, "duration_ms": np.nan_to_num(catalogue.duration_ms)[video_rows]}
    return Log(
        user_rows=users.rows_of(impressions["user_id"]),
        video_rows=video_rows,
        time_ms=time_ms,
        # Where a log claims to have received an outcome before its request, believing it would leak the row's own label.
        known_at=np.where(np.isnan(received), time_ms + watch_ms, np.maximum(received, time_ms)),
        amounts=counters.amounts(schema.state.counts, outcomes),
        watch_ms=watch_ms,
        bits=history.outcome_bits(outcomes),
        creator_rows=np.asarray(catalogue.creator_rows),
        tag_rows=np.asarray(catalogue.tag_rows),
    )


def visible_until(regime: str, impressions: pl.DataFrame, split: np.ndarray, utc_offset_h: float) -> np.ndarray:
    """(N,) float64: every impression sees what was known strictly before this time. Training rows always stream.

    frozen: held-out rows see the state at the start of their split. daily: at the start of their day. streaming: at their
    request.
    Raises ValueError naming a regime that is none of REGIMES.
    """
    if regime not in REGIMES:
        raise ValueError(f"regime is {regime!r}, expected one of {', '.join(REGIMES)}")
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    until = time_ms.copy()
    if regime == "daily":
        midnight = impressions["day"].cast(pl.Int32).to_numpy() * DAY_MS - utc_offset_h * 3_600_000
        until[split > 0] = midnight[split > 0]
    elif regime == "frozen":
        for held_out in (1, 2):
            if (rows := split == held_out).any():
                until[rows] = time_ms[rows].min()
    return np.minimum(until, time_ms)


def context_of(impressions: pl.DataFrame, schema: FeatureSchema) -> dict[str, np.ndarray]:
    """The logged context columns as arrays."""
    return {f.name: raw(impressions[f.name], f.kind) for f in schema.columns("context")}


@dataclass(frozen=True)
class FeatureBuilder:
    """Everything between the tables and a network, for one log.

    labels     what the targets are
    min_count  a value of a categorical feature that fewer training impressions show shares the code 0
    data_hash  of the tables, for those who ask later what a model was trained on
    """

    schema: FeatureSchema
    labels: Labels
    utc_offset_h: float
    regime: str
    min_count: int
    data_hash: str

    def build(self, tables: Tables, split: np.ndarray, folder: Path) -> dict:
        """Write pipeline/, catalogue/, users/, videos/, columns/, state/ into `folder`; returns the report (also report.json).

        split (N,) int8: 0 train, 1 valid, 2 test. The state is folded up to the first test impression.
        """
        folder = Path(folder)
        vector = self.schema.of("video", "vector")
        catalogue = Catalogue.of(
            tables.videos, tags_per_video=self.schema.state.tags_per_video, dimension=vector[0].dimension if vector else 0
        )
        users = Ids.of(tables.users["user_id"])
        log = log_of(tables, catalogue, users, self.schema)
        visible = visible_until(self.regime, tables.impressions, split, self.utc_offset_h)
        layout = Layout.of(self.schema.state)
        sizes = {"users": len(users.ids), "videos": len(catalogue), "creators": max(len(catalogue.creator_names), 1)}

        pipeline = self.fit(tables, log, visible, split, layout, sizes)
        pipeline.save(folder / "pipeline")
        catalogue.save(folder / "catalogue")
        save_arrays(folder / "users", pipeline.users(tables.users))
        save_arrays(folder / "user_table", self._user_table(tables.users, users))
        save_arrays(folder / "videos", pipeline.videos(tables.videos, catalogue.vectors))
        duration_ms = np.asarray(catalogue.duration_ms)[log.video_rows]
        targets = self.labels.targets(tables.impressions, duration_ms)
        self._write_columns(folder / "columns", tables, log, visible, split, pipeline, layout, sizes, targets)
        report = self._report(log, split, pipeline, sizes)
        report["labels"] = self.labels.rates(targets, watch_ratio(tables.impressions, duration_ms), split)
        self._write_state(folder / "state", layout, log, report["as_of_ms"], sizes)
        (folder / "report.json").write_text(json.dumps(report, indent=1))
        return report

    def _user_table(self, users: pl.DataFrame, ids: Ids) -> dict[str, np.ndarray]:
        """What serving needs of users beside the encoded blocks: ids, and where they live."""
        regions = users["region"].cast(pl.String).fill_null("") if "region" in users.columns else pl.Series([""] * len(users))
        return {"user_ids": ids.ids, "regions": np.array(regions.to_list(), dtype=np.str_)}

    def fit(self, tables, log, visible, split, layout, sizes) -> FeaturePipeline:
        """Vocabularies, means and rates of the training rows, as their requests saw the log."""
        train = np.flatnonzero(split == 0)
        chosen = np.zeros(len(split), bool)
        chosen[train[:: max(1, len(train) // FIT_ROWS)]] = True
        rows, parts = [], []
        for part, reads in self._replayed(layout, sizes, log, visible, "fit"):
            if (keep := chosen[part]).any():
                rows.append(part[keep])
                parts.append([values[keep] for values in vars(reads).values()])
        rows = np.concatenate(rows)
        reads = Reads(*(np.concatenate(values) for values in zip(*parts, strict=True)))
        context = {name: values[rows] for name, values in context_of(tables.impressions, self.schema).items()}
        return FeaturePipeline.fit(
            schema=self.schema,
            utc_offset_h=self.utc_offset_h,
            users=tables.users,
            videos=tables.videos,
            user_rows=log.user_rows[rows],
            video_rows=log.video_rows[rows],
            context=context,
            as_of_ms=log.time_ms[rows],
            reads=reads,
            min_count=self.min_count,
        )

    def _replayed(self, layout, sizes, log, visible, what):
        state = State.empty(layout, **sizes)
        with tqdm(total=len(log.time_ms), desc=f"features: {what}", unit=" impressions", unit_scale=True) as progress:
            for part, reads in replay(layout, state, log, visible):
                yield part, reads
                progress.update(len(part))

    def inputs(
        self, tables, log, visible, pipeline, layout, sizes, what="transform"
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Chunks of impression numbers and their as-of input blocks, in the order in which the log is replayed."""
        context = context_of(tables.impressions, self.schema)
        upload_ms = raw(tables.videos["upload_ms"], "numerical")
        for part, reads in self._replayed(layout, sizes, log, visible, what):
            as_of = log.time_ms[part]
            blocks = pipeline.query({name: values[part] for name, values in context.items()}, as_of, reads)
            blocks["candidate_values"] = pipeline.candidates(upload_ms[log.video_rows[part]], as_of, reads.candidate)
            yield part, blocks

    def _write_columns(self, folder, tables, log, visible, split, pipeline, layout, sizes, targets) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        out: dict[str, np.memmap] = {}
        for part, blocks in self.inputs(tables, log, visible, pipeline, layout, sizes):
            for name, values in blocks.items():
                if name not in out:
                    out[name] = open_memmap(folder / f"{name}.npy", "w+", values.dtype, (len(split), *values.shape[1:]))
                out[name][part] = values
        for column in out.values():
            column.flush()
        save_arrays(
            folder,
            {
                "user_rows": log.user_rows,
                "video_rows": log.video_rows,
                "time_ms": log.time_ms,
                "split": split.astype(np.int8),
                "targets": targets,
            },
        )

    def _write_state(self, folder, layout, log, as_of_ms, sizes) -> None:
        state = State.empty(layout, **sizes)
        fold(layout, state, log, as_of_ms)
        save_arrays(folder, vars(state))

    def _report(self, log, split, pipeline, sizes) -> dict:
        test = log.time_ms[split == 2]
        return {
            "regime": self.regime,
            "schema": self.schema.fingerprint,
            "data_hash": self.data_hash,
            "as_of_ms": int(test.min() if len(test) else log.known_at.max() + 1),
            "impressions": {name: int((split == i).sum()) for i, name in enumerate(("train", "valid", "test"))},
            **sizes,
            "viewer_state_bytes": 8 * Layout.of(self.schema.state).viewer,
            "inputs": asdict(pipeline.sizes),
        }

"""The leakage checks: built features > leaks."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.storage import StoredTables
from watchnext.data.tables import OUTCOMES, Tables, known_at
from watchnext.features.dataset import freshness
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.encode.encodings import Arrays
from watchnext.features.leakage.intervention import Rebuild, flip_outcomes
from watchnext.features.leakage.leak import CheckResult, Leak
from watchnext.features.leakage.single_feature import check_single_features

TAIL = 5_000  # impressions after a cut whose outcomes are flipped
TOLERANCE = 1e-4  # between stored and recomputed values, perhaps on another processor


def column_name(features: FeatureSet, block: str, column: int) -> str:
    """Return the name of a column of an as-of block."""
    if block in ("query_values", "candidate_values"):
        return features.pipeline.value_names(block)[column]
    if block == "context_codes":
        return features.pipeline.schema.of("context", "categorical")[column].name
    return "history"


def differing(features: FeatureSet, blocks: Arrays, others: Arrays, tolerance: float = 0.0) -> dict[str, int]:
    """Return feature > number of rows that differ between two sets of as-of blocks, (N, columns, ...) each."""
    differences: dict[str, int] = {}
    for block, values in blocks.items():
        apart = values != others[block] if not tolerance else ~(np.abs(values - others[block]) <= tolerance)
        counts = apart.any(axis=tuple(range(2, apart.ndim))).sum(axis=0)
        for column in np.flatnonzero(counts):
            name = column_name(features, block, column)
            differences[name] = max(differences.get(name, 0), int(counts[column]))
    return differences


def check_outcomes(features: FeatureSet, rebuild: Rebuild, *, cuts: int) -> CheckResult:
    """Flip all outcomes from a cut on, and end the log soon after: no input of a request up to the cut may change by a bit."""
    impressions = rebuild.tables.impressions
    plain = rebuild.columns(impressions, features.pipeline)
    worst: dict[str, int] = {}
    for cut in np.linspace(0, len(impressions), cuts + 2).astype(int)[1:-1]:
        log = impressions[: cut + TAIL]
        time_ms = log["time_ms"].to_numpy()
        upto = np.flatnonzero(time_ms <= time_ms[cut])
        before = {block: values[upto] for block, values in plain.items()}
        for early in (False, True):
            changed = flip_outcomes(log, time_ms >= time_ms[cut], early=early)
            after = {block: values[upto] for block, values in rebuild.columns(changed, features.pipeline).items()}
            for name, rows in differing(features, before, after).items():
                worst[name] = max(worst.get(name, 0), rows)
    remedy = "read only events known strictly before the request (features/state/fold.py); keep outcomes out of context columns"
    leaks = [
        Leak(
            "own or later outcome", f"{name}, rows that change with outcomes of their own or later impressions", rows, 0, remedy
        )
        for name, rows in worst.items()
    ]
    return {"cuts": cuts, "rebuilt": len(impressions)}, leaks + check_stored_columns(features, rebuild, plain)


def check_stored_columns(features: FeatureSet, rebuild: Rebuild, plain: Arrays) -> list[Leak]:
    """Compare the stored columns with the rebuilt ones, if the whole log was rebuilt."""
    if not rebuild.is_whole:
        return []
    remedy = "run `dvc repro -f features`; if the leak remains, the stage reads data outside this log"
    stored = features.blocks(np.arange(len(features.columns["split"])))
    return [
        Leak("stored columns", f"{name}, rows that differ from a rebuild of the log", rows, 0, remedy)
        for name, rows in differing(features, plain, stored, TOLERANCE).items()
    ]


def check_fitted_statistics(features: FeatureSet, rebuild: Rebuild) -> CheckResult:
    """Fit with and without the held-out impressions: vocabularies, quantiles, means and rates must be equal."""
    with_held_out, (without_held_out, removed) = rebuild.fitted(), rebuild.fitted_without_held_out()
    remedy = "fit on rows of split 0 alone (FeatureBuilder.fit)"
    leaks = []
    for name in sorted(with_held_out):
        if not np.array_equal(with_held_out[name], without_held_out.get(name), equal_nan=with_held_out[name].dtype.kind == "f"):
            leaks.append(Leak("fitted on test days", f"{name}, held-out impressions that it depends on", removed, 0, remedy))
        elif rebuild.is_whole and not same(features.pipeline.fitted.get(name), with_held_out[name]):
            rerun = "run `dvc repro -f features`; if the leak remains, the stage fits on more than training days"
            leaks.append(
                Leak("fitted on test days", f"{name} as stored, values that differ from a fit on training days", 1, 0, rerun)
            )
    return {"fitted": len(with_held_out), "left_out": removed}, leaks


def same(values: np.ndarray | None, others: np.ndarray) -> bool:
    if values is None or values.shape != others.shape:
        return False
    if others.dtype.kind != "f":
        return bool((values == others).all())
    return bool(np.allclose(values, others, rtol=1e-9, equal_nan=True))


@dataclass(frozen=True)
class WatchLog:
    """The log by brute force; shares with the fold only the times when outcomes were known, which `check_outcomes` tests."""

    user_rows: np.ndarray
    video_rows: np.ndarray
    watch_ms: np.ndarray
    known_at: np.ndarray
    has_outcome: np.ndarray

    @classmethod
    def of(cls, features: FeatureSet, impressions: pl.DataFrame) -> "WatchLog":
        has_outcome = pl.any_horizontal(pl.col("watch_ms") > 0, *OUTCOMES).alias("has_outcome")
        outcomes = impressions.select("watch_ms", known_at(), has_outcome)
        rows = (np.asarray(features.columns[name]) for name in ("user_rows", "video_rows"))
        return cls(*rows, *(outcomes[name].to_numpy() for name in outcomes.columns))

    def before(self, user: int, until: float, most: int) -> np.ndarray:
        """Return the rows of a user's last `most` watches known strictly before `until`, latest first."""
        rows = np.flatnonzero((self.user_rows == user) & self.has_outcome & (self.known_at < until))
        return np.array(sorted(rows, key=lambda row: (self.known_at[row], row))[::-1][:most], np.int64)

    def entries(self, rows: np.ndarray, as_of_ms: float, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the watches `rows` as a history: video rows (width,), and ages and watched seconds (width, 2) as inputs."""
        videos, values = np.full(width, -1), np.zeros((width, 2))
        videos[: len(rows)] = self.video_rows[rows]
        values[: len(rows), 0] = np.log1p((as_of_ms - self.known_at[rows]) / 1000) / 10
        values[: len(rows), 1] = np.log1p(self.watch_ms[rows] / 1000) / 5
        return videos, values


def check_history(features: FeatureSet, tables: Tables, builder: FeatureBuilder, *, requests: int) -> CheckResult:
    """Compare sampled histories with the watches known strictly before; half of the requests are from test days."""
    columns, split = features.columns, np.asarray(features.columns["split"])
    visible = freshness.visible_until(builder.regime, tables.impressions, split)
    visible = np.minimum(visible, columns["time_ms"])  # in every regime
    watches, width = WatchLog.of(features, tables.impressions), features.pipeline.schema.state.history
    sampled = [evenly(np.flatnonzero((split == 2) == test), requests // 2) for test in (True, False)]
    wrong, entries = [], 0
    rows = np.concatenate(sampled)
    blocks = features.blocks(rows)
    for i, row in enumerate(rows):
        known = watches.before(columns["user_rows"][row], visible[row], width)
        videos, values = watches.entries(known, columns["time_ms"][row], width)
        equal = (videos == blocks["history_rows"][i]).all()
        if not equal or np.abs(values - blocks["history_values"][i][:, :2]).max(initial=0) > TOLERANCE:
            wrong.append(int(row))
        entries += len(known)
    facts = {"requests": sum(map(len, sampled)), "entries": entries}
    if not wrong:
        return facts, []
    rows = f"requests whose entries are not the watches known before them, first is impression {wrong[0]}"
    remedy = "read the history as of the request (features/state/history.py), then run `dvc repro -f features`"
    return facts, [Leak("future in history", f"history, {rows}", len(wrong), 0, remedy)]


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Pick at most `most` of the rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def check_duplicates(features: FeatureSet, tables: Tables) -> CheckResult:
    """Find events and requests that occur in two splits: a model would be tested on its training data."""
    frame = tables.impressions.with_columns(split=pl.Series(np.asarray(features.columns["split"]))).filter(pl.col("split") >= 0)
    leaks = []
    for name, key in (("user, video and time", ("user_id", "video_id", "time_ms")), ("request", ("request_id",))):
        shared = frame.group_by(key).agg(splits=pl.col("split").n_unique()).filter(pl.col("splits") > 1).sort(key)
        if len(shared):
            example = ", ".join(f"{column}={shared[column][0]}" for column in key)
            remedy = "drop the repeats in the loader, or split by request (data.split)"
            leaks.append(Leak("duplicate", f"the same {name} in two splits, first is {example}", len(shared), 0, remedy))
    return {"impressions": len(frame)}, leaks


@dataclass(frozen=True, kw_only=True)
class LeakageChecks:
    """All leakage checks. conf/config.yaml explains the settings."""

    ceiling: float
    min_positives: int
    rows: int
    cuts: int
    requests: int

    def check(self, stored: StoredTables, features: FeatureSet, builder: FeatureBuilder) -> tuple[dict, list[Leak]]:
        """Run all checks. Returns a JSON-ready report and the leaks; both are empty without training rows.

        Raises ValueError if `features` were not built from the tables `stored`.
        """
        if features.report["data_hash"] != stored.hash:
            raise ValueError(f"{features.folder} was not built from the tables in {stored.folder}; run `dvc repro features`")
        if not len(features.rows("train")):
            return {"regime": builder.regime, "checks": {}, "leaks": []}, []
        tables = stored.all()
        split, user_rows = np.asarray(features.columns["split"]), np.asarray(features.columns["user_rows"])
        rebuild = Rebuild.of(builder, tables, split, user_rows, features.catalogue, limit=self.rows)
        results = {
            "single_feature": check_single_features(
                features,
                user_ids=tables.users["user_id"],
                ceiling=self.ceiling,
                min_positives=self.min_positives,
                most=self.rows,
            ),
            "own_or_later_outcome": check_outcomes(features, rebuild, cuts=self.cuts),
            "fitted": check_fitted_statistics(features, rebuild),
            "history": check_history(features, tables, builder, requests=self.requests),
            "duplicates": check_duplicates(features, tables),
        }
        leaks = [leak for _, leaks in results.values() for leak in leaks]
        facts = {name: {**facts, "leaks": len(leaks)} for name, (facts, leaks) in results.items()}
        return {"regime": builder.regime, "checks": facts, "leaks": [str(leak) for leak in leaks]}, leaks

"""The leak tripwire: built features > what of them cannot be true."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data.storage import StoredTables
from watchnext.data.tables import OUTCOMES, Tables, known_at
from watchnext.features.dataset import folded as folding
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.encode.encodings import Arrays
from watchnext.features.leakage.intervention import Rebuild, other_outcomes
from watchnext.features.leakage.leak import Findings, Leak
from watchnext.features.leakage.single_feature import single_features

TAIL = 5_000  # impressions after a moment whose outcomes are turned over
TOLERANCE = 1e-4  # between what is stored and what is computed again, perhaps on another processor


def named(features: FeatureSet, block: str, column: int) -> str:
    """What the column of an as-of block is called."""
    if block in ("query_values", "candidate_values"):
        return features.pipeline.value_names(block)[column]
    if block == "context_codes":
        return features.pipeline.schema.of("context", "categorical")[column].name
    return "history"


def differing(features: FeatureSet, blocks: Arrays, others: Arrays, tolerance: float = 0.0) -> dict[str, int]:
    """Feature > in how many rows it differs between two sets of as-of blocks, (N, columns, ...) each."""
    found: dict[str, int] = {}
    for block, values in blocks.items():
        apart = values != others[block] if not tolerance else ~(np.abs(values - others[block]) <= tolerance)
        counts = apart.any(axis=tuple(range(2, apart.ndim))).sum(axis=0)
        for column in np.flatnonzero(counts):
            name = named(features, block, column)
            found[name] = max(found.get(name, 0), int(counts[column]))
    return found


def outcomes(features: FeatureSet, rebuild: Rebuild, *, cuts: int) -> Findings:
    """Turn over all outcomes from a moment on, and end the log soon after: no input of a request up to that moment may
    change by a bit."""
    impressions = rebuild.tables.impressions
    plain = rebuild.columns(impressions, features.pipeline)
    worst: dict[str, int] = {}
    for place in np.linspace(0, len(impressions), cuts + 2).astype(int)[1:-1]:
        log = impressions[: place + TAIL]
        time_ms = log["time_ms"].to_numpy()
        upto = np.flatnonzero(time_ms <= time_ms[place])
        before = {block: values[upto] for block, values in plain.items()}
        for early in (False, True):
            changed = other_outcomes(log, time_ms >= time_ms[place], early=early)
            after = {block: values[upto] for block, values in rebuild.columns(changed, features.pipeline).items()}
            for name, rows in differing(features, before, after).items():
                worst[name] = max(worst.get(name, 0), rows)
    what = "read only what was known strictly before the request (features.fold), and keep outcomes out of context columns"
    leaks = [
        Leak("own or later outcome", f"{name}, rows that change with outcomes of their own or later impressions", rows, 0, what)
        for name, rows in worst.items()
    ]
    return {"cuts": cuts, "rebuilt": len(impressions)}, leaks + stored(features, rebuild, plain)


def stored(features: FeatureSet, rebuild: Rebuild, plain: Arrays) -> list[Leak]:
    """Where the whole log was rebuilt, the stored columns must be what was proven."""
    if not rebuild.is_whole:
        return []
    what = "run `dvc repro -f features`; should it come back, the stage reads what this log does not hold"
    found = features.blocks(np.arange(len(features.columns["split"])))
    return [
        Leak("stored columns", f"{name}, rows that the log does not give", rows, 0, what)
        for name, rows in differing(features, plain, found, TOLERANCE).items()
    ]


def statistics(features: FeatureSet, rebuild: Rebuild) -> Findings:
    """Fit without the held-out impressions: vocabularies, quantiles, means and rates must come out the same."""
    with_all, (without, gone) = rebuild.fitted(), rebuild.fitted_without_held_out()
    what = "fit on rows of split 0 alone (FeatureBuilder.fit)"
    leaks = []
    for name in sorted(with_all):
        if not np.array_equal(with_all[name], without.get(name), equal_nan=with_all[name].dtype.kind == "f"):
            leaks.append(Leak("fitted on test days", f"{name}, held-out impressions that it depends on", gone, 0, what))
        elif rebuild.is_whole and not same(features.pipeline.fitted.get(name), with_all[name]):
            again = "run `dvc repro -f features`; should it come back, the stage fits on more than training days"
            leaks.append(Leak("fitted on test days", f"{name} as stored, values that training days do not give", 1, 0, again))
    return {"fitted": len(with_all), "left_out": gone}, leaks


def same(values: np.ndarray | None, others: np.ndarray) -> bool:
    if values is None or values.shape != others.shape:
        return False
    if others.dtype.kind != "f":
        return bool((values == others).all())
    return bool(np.allclose(values, others, rtol=1e-9, equal_nan=True))


@dataclass(frozen=True)
class Watches:
    """The log by brute force. It shares with the fold when an outcome was known, which `outcomes` proves, and no other line."""

    user_rows: np.ndarray
    video_rows: np.ndarray
    watch_ms: np.ndarray
    known_at: np.ndarray
    happened: np.ndarray

    @classmethod
    def of(cls, features: FeatureSet, impressions: pl.DataFrame) -> "Watches":
        happened = pl.any_horizontal(pl.col("watch_ms") > 0, *OUTCOMES).alias("happened")
        found = impressions.select("watch_ms", known_at(), happened)
        rows = (np.asarray(features.columns[name]) for name in ("user_rows", "video_rows"))
        return cls(*rows, *(found[name].to_numpy() for name in found.columns))

    def before(self, user: int, until: float, most: int) -> np.ndarray:
        """Rows of a user's last `most` watches known strictly before `until`, latest first."""
        rows = np.flatnonzero((self.user_rows == user) & self.happened & (self.known_at < until))
        return np.array(sorted(rows, key=lambda row: (self.known_at[row], row))[::-1][:most], np.int64)

    def entries(self, rows: np.ndarray, as_of_ms: float, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Those watches as a history: video rows (width,), and their ages and watched seconds (width, 2) as a network sees
        them."""
        videos, values = np.full(width, -1), np.zeros((width, 2))
        videos[: len(rows)] = self.video_rows[rows]
        values[: len(rows), 0] = np.log1p((as_of_ms - self.known_at[rows]) / 1000) / 10
        values[: len(rows), 1] = np.log1p(self.watch_ms[rows] / 1000) / 5
        return videos, values


def history(features: FeatureSet, tables: Tables, builder: FeatureBuilder, *, requests: int) -> Findings:
    """Half of the sampled requests are of test days; each history must be the watches known strictly before."""
    columns, split = features.columns, np.asarray(features.columns["split"])
    visible = folding.visible_until(builder.regime, tables.impressions, split)
    visible = np.minimum(visible, columns["time_ms"])  # whatever the regime says
    watches, width = Watches.of(features, tables.impressions), features.pipeline.schema.state.history
    sampled = [evenly(np.flatnonzero((split == 2) == test), requests // 2) for test in (True, False)]
    wrong, entries = [], 0
    rows = np.concatenate(sampled)
    blocks = features.blocks(rows)
    for place, row in enumerate(rows):
        known = watches.before(columns["user_rows"][row], visible[row], width)
        videos, values = watches.entries(known, columns["time_ms"][row], width)
        right = (videos == blocks["history_rows"][place]).all()
        if not right or np.abs(values - blocks["history_values"][place][:, :2]).max(initial=0) > TOLERANCE:
            wrong.append(int(row))
        entries += len(known)
    facts = {"requests": sum(map(len, sampled)), "entries": entries}
    if not wrong:
        return facts, []
    rows = f"requests whose entries are not the watches known before them, first is impression {wrong[0]}"
    what = "read the history as of the request (features.history), and run `dvc repro -f features`"
    return facts, [Leak("future in history", f"history, {rows}", len(wrong), 0, what)]


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]


def duplicates(features: FeatureSet, tables: Tables) -> Findings:
    """The same event, or the same request, in two splits: what is learned from one is tested on the other."""
    frame = tables.impressions.with_columns(split=pl.Series(np.asarray(features.columns["split"]))).filter(pl.col("split") >= 0)
    leaks = []
    for name, key in (("user, video and time", ("user_id", "video_id", "time_ms")), ("request", ("request_id",))):
        shared = frame.group_by(key).agg(splits=pl.col("split").n_unique()).filter(pl.col("splits") > 1).sort(key)
        if len(shared):
            example = ", ".join(f"{column}={shared[column][0]}" for column in key)
            what = "drop the repeats in the loader, or split by request (data.split)"
            leaks.append(Leak("duplicate", f"the same {name} in two splits, first is {example}", len(shared), 0, what))
    return {"impressions": len(frame)}, leaks


@dataclass(frozen=True, kw_only=True)
class Tripwire:
    """All checks in a row. Units and meaning of the settings stand in conf/tripwire/default.yaml.

    Raises ValueError where `features` were built from other tables than these.
    """

    ceiling: float
    min_positives: int
    rows: int
    cuts: int
    requests: int

    def check(self, stored: StoredTables, features: FeatureSet, builder: FeatureBuilder) -> tuple[dict, list[Leak]]:
        """What was checked and found, JSON-ready, and the leaks; nothing of a log from which nothing is learned."""
        if features.report["data_hash"] != stored.hash:
            raise ValueError(f"{features.folder} was not built from the tables in {stored.folder}; run `dvc repro features`")
        if not len(features.rows("train")):
            return {"regime": builder.regime, "checks": {}, "leaks": []}, []
        tables = stored.all()
        split, user_rows = np.asarray(features.columns["split"]), np.asarray(features.columns["user_rows"])
        rebuild = Rebuild.of(builder, tables, split, user_rows, features.catalogue, limit=self.rows)
        found = {
            "single_feature": single_features(
                features,
                user_ids=tables.users["user_id"],
                ceiling=self.ceiling,
                min_positives=self.min_positives,
                most=self.rows,
            ),
            "own_or_later_outcome": outcomes(features, rebuild, cuts=self.cuts),
            "fitted": statistics(features, rebuild),
            "history": history(features, tables, builder, requests=self.requests),
            "duplicates": duplicates(features, tables),
        }
        leaks = [leak for _, some in found.values() for leak in some]
        facts = {name: {**of_check, "leaks": len(some)} for name, (of_check, some) in found.items()}
        return {"regime": builder.regime, "checks": facts, "leaks": [str(leak) for leak in leaks]}, leaks

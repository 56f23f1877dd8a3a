"""Benchmark every ranker on KuaiRand: `python -m benchmarks.ranking --root DIR --valid-start DAY --test-start DAY
[--predictions DIR]`.

From the published files through loader, validation, tables, the feature stage and every preset of conf/model that ranks;
`key=value` words override conf/. Days are the log's own `date`. Figures are of `long_view` on the test days, by which nothing
is chosen (`--held-out valid` gives those of the validation days, to choose by). The last line is one JSON object.

Epochs and weights are chosen with the state of each request, as in the pipeline. AUC, GAUC, nDCG@5, log loss and calibration
error are measured with streaming state; GAUC weighs viewers with both labels by their positives, nDCG@5 averages over all
viewers, 0 where none is positive.
`rows_per_s` is impressions scored a second, encoding included; `train_s` all of the fit. With several seeds figures are means,
`seeds` lists each, and Parquet holds the mean score. `ranker` is the student of an `ensemble` that has such trees as
`xgboost` among its members; `over_xgboost` is what it gains on them: mean over seeds, 95% of 1,000 resamples of viewers.

`gauc_request`, `ndcg@5_request` and `mrr_request` are the order inside slates and sessions, with features of the regime
`request`: means over the `groups` with both labels, weighted by positives, and `_by_impressions`. `over_video_rate` and
`over_xgboost` of a model are its gains in them on the video's long-view rate and on the trees.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from benchmarks.framing import fitted
from omegaconf import DictConfig

from watchnext import metrics
from watchnext.cli import composed, exits_on, instantiate
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import DataError
from watchnext.data.validation import validate
from watchnext.features.__main__ import builder_of
from watchnext.features.dataset import freshness
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import PRIOR
from watchnext.ranking.scoring import scored
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

LONG_VIEW = TARGETS.index("long_view")
MODELS = ("logistic_regression", "factorization_machine", "mlp", "dcn", "mlp_no_history", "xgboost", "ensemble", "ranker")
PARTS = "watchnext.ranking.models"
VARIANTS = {  # overrides of presets; those of dcn are trained on request
    "mlp_no_history": ["model=mlp", "model.module.hide=[own_state,user_id]"],
    "dcn_transformer": [
        "model=dcn",
        "+model.module.network.interest="
        f"{{_target_: {PARTS}.transformer.BehaviourTransformer, heads: 4, blocks: 1, dropout: 0.1}}",
    ],
    "dcn_mmoe": ["model=dcn", f"+model.module.network.tasks={{_target_: {PARTS}.multi_task.MMoE, experts: 4}}"],
    "dcn_ple": ["model=dcn", f"+model.module.network.tasks={{_target_: {PARTS}.multi_task.PLE, shared: 2, own: 1}}"],
}
RESAMPLES = 1000


def split_by(days: pl.Series, valid_start: date, test_start: date) -> TimeSplit:
    """Split at the given first validation and test days. Raises DataError if a part would be empty."""
    first, last = days.min(), days.max()
    if not first < valid_start < test_start <= last:
        raise DataError(f"the log spans {first} to {last}; expected first day < --valid-start < --test-start <= last day")
    return TimeSplit(valid_days=(test_start - valid_start).days, test_days=(last - test_start).days + 1)


@dataclass(frozen=True)
class Built:
    """The log's tables, its features with streaming state, and `requested`, those of the regime `request`."""

    stored: StoredTables
    features: FeatureSet
    requested: FeatureSet


def build(config: DictConfig, work: Path, valid_start: date, test_start: date) -> Built:
    """Build the log's tables and features below `work`."""
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    tables = validate(instantiate(config.data.loader).read().tables, schema).tables
    split = split_by(tables.impressions["day"].cast(pl.Date), valid_start, test_start)
    write_tables(tables, work / "tables")
    stored = StoredTables.open(work / "tables")
    folders = {"streaming": work / "features", "request": work / "features_request"}
    for regime, folder in folders.items():
        builder_of(config, schema, regime).build(stored, split, folder)
    return Built(stored, *map(FeatureSet.load, folders.values()))


def trained(config: DictConfig, features: FeatureSet, seed: int) -> torch.nn.Module:
    """Fit one preset and return its network, trees or ensemble."""
    module, figures = fitted(config, features, seed=seed)
    for name, value in figures.items():
        if name.endswith("long_view") and not name.startswith("valid/"):
            print(f"  {name} {value:g}", file=sys.stderr)
    return module.network


@dataclass(frozen=True)
class HeldOut:
    """The held-out rows: long view or not, row of the viewer, and request group, (N,) each."""

    label: np.ndarray
    users: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, built: Built, rows: np.ndarray) -> "HeldOut":
        columns = built.features.columns
        impressions, split = built.stored.impressions(built.stored.days), np.asarray(columns["split"])
        groups = freshness.encoded_with("request", impressions, split)[rows]
        return cls(columns["targets"][rows, LONG_VIEW].astype(np.int8), columns["user_rows"][rows], groups)

    def order(self, streamed: np.ndarray, requested: np.ndarray) -> dict[str, float]:
        """Measure the order of scores with the state of each row, and of those `requested` inside request groups."""
        of_requests = metrics.RequestFigures.of(self.label, requested, self.groups)
        return {
            "auc": metrics.auc(self.label, streamed),
            "gauc": metrics.gauc(self.label, streamed, self.users),
            "ndcg@5": metrics.ndcg_at(self.label, streamed, self.users, 5),
            **of_requests.means(),
        }

    def figures(self, streamed: np.ndarray, requested: np.ndarray) -> dict[str, float]:
        """Measure probabilities: their order, log loss and calibration error."""
        fit = {"logloss": metrics.logloss(self.label, streamed), "ece": metrics.ece(self.label, streamed)}
        return self.order(streamed, requested) | fit


def _video_counts(features: FeatureSet, rows: np.ndarray, count: str, half_life_h: float) -> np.ndarray:
    """Return a decayed count (N,) of each row's video."""
    state = features.pipeline.schema.state
    slot = state.counts.index(count) * len(state.half_lives_h) + state.half_lives_h.index(half_life_h)
    return features.columns["candidate"][rows, 0, slot].astype(float)


def popular_now(features: FeatureSet, rows: np.ndarray) -> np.ndarray:
    """Return the video's long views with the shortest half-life, as the baseline of that name in the evaluation."""
    return _video_counts(features, rows, "long_view", min(features.pipeline.schema.state.half_lives_h))


def baselines_of(features: FeatureSet, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Score without a model: constant, and smoothed long-view rates of video, creator and viewer.

    Counts have the longest half-life, those of `decayed_video_rate` the shortest of at least a day.
    """
    state, columns = features.pipeline.schema.state, features.columns
    slowest = len(state.half_lives_h)
    slots = [state.counts.index(name) * slowest + slowest - 1 for name in ("impression", "long_view")]
    mean = float(columns["targets"][features.rows("train"), LONG_VIEW].mean())
    recent = min((h for h in state.half_lives_h if h >= 24), default=max(state.half_lives_h))
    counts = {
        "video": columns["candidate"][rows, 0][:, slots].astype(float).T,
        "creator": columns["candidate"][rows, 1][:, slots].astype(float).T,
        "viewer": columns["user"][rows][:, slots].astype(float).T,
        "decayed_video": [_video_counts(features, rows, name, recent) for name in ("impression", "long_view")],
    }
    rates = {f"{name}_rate": np.clip((long + PRIOR * mean) / (shown + PRIOR), 0, 1) for name, (shown, long) in counts.items()}
    return {"constant": np.full(len(rows), mean), **rates}


def baseline_figures(held_out: HeldOut, built: Built, rows: np.ndarray) -> tuple[dict[str, dict], np.ndarray]:
    """Measure every baseline. Also returns the video's rate in the regime `request`."""
    streamed, requested = (baselines_of(features, rows) for features in (built.features, built.requested))
    result = {name: held_out.figures(score, requested[name]) for name, score in streamed.items()}
    result["popular_now"] = held_out.order(popular_now(built.features, rows), popular_now(built.requested, rows))
    return result, requested["video_rate"]


class Resampled:
    """Metrics under bootstrap resamples of viewers, shared by all scores; `drawn` (R, viewers) are counts."""

    def __init__(self, label: np.ndarray, users: np.ndarray, *, seed: int = 0) -> None:
        self.label, (names, self.viewers) = label > 0, np.unique(users, return_inverse=True)
        random = np.random.default_rng(seed)
        self.drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES).astype(np.float64)

    def auc(self, score: np.ndarray) -> np.ndarray:
        """Compute AUC (R,) with rows weighted by the count of their viewer; nan for a single label."""
        order = np.argsort(score, kind="stable")
        rank = np.concatenate([[0], np.cumsum(np.diff(score[order]) > 0)])
        viewers, positive, result = self.viewers[order], self.label[order], []
        for drawn in self.drawn:
            weight = drawn[viewers]
            above, below = (np.bincount(rank, weight * side) for side in (positive, ~positive))
            result.append((above @ (np.cumsum(below) - below / 2), above.sum() * below.sum()))
        return _ratio(*np.array(result).T)

    def gauc(self, score: np.ndarray) -> np.ndarray:
        viewer_auc = np.zeros(self.drawn.shape[1])
        order = np.lexsort((score, self.viewers))
        for rows in np.split(order, np.flatnonzero(np.diff(self.viewers[order])) + 1):
            viewer_auc[self.viewers[rows[0]]] = metrics.auc(self.label[rows], score[rows])
        weights = np.where(np.isfinite(viewer_auc), np.bincount(self.viewers, self.label), 0.0)
        return _ratio(self.drawn @ (weights * np.nan_to_num(viewer_auc)), self.drawn @ weights)

    def of_rows(self, score: np.ndarray) -> dict[str, np.ndarray]:
        """Compute AUC and GAUC."""
        return {"auc": self.auc(score), "gauc": self.gauc(score)}

    def of_requests(self, score: np.ndarray, *, groups: np.ndarray) -> dict[str, np.ndarray]:
        """Compute the figures inside request groups, named as in `RequestFigures.means`; a viewer is drawn with all groups."""
        found = metrics.RequestFigures.of(self.label, score, groups)
        viewers, result = self.viewers[found.first], {}
        for suffix, weight in (("", found.positives), ("_by_impressions", found.impressions)):
            of_viewers = partial(np.bincount, viewers, minlength=self.drawn.shape[1])
            under = self.drawn @ of_viewers(weight)
            for name, values in found.figures.items():
                result[f"{name}_request{suffix}"] = _ratio(self.drawn @ of_viewers(weight * values), under)
        return result


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.full(len(over), np.nan), where=under > 0)


def over(
    resampled: Callable[[np.ndarray], Mapping[str, np.ndarray]], better: list[np.ndarray], other: list[np.ndarray]
) -> dict[str, list[float]]:
    """Compute the gain of scores over others, paired by seed: mean and 95% interval over the resamples; nan if undefined.

    `resampled` gives the figures (R,) of a score by name.
    """
    pairs, result = [(resampled(a), resampled(b)) for a, b in zip(better, other, strict=True)], {}
    for name in pairs[0][0]:
        gains = np.mean([a[name] - b[name] for a, b in pairs], axis=0)
        gains = gains[np.isfinite(gains)] if np.isfinite(gains).any() else np.array([np.nan])
        result[name] = [round(float(value), 5) for value in (gains.mean(), *np.quantile(gains, [0.025, 0.975]))]
    return result


def keys_of(stored: StoredTables, features: FeatureSet, rows: np.ndarray) -> pl.DataFrame:
    columns = features.columns
    return pl.DataFrame(
        {
            "user_id": stored.users["user_id"].gather(columns["user_rows"][rows]),
            "video_id": stored.videos["video_id"].gather(columns["video_rows"][rows]),
            "time_ms": columns["time_ms"][rows].astype(np.int64),
            "label": columns["targets"][rows, LONG_VIEW].astype(np.int8),
        }
    )


def measure(configs: Mapping[str, DictConfig], built: Built, options: argparse.Namespace) -> dict:
    """Train every preset for every seed and evaluate it on the days `options.held_out`."""
    features, rows = built.features, built.features.rows(options.held_out)
    keys, held_out = keys_of(built.stored, features, rows), HeldOut.of(built, rows)
    models, streamed, requested = {}, {}, {}
    for name, config in configs.items():
        runs, streamed[name], requested[name] = [], [], []
        for seed in range(options.seeds):
            began = time.perf_counter()
            network = trained(config, built.requested, seed)
            train_s, began = time.perf_counter() - began, time.perf_counter()
            streamed[name].append(scored(features, network, rows)[:, LONG_VIEW].astype(np.float64))
            rows_per_s = len(rows) / (time.perf_counter() - began)
            requested[name].append(scored(built.requested, network, rows)[:, LONG_VIEW].astype(np.float64))
            figures = held_out.figures(streamed[name][-1], requested[name][-1])
            runs.append(figures | {"rows_per_s": rows_per_s, "train_s": train_s})
            print(f"{name} seed {seed} {metrics.rounded(runs[-1], 5)}", file=sys.stderr)
        models[name] = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        if options.seeds > 1:
            models[name]["seeds"] = runs
        if options.predictions:
            options.predictions.mkdir(parents=True, exist_ok=True)
            keys.with_columns(score=np.mean(streamed[name], axis=0)).write_parquet(options.predictions / f"{name}.parquet")
    baselines, video_rate = baseline_figures(held_out, built, rows)
    resampled = Resampled(held_out.label, held_out.users)
    of_requests = partial(resampled.of_requests, groups=held_out.groups)
    for name, scores in requested.items():
        models[name]["over_video_rate"] = over(of_requests, scores, [video_rate] * len(scores))
        if "xgboost" in requested.keys() - {name}:
            models[name]["over_xgboost"] = over(of_requests, scores, requested["xgboost"])
    groups = len(metrics.RequestFigures.of(held_out.label, video_rate, held_out.groups).first)
    result = {"models": models, "floors": baselines, "held_out": options.held_out, "rows": len(rows), "groups": groups}
    if {"ranker", "xgboost"} <= streamed.keys():
        result["over_xgboost"] = over(resampled.of_rows, streamed["ranker"], streamed["xgboost"])
    return metrics.rounded(result, 5)


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, metavar="DIR", help="the unpacked KuaiRand files")
    parser.add_argument("--valid-start", required=True, type=date.fromisoformat, metavar="DAY")
    parser.add_argument("--test-start", required=True, type=date.fromisoformat, metavar="DAY")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="also write one Parquet a model")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--held-out", choices=("test", "valid"), default="test", help="valid: for choosing a recipe")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep tables and features in this folder")
    parser.add_argument("--models", nargs="+", choices=dict.fromkeys((*MODELS, *VARIANTS)), default=MODELS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_args(words)


@exits_on(ValueError)
def main() -> None:
    options = options_of()
    words = ["data=kuairand", f"data.loader.root={options.root}", *options.overrides]
    configs = {name: composed([*words, *VARIANTS.get(name, [f"model={name}"])]) for name in options.models}
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        first = next(iter(configs.values()))
        result = measure(configs, build(first, work, options.valid_start, options.test_start), options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

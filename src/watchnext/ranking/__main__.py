"""`python -m watchnext.ranking trade-off | importance | ablation | learning-curve`: reports on value weights,
input groups and the amount of training data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from watchnext import tracking
from watchnext.cli import dispatch, instantiate, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import rounded
from watchnext.nn.trainable import Training
from watchnext.ranking.analysis.ablation import ablation, learning_curve
from watchnext.ranking.analysis.importance import importance
from watchnext.ranking.analysis.report_plots import learning_curve_plot, trade_off_plot, worse_plot
from watchnext.ranking.analysis.trade_off import Point, markdown, mean_of_top, trade_off
from watchnext.ranking.scoring import Ranker, held_out_rows
from watchnext.ranking.target_metrics import markdown_of
from watchnext.schema import SchemaError
from watchnext.types import TARGETS


def curve(features: FeatureSet, ranker: Ranker, value: Callable, *, weights: Mapping[str, float], first: str, second: str,
          steps: int, k: int, split: str) -> list[Point]:  # fmt: skip
    """Trade off the outcomes of `first` and `second` among the best `k` of every logged request of a split.

    `value(weights=...)` returns an object whose `of(predictions)` gives the value of every row.
    """
    ranker.require((first, second), by="trade_off")
    rows = held_out_rows(features, split)
    predictions, groups = ranker.scored(features, rows), features.requests(rows)
    targets = features.columns["targets"][rows]

    def mean(name: str) -> Callable[[np.ndarray], float]:
        return lambda values: mean_of_top(targets[:, TARGETS.index(name)], values, groups, k=k)

    return trade_off(
        lambda moved: value(weights=moved).of(predictions),
        weights=weights,
        first=first,
        second=second,
        metrics={f"{name}@{k}": mean(name) for name in (first, second)},
        steps=steps,
    )


def trade_off_command(config: DictConfig) -> None:
    """Report the trade-off curve between two heads as a table, JSON and a plot."""
    outputs, settings = Path(config.data.outputs), plain(config.trade_off)
    features = FeatureSet.load(outputs / "features")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    settings["value"] = instantiate(config.trade_off.value)
    points = curve(features, ranker, **settings)
    trade_off_plot(points, outputs / "trade_off" / "trade_off.png")
    write_report(outputs / "trade_off" / "trade_off.json", {"points": rounded([asdict(point) for point in points], 6)})
    print(f"{markdown(points)}\n\n{outputs / 'trade_off'}: trade_off.png, trade_off.json")


def progress(steps: Iterable, title: str) -> Iterable:
    return tqdm(steps, desc=title, mininterval=1.0)


def write_tracked_report(
    config: DictConfig, name: str, plotted: str, plot: Callable, build: Callable[[FeatureSet], dict]
) -> None:
    """Build a report and write it to <data.outputs>/reports/<name>.json and .png, to a tracked run, and as a table."""
    folder, features = Path(config.data.outputs) / "reports", FeatureSet.load(Path(config.data.outputs) / "features")
    tags = {"data": config.data.name} | features.provenance
    with tracking.start_run(name, config=plain(config), tags=tags, stage="ranking") as run:
        report = build(features)
        write_report(folder / f"{name}.json", rounded(report, 6))
        plot(report[plotted], folder / f"{name}.png")
        for path in (folder / f"{name}.json", folder / f"{name}.png"):
            run.log_file(path)
    print(f"{markdown_of(report)}\n\n{folder}: {name}.png, {name}.json")


def importance_command(config: DictConfig) -> None:
    """Report permutation importance of the trained ranker per input group, on validation days."""
    report, folder = plain(config.report), Path(config.report.ranker)
    settings = {key: report[key] for key in ("head", "split", "groups", "rows", "repeats")} | {"seed": config.seed}

    def build(features: FeatureSet) -> dict:
        ranker = Ranker.load(folder, schema=features.pipeline.schema, repair=f"python train.py out={folder}")
        return importance(features, ranker, **settings, progress=progress)

    write_tracked_report(config, "importance", "worse_by", worse_plot, build)


def _retraining_settings(config: DictConfig, *keys: str) -> dict:
    """Return the arguments of `ablation` and `learning_curve` apart from the features."""
    report, training = plain(config.report), partial(Training, trainer=partial(instantiate, config.trainer))
    retrained = {"preset": partial(instantiate, config.model.module), "training": training, "progress": progress}
    return retrained | {key: report[key] for key in keys}


def ablation_command(config: DictConfig) -> None:
    """Report the loss of `model` when it is trained without each input group, on validation days over several seeds."""
    settings = _retraining_settings(config, "head", "split", "groups", "seeds")
    write_tracked_report(config, "ablation", "worse_by", worse_plot, lambda features: ablation(features=features, **settings))


def learning_curve_command(config: DictConfig) -> None:
    """Report `model` trained on growing shares of the latest impressions, on validation days over several seeds."""
    settings = _retraining_settings(config, "head", "split", "shares", "seeds")
    build = partial(learning_curve, **settings)
    write_tracked_report(config, "learning_curve", "sizes", learning_curve_plot, lambda features: build(features=features))


COMMANDS = {
    "trade-off": trade_off_command,
    "importance": importance_command,
    "ablation": ablation_command,
    "learning-curve": learning_curve_command,
}

if __name__ == "__main__":
    dispatch("watchnext.ranking", COMMANDS, (SchemaError, FileNotFoundError, ValueError))

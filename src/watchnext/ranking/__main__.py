"""`python -m watchnext.ranking trade-off`: what the weights of the value buy."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from watchnext.data.splits import SPLITS
from watchnext.dispatch import dispatch, instantiate, plain, write_report
from watchnext.features.batches import FeatureSet
from watchnext.metrics import rounded
from watchnext.ranking.groups import groups_of
from watchnext.ranking.plots import trade_off_plot
from watchnext.ranking.scoring import Ranker
from watchnext.ranking.trade_off import Point, markdown, mean_of_top, trade_off
from watchnext.schema import SchemaError
from watchnext.types import TARGETS


def curve(features: FeatureSet, ranker: Ranker, value: Callable, *, weights: Mapping[str, float], first: str, second: str,
          steps: int, k: int, split: str) -> list[Point]:  # fmt: skip
    """The trade-off between the outcomes of `first` and `second` among the best `k` of every logged request of a split.

    `value(weights=...)` gives an object whose `of(predictions)` is the value of every row.
    """
    ranker.require((first, second), by="trade_off")
    if split not in SPLITS or not len(rows := features.rows(split)):
        raise ValueError(f"there are no {split!r} impressions, expected one of {', '.join(SPLITS)} that has some")
    predictions, groups = ranker.scored(features, rows), groups_of(features, rows, "request")
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
    """The curve between two heads' outcomes as the value's weights move between them: a table, JSON and a plot."""
    outputs, settings = Path(config.data.outputs), plain(config.trade_off)
    features = FeatureSet.load(outputs / "features")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    settings["value"] = instantiate(config.trade_off.value)
    points = curve(features, ranker, **settings)
    trade_off_plot(points, outputs / "trade_off" / "trade_off.png")
    write_report(outputs / "trade_off" / "trade_off.json", {"points": rounded([asdict(point) for point in points], 6)})
    print(f"{markdown(points)}\n\n{outputs / 'trade_off'}: trade_off.png, trade_off.json")


if __name__ == "__main__":
    dispatch("watchnext.ranking", {"trade-off": trade_off_command}, (SchemaError, FileNotFoundError, ValueError))

"""Leave-one-out retrieval over the whole catalogue: `python -m benchmarks.retrieval --sequences FILE`.

FILE holds a line `user item item ...` a viewer, in time order. Each line's last item tests, the one before validates; towers,
graphs, popularity and the weights of the merge never see a test item, and see a validation item only to choose by it and as the
last watch of the history that asks at the test step. The recipe is benchmarks/leave_one_out/conf; words like
`module.positions=1024` override it. The last line is one JSON object.

`epoch_s` is the median epoch's training, without validation; `train_s` all of the fit. `over_strongest_floor` holds 95%
intervals of the gain over the best baseline, viewers resampled in pairs. Of the baselines, `popular` counts training
watches, `recent` halves a watch's weight with every place before a viewer's last training watch, `transitions` and `graph` are
those sources of the recipe alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping

import numpy as np
import polars as pl
import pytorch_lightning as lightning
from benchmarks.leave_one_out.catalogue import CatalogueScorer, best, constant, figures, gains
from benchmarks.leave_one_out.fusion import chosen, in_logs, pooled
from benchmarks.leave_one_out.module import SequenceModule
from benchmarks.leave_one_out.protocol import CONF, LeaveOneOut, Sequences, histories_of, leave_one_out
from omegaconf import DictConfig
from pytorch_lightning.callbacks import EMAWeightAveraging

from watchnext.cli import composed, exits_on, instantiate
from watchnext.data.loaders import sequences
from watchnext.data.tables import DataError
from watchnext.metrics import interval, rounded
from watchnext.nn.trainable import Training

K = 10


class EpochClock(lightning.Callback):
    """Seconds of training in every epoch, validation left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.seconds.append(time.perf_counter() - self._began)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        result = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        print(f"epoch {trainer.current_epoch} {self.seconds[-1]:.2f} s {result}", file=sys.stderr)


class AveragedWeights(EMAWeightAveraging):
    """Exponential moving average of the weights, which validates and is kept.

    Lightning swaps the weights of training back before the callbacks that keep the best epoch see them; here, after these.
    """

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Leave the average in place."""

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, module)


def read(path: str) -> tuple[Sequences, pl.Series]:
    """Sequences in the order of the file's lines, and item ids. Raises DataError naming the first bad line."""
    loaded = sequences.Sequences(path=path).read()
    if loaded.rejected.height:
        first = loaded.rejected.sort("row").row(0, named=True)
        raise DataError(
            f"{first['value']!r}: {first['reason']}, expected `user item item ...` and each user once "
            f"({loaded.rejected.height} such lines); mend or delete them"
        )
    return histories_of(loaded.tables.impressions)


def fit(config: DictConfig, split: LeaveOneOut) -> tuple[SequenceModule, EpochClock]:
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    clock = EpochClock()

    def trainer(callbacks: list[lightning.Callback], **quiet: bool) -> lightning.Trainer:
        callbacks = [*callbacks, AveragedWeights(decay=config.average), clock]
        return instantiate(config.trainer, max_epochs=config.max_epochs, callbacks=callbacks, **quiet)

    module = instantiate(config.module)(split=split)
    module.fit(Training(config.seed, trainer))
    return module, clock


def recent(histories: Sequences) -> np.ndarray:
    """Watches of each video (V,), halved with every place before the viewer's last."""
    before = np.repeat(histories.starts[1:], histories.lengths) - 1 - np.arange(len(histories.rows))
    return np.bincount(histories.rows, 0.5**before, minlength=histories.videos)


def baselines_of(config: DictConfig, train: Sequences) -> dict[str, CatalogueScorer]:
    return {
        "popular": constant(train.counts.astype(float)),
        "recent": constant(recent(train)),
        "transitions": instantiate(config.transitions).fit(train).many,
        "graph": instantiate(config.graph).fit(train).many,
    }


def predictions(ids: pl.Series, viewers: np.ndarray, ranked: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """A row a recommended item: line of the file (from 1), rank (from 1), item, and which ranking it is of."""
    frames = []
    for source, rows in ranked.items():
        place, rank = np.nonzero(rows >= 0)
        items = ids.gather(rows[place, rank])
        frames.append(
            pl.DataFrame({"line": viewers[place] + 1, "rank": rank + 1, "item": items}).with_columns(source=pl.lit(source))
        )
    return pl.concat(frames)


def measure(config: DictConfig, histories: Sequences, ids: pl.Series, *, held_out: str, out: str | None) -> dict:
    """Train, choose the weights on validation items, and rank for the items `held_out`, valid or test."""
    split, merge = leave_one_out(histories), config.merge
    began = time.perf_counter()
    module, clock = fit(config, split)
    train_s = time.perf_counter() - began
    baselines = baselines_of(config, split.train)
    sources = {name: in_logs(baselines[name], merge.floor) for name in ("popular", "transitions", "graph")}
    sources["towers"] = module.scores
    pool = pooled(sources, split.train, split.viewers, named=merge.named)
    weights = chosen(pool, split.valid, grid=list(merge.grid), rounds=merge.rounds, k=K)
    asking, wanted = (split.before_test, split.test) if held_out == "test" else (split.train, split.valid)
    if held_out == "test":
        pool = pooled(sources, asking, split.viewers, named=merge.named)
    ranked = {name: best(scorer, asking, split.viewers, K) for name, scorer in {"towers": module.scores, **baselines}.items()}
    ranked["merged"] = pool.ranked(weights, K)
    if out:
        predictions(ids, split.viewers, {name: ranked[name] for name in ("towers", "merged")}).write_parquet(out)
    result = figures(ranked["towers"], wanted) | figures(ranked["merged"], wanted, "merged_")
    result |= {"train_s": train_s, "epoch_s": float(np.median(clock.seconds)), "epochs": len(clock.seconds)}
    result |= {"floors": {name: figures(ranked[name], wanted) for name in baselines}, "weights": weights}
    result["over_strongest_floor"] = over_strongest(ranked, baselines, wanted, seed=config.seed)
    return result | {"run_s": time.perf_counter() - began, "held_out": held_out, "seed": config.seed}


def over_strongest(
    ranked: Mapping[str, np.ndarray], baselines: Mapping[str, CatalogueScorer], wanted: np.ndarray, *, seed: int
) -> dict:
    """Compute 95% intervals over viewers of the gain of towers and merge over the baseline with the best NDCG."""
    strongest = max(baselines, key=lambda name: gains(ranked[name], wanted)[1].mean())
    result: dict = {"floor": strongest}
    for name in ("towers", "merged"):
        pairs = zip(("recall", "ndcg"), gains(ranked[name], wanted), gains(ranked[strongest], wanted), strict=True)
        result[name] = {f"{metric}@{K}": list(interval(improved - baseline, seed=seed)) for metric, improved, baseline in pairs}
    return result


@exits_on(ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", required=True, metavar="FILE")
    parser.add_argument("--predictions", metavar="FILE", help="also write the top 10 as Parquet: line, rank, item, source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", choices=("test", "valid"), default="test", help="valid: for choosing a recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = composed([f"seed={options.seed}", *options.overrides], CONF)
    histories, ids = read(options.sequences)
    result = measure(config, histories, ids, held_out=options.held_out, out=options.predictions)
    print(json.dumps(rounded(result, 5)))


if __name__ == "__main__":
    main()

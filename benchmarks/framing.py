"""Compare framings and watch-time heads: `python -m benchmarks.framing [key=value ...]`, on the built features of a log.

Trains the network of conf/model/dcn.yaml under every conf/loss, with log seconds, and under every conf/watch_time, with the
usual loss; figures are of the validation days, mean and spread over seeds. The score is the long-view head, or the seconds if
no outcome is trained. `raw/...` evaluates seconds as predicted, `calibrated/...` after curves fitted on one half of the viewers
and applied to the other, both ways. `truth` compares with the expected seconds of an examined video (`World.truth`), if the log
is the sample. `own_spread` is the standard deviation of s / (s + 30), the term of seconds s in the value, that the long-view
head does not explain. The last line is one JSON object.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from watchnext import metrics
from watchnext.cli import composed, exits_on, instantiate
from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.trainable import Trainable, Training
from watchnext.nn.training import built
from watchnext.ranking.calibration.curves import fit_calibration
from watchnext.ranking.heads import WATCH
from watchnext.ranking.scoring import metrics_of, scored
from watchnext.ranking.target_metrics import mean_and_spread
from watchnext.reranking.value import Value
from watchnext.types import TARGETS

LONG_VIEW = TARGETS.index("long_view")
LOSSES = ("multi_task", "classification", "regression", "pairwise", "listwise", "mixture")
LOG_SECONDS = "watch_time@model.module.watch_time=log_seconds"  # a head that works with any loss
HEADS = ("log_seconds", "weighted_odds", "duration_quantile", "ordinal", "tree", "mixture")


def fitted(config: DictConfig, features: FeatureSet, *, seed: int) -> tuple[Trainable, dict[str, float]]:
    """Fit the configured model; return it with the figures of the fit."""
    module = built(instantiate(config.model.module), features, seed=seed)
    return module, module.fit(Training(seed, partial(instantiate, config.trainer)))


def predictions_of(config: DictConfig, features: FeatureSet, rows: np.ndarray) -> np.ndarray:
    """Fit the configured network and return its predictions (n, T) of `rows`."""
    return scored(features, fitted(config, features, seed=config.seed)[0].network, rows)


def cross_calibrated(predictions: np.ndarray, targets: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Calibrate the seconds of predictions (n, T) by curves of the viewers in the other half."""
    calibrated = predictions.copy()
    for half in (0, 1):
        in_half = users % 2 == half
        curves = fit_calibration(predictions[~in_half], targets[~in_half], methods={"watch_s": "isotonic"})
        calibrated[in_half] = curves(predictions[in_half])
    return calibrated


def of_framing(features: FeatureSet, predictions: np.ndarray, rows: np.ndarray, loss: str) -> dict[str, float]:
    """Return AUC, GAUC and nDCG@5 of long views under the score of a framing, over viewers and inside requests."""
    score = predictions[:, WATCH if loss == "regression" else LONG_VIEW]
    label, users = features.columns["targets"][rows, LONG_VIEW], features.columns["user_rows"][rows]
    figures = {"auc": metrics.auc(label, score), "gauc": metrics.gauc(label, score, users)}
    figures["ndcg@5"] = metrics.ndcg_at(label, score, users, 5)
    requested = metrics.RequestFigures.of(label, score, features.requests(rows)).means()
    figures |= {name: requested[name] for name in ("gauc_request", "ndcg@5_request", "mrr_request")}
    return figures | ({"ece": metrics.ece(label, score)} if loss != "regression" else {})


def of_head(features: FeatureSet, predictions: np.ndarray, rows: np.ndarray, truth: np.ndarray | None) -> dict[str, float]:
    """Compare seconds, as predicted and calibrated, with the log and with the truth (n,)."""
    targets, users = features.columns["targets"][rows], features.columns["user_rows"][rows]
    figures = {}
    for name, values in (("raw", predictions), ("calibrated", cross_calibrated(predictions, targets, users))):
        measured = metrics_of(features, values, "valid")
        figures |= {key.replace("valid", name): measured[key] for key in measured if key.endswith("watch_s")}
        term, seconds = Value(weights={"watch_s": 1.0}).of(values), values[:, WATCH].astype(np.float64)
        unexplained = 1.0 - np.corrcoef(term, values[:, LONG_VIEW])[0, 1] ** 2
        figures[f"{name}/own_spread"] = float(term.std() * np.sqrt(unexplained))
        if truth is not None:
            figures[f"{name}/truth_rmse"] = float(np.sqrt(np.mean((seconds - truth) ** 2)))
            figures[f"{name}/truth_xauc"] = metrics.xauc(truth, seconds)
    return figures


def truth_of(features: FeatureSet, rows: np.ndarray) -> np.ndarray:
    """Return the expected seconds (n,) of the sample's impressions."""
    world = instantiate(composed(["data=world"]).data.loader)
    columns = {name: features.columns[name][rows] for name in ("user_rows", "video_rows", "time_ms")}
    return world.truth(*(values.astype(np.int64) for values in columns.values())).watch_ms / 1000.0


@exits_on(FileNotFoundError, ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=LOSSES)
    parser.add_argument("--heads", nargs="*", choices=HEADS, default=HEADS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    words = ["model=dcn", *options.overrides]
    config = composed(words)
    features = FeatureSet.load(Path(config.data.outputs) / "features")
    rows = features.rows("valid")
    truth = truth_of(features, rows) if options.heads and config.data.name == "sample" else None

    def framing(loss: str, seed: int) -> dict[str, float]:
        choice = [f"loss@model.module.loss={loss}", LOG_SECONDS, f"seed={seed}"]
        return of_framing(features, predictions_of(composed([*words, *choice]), features, rows), rows, loss)

    def watch_time(head: str, seed: int) -> dict[str, float]:
        choice = [f"watch_time@model.module.watch_time={head}", f"seed={seed}"]
        predictions = predictions_of(composed([*words, *choice]), features, rows)
        return of_head(features, predictions, rows, truth) | of_framing(features, predictions, rows, "multi_task")

    results: dict = {"framing": {}, "watch_time": {}, "rows": len(rows), "seeds": options.seeds}
    for part, names, measured in (("framing", options.losses, framing), ("watch_time", options.heads, watch_time)):
        for name in names:
            results[part][name] = mean_and_spread([measured(name, seed) for seed in range(options.seeds)])
            print(name, metrics.rounded(results[part][name], 4), file=sys.stderr, flush=True)
    print(json.dumps(metrics.rounded(results, 4)))


if __name__ == "__main__":
    main()

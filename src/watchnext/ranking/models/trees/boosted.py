"""Fit gradient-boosted trees with XGBoost and convert them to the arrays of `forest.Splits`."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import xgboost
from tqdm import tqdm

from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.trainable import Log, NothingToLearnError, Training
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.ranking.feature_mask import masked_columns
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.ensemble import platt
from watchnext.ranking.models.trees.engage import Engage
from watchnext.ranking.models.trees.forest import LEAVES, Splits, TreeInputs
from watchnext.ranking.models.trees.tree_network import Trees
from watchnext.ranking.scoring import held_out_metrics, waiting
from watchnext.types import TARGETS

CHUNK = 16_384
SHOWN = 10  # rounds between logged losses
RATE = (1e-6, 1.0 - 1e-6)  # bounds of a target's base rate
TreeNode = (
    float | tuple[int, float, "TreeNode", "TreeNode"]
)  # a leaf's value, or the column and threshold of a split, left and right


class Chunks(xgboost.DataIter):
    """Feed impressions `rows` to XGBoost in chunks, of which it keeps the bins. Input columns `masked` are 0."""

    def __init__(self, features: FeatureSet, rows: np.ndarray, columns: TreeInputs, masked: Mapping[str, list[int]]) -> None:
        super().__init__(release_data=True)
        self.features, self.rows, self.columns, self.masked, self.at = features, rows, columns, masked, 0

    def next(self, input_data: Callable) -> bool:
        if self.at >= len(self.rows):
            return False
        inputs = self.features.batch(self.rows[self.at : self.at + CHUNK])
        for block, positions in self.masked.items():
            inputs[block][..., positions] = 0
        input_data(data=self.columns({name: values.numpy() for name, values in inputs.items()})[0].T)
        self.at += CHUNK
        return True

    def reset(self) -> None:
        self.at = 0


class ProgressCallback(xgboost.callback.TrainingCallback):
    """Log the validation loss of `target` every SHOWN rounds and advance the progress bar `bar`. An exception from `log` ends
    the fit."""

    def __init__(self, target: str, log: Log | None, bar: tqdm) -> None:
        self._name, self._log, self._bar = f"valid/loss_{target}", log, bar

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: dict) -> bool:
        self._bar.update()
        if self._log and evals_log and epoch % SHOWN == 0:
            (values,) = evals_log["valid"].values()
            self._log({self._name: float(values[-1])}, epoch)
        return False


class BoostedModule:
    """Fit one forest per target with the histogram method, stopped at its best round on validation days.

    network    partial of Trees: the columns it reads
    rounds     most trees per target; stops `patience` rounds after the best log loss (watch time: error of log1p seconds)
    min_child  least sum of Hessians in a leaf
    columns    share of columns sampled per tree; `rows` is the share of rows
    hide       input groups to exclude in training, some of `feature_mask.MASKABLE`: constant columns are never split
    """

    def __init__(
        self,
        *,
        features: FeatureSet,
        network: partial,
        rounds: int,
        patience: int,
        learning_rate: float,
        max_depth: int,
        min_child: float,
        rows: float,
        columns: float,
        l2: float,
        threads: int,
        hide: tuple[str, ...] = (),
    ) -> None:
        self.features, self.rounds, self.patience = features, rounds, patience
        self.parameters = {
            "tree_method": "hist",
            "eta": learning_rate,
            "max_depth": max_depth,
            "min_child_weight": min_child,
            "subsample": rows,
            "colsample_bytree": columns,
            "lambda": l2,
            "nthread": threads,
        }
        self._partial = network
        self._masked = masked_columns(features.pipeline, tuple(hide))
        self.recipe = self._recipe({})
        self.network: Trees = build_network(self.recipe)

    def _recipe(self, shape: Mapping[str, int]) -> dict:
        arguments = {**self._partial.keywords, "targets": len(TARGETS), **shape}
        return recipe_of(partial(self._partial.func, **arguments), self.features.pipeline.sizes)

    def fit(self, training: Training) -> dict[str, float]:
        """Fit; return the number of trees per target and metrics of validation days. An interrupted fit restarts."""
        train, valid = (self.features.rows(split) for split in ("train", "valid"))
        if training.evaluated is not None:
            rounds = {name: int(training.repeated(f"trees/{name}")) for name in TARGETS}
            return self.boost(train, None, seed=training.seed, log=training.log, rounds=rounds)
        return self.boost(train, valid, seed=training.seed, log=training.log) | self._measured("valid")

    def tested(self) -> dict[str, float]:
        return self._measured("test")

    def _measured(self, split: str) -> dict[str, float]:
        return held_out_metrics(self.features, self.network, split)

    def boost(
        self,
        train: np.ndarray,
        valid: np.ndarray | None,
        *,
        seed: int,
        log: Log | None = None,
        rounds: Mapping[str, int] | None = None,
    ) -> dict[str, float]:
        """Fit on the impressions `train`, with early stopping on `valid` or, without, for the `rounds` of each target.

        Returns the number of trees per target. `log` receives losses and the round. Raises NothingToLearnError without rows.
        """
        given = {"train": train} if valid is None else {"train": train, "valid": valid}
        for name, rows in given.items():
            if not len(rows):
                raise NothingToLearnError(f"there are no {name} impressions; check data.split")
        matrices: list[xgboost.QuantileDMatrix] = []
        for rows in given.values():
            chunks = Chunks(self.features, rows, self.network.columns, self._masked)
            ref = matrices[0] if matrices else None
            matrices.append(xgboost.QuantileDMatrix(chunks, ref=ref, nthread=self.parameters["nthread"]))
        forests, bases, figures = [], [], {}
        for index, name in enumerate(TARGETS):
            labels = [_label(self.features.columns["targets"][rows, index], index) for rows in given.values()]
            for matrix, label in zip(matrices, labels, strict=True):
                matrix.set_label(label)
            mean, most = labels[0].mean(), rounds[name] if rounds else self.rounds
            base = float(mean) if index == WATCH else float(mean.clip(*RATE))
            with waiting(total=most, desc=f"trees of {name}") as bar:
                booster = self._boosted(matrices, most, index, base, seed, ProgressCallback(name, log, bar))
            trees = most if rounds else booster.best_iteration + 1
            forests.append(trees_of(booster, trees))
            figures[f"trees/{name}"] = float(trees)
            bases.append(base if index == WATCH else np.log(base / (1 - base)))
        self._fill(forests, bases)
        return figures

    def _boosted(
        self, matrices: list, rounds: int, index: int, base: float, seed: int, progress: ProgressCallback
    ) -> xgboost.Booster:
        """Boost the trees of one target on the first of `matrices`, with early stopping on the second, if any."""
        learn, *checks = matrices
        stopping = {"evals": [(checks[0], "valid")], "early_stopping_rounds": self.patience} if checks else {}
        objective, metric = ("reg:squarederror", "rmse") if index == WATCH else ("binary:logistic", "logloss")
        parameters = {**self.parameters, "objective": objective, "eval_metric": metric, "base_score": base, "seed": seed}
        return xgboost.train(
            parameters,
            learn,
            rounds,
            verbose_eval=False,
            callbacks=[progress],
            **stopping,
        )

    def _fill(self, forests: list[list[TreeNode]], bases: list[float]) -> None:
        """Build the network from the trees of all targets, in the order of TARGETS."""
        arrays = split_arrays(forests)
        shape = {"trees": len(arrays["target"]), "splits": len(arrays["feature"])}
        self.recipe = self._recipe(shape)
        self.network = build_network(self.recipe)
        self.network.fill(arrays | {"intercept": np.array(bases, np.float32)})
        self.network.eval()

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)


ENGAGE = {
    "tree_method": "hist",
    "objective": "binary:logistic",
    "nthread": 1,
    "eta": 0.05,
    "max_depth": 4,
    "min_child_weight": 20.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "lambda": 10.0,
}
ENGAGE_ROUNDS = 100


def fit_engage(columns: np.ndarray, watched: np.ndarray, *, seed: int) -> Engage:
    """Fit `Engage` on evidence (E, C) of candidates and whether each was `watched` (C,): 0, or the weight of the watch. Both
    labels must occur."""
    label, weights = watched > 0, np.where(watched > 0, watched, 1.0)
    slope, shift = platt(columns[0].astype(np.float64), label)
    margin = slope * columns[0] + shift
    candidates = xgboost.QuantileDMatrix(columns.T, label=label, weight=weights, base_margin=margin, nthread=1)
    booster = xgboost.train({**ENGAGE, "seed": seed}, candidates, ENGAGE_ROUNDS)
    splits = Splits(**split_arrays([trees_of(booster, ENGAGE_ROUNDS)]), intercept=np.zeros(1, np.float32))
    return Engage(splits, slope, shift, float(label.mean()))


def _label(values: np.ndarray, index: int) -> np.ndarray:
    """Return training labels: outcomes, and watch time as log1p seconds."""
    return np.log1p(values) if index == WATCH else values.clip(0.0, 1.0)


def trees_of(booster: xgboost.Booster, rounds: int) -> list[TreeNode]:
    """Read the first `rounds` trees of one target."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"][:rounds]
    return [_read(tree, 0) for tree in trees]


def _read(tree: Mapping[str, list], node: int) -> TreeNode:
    condition, left = tree["split_conditions"][node], tree["left_children"][node]
    if left < 0:
        return condition
    return tree["split_indices"][node], condition, _read(tree, left), _read(tree, tree["right_children"][node])


def split_arrays(forests: list[list[TreeNode]]) -> dict[str, np.ndarray]:
    """Convert the trees of T targets to the arrays of `forest.Splits`. Trees with more than LEAVES leaves become sums of
    several."""
    trees = [(piece, index) for index, forest in enumerate(forests) for tree in forest for piece in _pieces(tree, LEAVES)]
    splits, values, first = [], np.zeros((len(trees), LEAVES), np.float32), [0]
    for number, (tree, _) in enumerate(trees):
        leaves: list[float] = []
        _lay(tree, splits, leaves)
        values[number, : len(leaves)] = leaves
        first.append(len(splits))
    feature, threshold, below, above = zip(*splits, strict=True) if splits else ((), (), (), ())
    return {
        "feature": np.array(feature, np.int32),
        "threshold": np.array(threshold, np.float32),
        "below": np.array(below, np.uint32).view(np.int32),
        "above": np.array(above, np.uint32).view(np.int32),
        "first": np.array(first, np.int32),
        "value": values,
        "target": np.array([index for _, index in trees], np.int32),
    }


def _leaves(tree: TreeNode) -> int:
    return _leaves(tree[2]) + _leaves(tree[3]) if isinstance(tree, tuple) else 1


def _pieces(tree: TreeNode, most: int) -> list[TreeNode]:
    """Split `tree` into trees of at most `most` leaves that sum to it: each keeps one half and has 0 in the other."""
    if _leaves(tree) <= most:
        return [tree]
    feature, threshold, left, right = tree
    halves = [(feature, threshold, piece, 0.0) for piece in _pieces(left, most - 1)]
    return halves + [(feature, threshold, 0.0, piece) for piece in _pieces(right, most - 1)]


def _lay(tree: TreeNode, splits: list[tuple[int, float, int, int]], leaves: list[float]) -> int:
    """Append splits and leaves from left to right; return the bits of the leaves."""
    if not isinstance(tree, tuple):
        leaves.append(tree)
        return 1 << len(leaves) - 1
    feature, threshold, left, right = tree
    index = len(splits)
    splits.append(())
    below = _lay(left, splits, leaves)
    above = _lay(right, splits, leaves)
    splits[index] = feature, threshold, below, above
    return below | above

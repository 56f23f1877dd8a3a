"""Single-feature check: a feature that alone predicts a label implausibly well has seen the outcome."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from watchnext.data.card.statistics import dominating
from watchnext.data.splits import SPLITS
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import names_of
from watchnext.features.leakage.leak import CheckResult, Leak
from watchnext.types import TARGETS

PRIOR = 4.0  # pseudo-impressions at the mean rate in a code's target rate
PROBABILITIES = [i for i, name in enumerate(TARGETS) if name != "watch_s"]


def areas(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the AUC (T,) of `scores` (N,) for each of `labels` (N, T), ties counting half; nan for a constant label."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positives = labels.sum(axis=0, dtype=np.float64)
    pairs = positives * (len(labels) - positives)
    above = ranks @ labels - positives * (positives + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def standard_error(area: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Return the standard error of an AUC of at least 0.5, from counts (Hanley & McNeil, Radiology 1982)."""
    both_positive, both_negative = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positives - 1) * (both_positive - area**2) + (negatives - 1) * (both_negative - area**2)
    return np.sqrt((area * (1 - area) + spread) / (positives * negatives))


def target_rates(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's target rate (N, T) of its code in the other half of the rows, which excludes its own label."""
    half, rates = np.arange(len(codes)) % 2, np.empty(labels.shape)
    for excluded in (0, 1):
        other = half != excluded
        seen = np.bincount(codes[other], minlength=codes.max() + 1)
        for target, label in enumerate(labels.T):
            positives = np.bincount(codes[other], weights=label[other], minlength=len(seen))
            rate = (positives + PRIOR * label[other].mean()) / (seen + PRIOR)
            rates[~other, target] = rate[codes[~other]]
    return rates


def single_columns(features: FeatureSet, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield (name, values, is_code) of every input column of `rows`, except sequences and vectors."""
    schema, columns, pipeline = features.pipeline.schema, features.columns, features.pipeline
    as_of = features.blocks(rows)
    for block in ("query_values", "candidate_values"):
        values = as_of[block]
        yield from ((name, values[:, i], False) for i, name in enumerate(pipeline.value_names(block)))
    for entity, blocks in (("user", features.users), ("video", features.videos)):
        of_row = columns[f"{entity}_rows"][rows]
        numerical = tuple(f for f in schema.columns(entity) if f.kind == "numerical")
        categorical = [f.name for f in schema.columns(entity) if f.kind == "categorical"]
        for names, kind in ((names_of(numerical), "values"), (categorical, "codes")):
            block = np.asarray(blocks[f"{entity}_{kind}"])
            yield from ((name, block[of_row, i], kind == "codes") for i, name in enumerate(names))
    codes = as_of["context_codes"]
    yield from ((f.name, codes[:, i], True) for i, f in enumerate(schema.of("context", "categorical")))


def best_areas(values: np.ndarray, is_code: bool, labels: np.ndarray) -> np.ndarray:
    """Return the AUC (T,) in the better direction; a code scores by its target rate."""
    if is_code:
        rates = target_rates(values, labels)
        auc = np.concatenate([areas(rates[:, i], labels[:, [i]]) for i in range(labels.shape[1])])
    else:
        auc = areas(values, labels)
    return np.maximum(auc, 1 - auc)


def without_bots(features: FeatureSet, rows: np.ndarray, user_ids: pl.Series) -> tuple[np.ndarray, dict[str, float]]:
    """Leave out dominating viewers. Returns the other `rows` and the share of rows of each such viewer.

    A bot that always acts alike is predicted by any feature that identifies it, without a leak.
    """
    users = np.asarray(features.columns["user_rows"])[rows]
    counts = np.bincount(users, minlength=len(user_ids))
    bots = np.flatnonzero(dominating(counts))
    return rows[~np.isin(users, bots)], {str(user_ids[int(bot)]): round(float(counts[bot] / len(rows)), 4) for bot in bots}


def check_single_features(
    features: FeatureSet, *, user_ids: pl.Series, ceiling: float, min_positives: int, most: int
) -> CheckResult:
    """Check the AUC of every single column on about `most` training and validation rows, without bots.

    user_ids       ids by user row
    ceiling        a column leaks if its AUC exceeds this by two standard errors
    min_positives  a target with fewer positives, or negatives, is not checked
    """
    split = np.asarray(features.columns["split"])
    rows = np.flatnonzero((split >= 0) & (split < SPLITS.index("test")))
    rows, bots = without_bots(features, rows, user_ids)
    rows = rows[:: max(1, -(-len(rows) // most))]
    labels = np.asarray(features.columns["targets"][rows][:, PROBABILITIES] > 0.5, np.float64)
    positives = labels.sum(axis=0)
    enough = np.minimum(positives, len(rows) - positives) >= min_positives
    targets = [TARGETS[i] for i in np.array(PROBABILITIES)[enough]]
    labels, positives = labels[:, enough], positives[enough]
    results, leaks = [], []
    for feature, values, is_code in single_columns(features, rows) if targets else ():
        area = best_areas(values, is_code, labels)
        lower_bound = area - 2 * standard_error(area, positives, len(rows) - positives)
        results += zip(area.tolist(), [feature] * len(area), targets, strict=True)
        remedy = "remove it from the schema, or compute it from events known before the request"
        leaks += [
            Leak("single feature", f"{feature} alone predicts {target}, AUC", round(float(area[i]), 4), ceiling, remedy)
            for i, target in enumerate(targets)
            if lower_bound[i] > ceiling
        ]
    highest = {target: max(each for each in results if each[2] == target) for target in targets}
    return {
        "ceiling": ceiling,
        "rows": len(rows),
        "bots": bots,
        "columns": len({feature for _, feature, _ in results}),
        "highest": {target: {"feature": feature, "auc": round(area, 4)} for target, (area, feature, _) in highest.items()},
        "too_rare_to_judge": [TARGETS[i] for i in np.array(PROBABILITIES)[~enough]],
    }, leaks

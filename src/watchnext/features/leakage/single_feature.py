"""Each feature alone against each label: what predicts implausibly well has seen the answer."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from watchnext.data.card.statistics import dominating
from watchnext.data.splits import SPLITS
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import names_of
from watchnext.features.leakage.leak import Findings, Leak
from watchnext.types import TARGETS

PRIOR = 4.0  # impressions at the mean rate that a code's target rate starts with
PROBABILITIES = [place for place, name in enumerate(TARGETS) if name != "watch_s"]


def areas(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUC (T,) of one column of `scores` (N,) for each of `labels` (N, T), ties counting half; nan for a constant label."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = labels.sum(axis=0, dtype=np.float64)
    pairs = positives * (len(labels) - positives)
    above = ranks @ labels - positives * (positives + 1) / 2
    return np.divide(above, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def standard_error(area: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Of an AUC of at least .5, from counts alone (Hanley & McNeil, Radiology 1982)."""
    both_positive, both_negative = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positives - 1) * (both_positive - area**2) + (negatives - 1) * (both_negative - area**2)
    return np.sqrt((area * (1 - area) + spread) / (positives * negatives))


def target_rates(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N, T) each row's rate of its code (N,) among the *other* half of the rows: its own label has no part in it."""
    half, rates = np.arange(len(codes)) % 2, np.empty(labels.shape)
    for own in (0, 1):
        other = half != own
        seen = np.bincount(codes[other], minlength=codes.max() + 1)
        for place, label in enumerate(labels.T):
            positives = np.bincount(codes[other], weights=label[other], minlength=len(seen))
            rate = (positives + PRIOR * label[other].mean()) / (seen + PRIOR)
            rates[~other, place] = rate[codes[~other]]
    return rates


def single_columns(features: FeatureSet, rows: np.ndarray) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Every input column of `rows` with its name and whether it holds codes. Sequences and vectors are not single columns."""
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
    """AUC (T,) in whichever direction is better; a code scores by its target rate."""
    if is_code:
        rates = target_rates(values, labels)
        found = np.concatenate([areas(rates[:, i], labels[:, [i]]) for i in range(labels.shape[1])])
    else:
        found = areas(values, labels)
    return np.maximum(found, 1 - found)


def without_bots(features: FeatureSet, rows: np.ndarray, user_ids: pl.Series) -> tuple[np.ndarray, dict[str, float]]:
    """Leave out dominating viewers. Returns the other `rows`, and of each such viewer the part of the rows that it has. A bot
    that always does the same is predicted by whatever tells it from the others, though nothing has seen an answer."""
    users = np.asarray(features.columns["user_rows"])[rows]
    counts = np.bincount(users, minlength=len(user_ids))
    bots = np.flatnonzero(dominating(counts))
    return rows[~np.isin(users, bots)], {str(user_ids[int(bot)]): round(float(counts[bot] / len(rows)), 4) for bot in bots}


def single_features(features: FeatureSet, *, user_ids: pl.Series, ceiling: float, min_positives: int, most: int) -> Findings:
    """AUC of every column alone, on about `most` training and validation rows, those of bots aside; `user_ids` are those of the
    user rows. It leaks when it lies above `ceiling` by two standard errors; a target with fewer than `min_positives` of either
    kind is not judged."""
    split = np.asarray(features.columns["split"])
    rows = np.flatnonzero((split >= 0) & (split < SPLITS.index("test")))
    rows, bots = without_bots(features, rows, user_ids)
    rows = rows[:: max(1, -(-len(rows) // most))]
    labels = np.asarray(features.columns["targets"][rows][:, PROBABILITIES] > 0.5, np.float64)
    positives = labels.sum(axis=0)
    enough = np.minimum(positives, len(rows) - positives) >= min_positives
    targets = [TARGETS[place] for place in np.array(PROBABILITIES)[enough]]
    labels, positives = labels[:, enough], positives[enough]
    found, leaks = [], []
    for feature, values, is_code in single_columns(features, rows) if targets else ():
        area = best_areas(values, is_code, labels)
        surely = area - 2 * standard_error(area, positives, len(rows) - positives)
        found += zip(area.tolist(), [feature] * len(area), targets, strict=True)
        what = "take it out of the schema, or compute it from what was known before the request"
        leaks += [
            Leak("single feature", f"{feature} alone predicts {target}, AUC", round(float(area[i]), 4), ceiling, what)
            for i, target in enumerate(targets)
            if surely[i] > ceiling
        ]
    highest = {target: max(each for each in found if each[2] == target) for target in targets}
    return {
        "ceiling": ceiling,
        "rows": len(rows),
        "bots": bots,
        "columns": len({feature for _, feature, _ in found}),
        "highest": {target: {"feature": feature, "auc": round(area, 4)} for target, (area, feature, _) in highest.items()},
        "too_rare_to_judge": [TARGETS[place] for place in np.array(PROBABILITIES)[~enough]],
    }, leaks

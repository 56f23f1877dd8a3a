"""Ranking, calibration and watch-time metrics: pure functions of numpy arrays.

Labels are 0 or 1, `groups` holds the viewer or request of each row, rows may come in any order. A score that is not finite
(nan, +inf, -inf) ranks below every finite one. Tied scores give the expected value over all their orders. An average over no
rows is nan. Arrays of unequal length raise ValueError.

An undefined figure is nan in memory, null in JSON (`rounded`), "–" in a table (`shown`), and left out of MLflow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


def _columns(columns: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Convert columns to 1-D arrays of one length; raises ValueError naming the shapes."""
    arrays = [np.asarray(column) for column in columns.values()]
    if any(array.ndim != 1 for array in arrays) or len({len(array) for array in arrays}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(columns, arrays, strict=True))
        raise ValueError(f"a metric needs 1-D arrays of one length, got {shapes}")
    return arrays


def _sunk(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    return np.where(np.isfinite(scores), scores, -np.inf)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _starts(*sorted_columns: np.ndarray) -> np.ndarray:
    """Mark the first row of each run of equal rows, (n,) bool."""
    first = np.ones(len(sorted_columns[0]), dtype=bool)
    first[1:] = np.any([column[1:] != column[:-1] for column in sorted_columns], axis=0)
    return first


def _averaged_ranks(groups: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank each score in its group from 1, ties sharing their mean rank. `groups` counts from 0 without gaps."""
    order = np.lexsort((scores, groups))
    begins = np.flatnonzero(_starts(groups[order], scores[order]))
    ends = np.append(begins[1:], len(order))
    before = np.cumsum(np.bincount(groups)) - np.bincount(groups)
    ranks = np.empty(len(order))
    ranks[order] = np.repeat((begins + 1 + ends) / 2, ends - begins) - before[groups[order]]
    return ranks


def areas_by_group(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the AUC, the number of positives and the group (G,) of every group with both labels."""
    labels, scores, groups = _columns({"labels": labels, "scores": _sunk(scores), "groups": groups})
    if not len(labels):
        return np.empty(0), np.empty(0), groups
    positive, (names, groups) = labels > 0, np.unique(groups, return_inverse=True)
    positives = np.bincount(groups, weights=positive)
    negatives = np.bincount(groups) - positives
    rank_sums = np.bincount(groups, weights=_averaged_ranks(groups, scores) * positive)
    both = (positives > 0) & (negatives > 0)
    positives, negatives, rank_sums = positives[both], negatives[both], rank_sums[both]
    return (rank_sums - positives * (positives + 1) / 2) / (positives * negatives), positives, names[both]


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive outscores a negative, a tie counting half (Mann-Whitney U; Hanley & McNeil 1982).

    nan if a label is absent.

    >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    areas, *_ = areas_by_group(labels, scores, np.zeros(len(labels), dtype=np.int64))
    return _mean(areas)


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """AUC inside each viewer, averaged with the viewer's positives as weight (Zhu et al., KDD 2017, who weight by impressions).

    Viewers with one label only are left out; nan if none is left.

    >>> gauc([1, 0, 1, 0, 1], [2.0, 1.0, 5.0, 9.0, 9.0], ["a", "a", "b", "b", "b"])
    0.5
    """
    areas, positives, _ = areas_by_group(labels, scores, groups)
    return float(np.average(areas, weights=positives)) if len(areas) else float("nan")


def ndcg_at(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, k: int) -> float:
    """Mean over all viewers of DCG@k over its best possible value, discount 1 / log2(1 + rank) (Järvelin & Kekäläinen 2002).

    The gain is the label itself. A viewer without a positive counts as 0. Tied scores share the mean discount of their ranks
    (McSherry & Najork, ECIR 2008). nan where no viewer has a positive.

    >>> round(ndcg_at([0, 1, 0], [0.9, 0.5, 0.1], [7, 7, 8], k=2), 4)
    0.3155
    >>> ndcg_at([1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [7, 7, 7, 7], k=1)
    0.25
    """
    labels, scores, groups = _columns({"labels": labels, "scores": _sunk(scores), "groups": groups})
    if not (labels > 0).any():
        return float("nan")
    _, groups = np.unique(groups, return_inverse=True)
    ideal = _discounted_gain(labels, labels, groups, k)
    gained = _discounted_gain(labels, scores, groups, k)
    return _mean(np.divide(gained, ideal, out=np.zeros_like(gained), where=ideal > 0))


def _discounted_gain(gains: np.ndarray, scores: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """DCG@k of every group, best score first."""
    return np.bincount(groups, gains * worth_of_ranks(scores, groups, lambda ranks: (ranks < k) / np.log2(ranks + 2)))


def worth_of_ranks(scores: np.ndarray, groups: np.ndarray, worth: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return `worth` (N,) of each row's rank in its group, from 0 at the highest score; ties share the mean over their ranks,
    the expectation over a random order. `groups` counts from 0 without gaps.

    >>> worth_of_ranks(np.array([3.0, 1.0, 1.0, 2.0]), np.array([0, 0, 0, 1]), lambda ranks: ranks < 2).tolist()
    [1.0, 0.5, 0.5, 1.0]
    """
    order = np.lexsort((-scores.astype(np.float64), groups))
    counts = np.bincount(groups)
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    tie = np.cumsum(_starts(groups[order], scores[order])) - 1
    values = np.empty(len(order))
    values[order] = (np.bincount(tie, worth(ranks)) / np.bincount(tie))[tie]
    return values


@dataclass(frozen=True)
class RequestFigures:
    """Figures of every request group with both labels, (G,) each; a group of one row or of one label has none.

    figures    name > AUC, nDCG@5 and reciprocal rank of the first positive
    positives, impressions   weights of a mean: the first as in `gauc`, the second as Zhu et al. (KDD 2017)
    first      a row of each group
    """

    figures: Mapping[str, np.ndarray]
    positives: np.ndarray
    impressions: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> "RequestFigures":
        labels, scores, groups = _columns({"labels": labels, "scores": _sunk(scores), "groups": groups})
        rows, groups = _rows_of_both(labels, groups)
        labels, scores = (labels[rows] > 0).astype(np.float64), scores[rows]
        figures = {
            "gauc": areas_by_group(labels, scores, groups)[0],
            "ndcg@5": _discounted_gain(labels, scores, groups, 5) / _discounted_gain(labels, labels, groups, 5),
            "mrr": reciprocal_ranks(labels, scores, groups),
        }
        return cls(figures, np.bincount(groups, labels), np.bincount(groups), rows[np.unique(groups, return_index=True)[1]])

    def means(self) -> dict[str, float]:
        """Return weighted means: `gauc_request` by positives, `gauc_request_by_impressions`, and so on; nan without groups."""
        weights = {"": self.positives, "_by_impressions": self.impressions}
        return {
            f"{name}_request{suffix}": float(np.average(values, weights=weight)) if len(values) else float("nan")
            for suffix, weight in weights.items()
            for name, values in self.figures.items()
        }


def _rows_of_both(labels: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of groups with both labels, and their groups, counted from 0 without gaps."""
    _, groups = np.unique(groups, return_inverse=True)
    positives = np.bincount(groups, labels > 0)
    both = (positives > 0) & (positives < np.bincount(groups))
    rows = np.flatnonzero(both[groups])
    return rows, np.unique(groups[rows], return_inverse=True)[1]


def reciprocal_ranks(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return 1 / rank of the first positive of every group (Voorhees, TREC-8 1999); tied scores give the expected value.

    `groups` counts from 0 without gaps, and each has a positive.

    >>> reciprocal_ranks(np.array([0, 1, 1, 0]), np.array([0.9, 0.5, 0.2, 0.2]), np.array([0, 0, 1, 1])).tolist()
    [0.5, 0.75]
    """
    order = np.lexsort((-scores, groups))
    groups, positive = groups[order], labels[order] > 0
    begins = np.flatnonzero(_starts(groups, scores[order]))
    if not len(begins):
        return np.empty(0)
    sizes, positives = np.diff(np.append(begins, len(order))), np.add.reduceat(positive.astype(np.int64), begins)
    ties = np.flatnonzero(positives)
    ties = ties[np.unique(groups[begins[ties]], return_index=True)[1]]  # the first of each group
    above = begins[ties] - np.flatnonzero(_starts(groups))
    return _expected_reciprocal(above, sizes[ties], positives[ties])


def _expected_reciprocal(above: np.ndarray, size: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the mean of 1 / rank of the first positive, where `size` tied rows follow `above` others in a random order."""
    expected, none_yet = np.zeros(len(above)), np.ones(len(above))
    for k in range(int((size - positives).max()) + 1):
        is_next = positives / np.maximum(size - k, positives)
        expected += none_yet * is_next / (above + k + 1)
        none_yet *= 1 - is_next
    return expected


def _probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Convert to float64 in [0, 1], non-finite values to 0; raises ValueError for a value outside."""
    values = np.asarray(probabilities, dtype=np.float64)
    values = np.where(np.isfinite(values), values, 0.0)
    outside = values[(values < -1e-6) | (values > 1 + 1e-6)]  # float32 sums may round past 1
    if len(outside):
        raise ValueError(f"probability {outside[0]:g} is outside [0, 1]; pass the sigmoid of the logit, not the logit")
    return np.clip(values, 0.0, 1.0)


def logloss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative log likelihood in nats, probabilities clipped to [1e-15, 1 - 1e-15] so that one certain miss costs 34.5.

    >>> round(logloss([1, 0], [0.8, 0.4]), 4)
    0.367
    """
    return _mean(log_losses(labels, probabilities))


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the negative log likelihood (N,) of each row, as `logloss` averages it."""
    labels, probabilities = _columns({"labels": labels, "probabilities": _probabilities(probabilities)})
    clipped = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return -np.log(np.where(labels > 0, clipped, 1 - clipped))


def ece(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: |mean label - mean probability| per bin of equal width, weighted by rows.

    Guo et al., ICML 2017, here for the positive class, so bins span [0, 1]; a bin includes its lower edge, the last one both.
    nan without rows.

    >>> round(ece([1, 0, 1, 1], [0.9, 0.1, 0.9, 0.4], bins=2), 4)
    0.175
    """
    labels, probabilities = _columns({"labels": labels, "probabilities": _probabilities(probabilities)})
    if not len(labels):
        return float("nan")
    bin_index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_index, weights=(labels > 0) - probabilities, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def recall_at(ranked: np.ndarray | Sequence[np.ndarray], relevant: Sequence[np.ndarray], k: int) -> float:
    """Share of a viewer's relevant rows among its first k, averaged over the viewers with any (nan if none has).

    `ranked` and `relevant` are as in `list_figures`; the denominator is the number of distinct relevant rows, even above k.

    >>> recall_at([[3, 1, 2], [5, 6, -1]], [[1, 9], [6]], k=2)
    0.75
    """
    return mean_defined(list_figures(ranked, relevant, k)["recall"])


def mean_defined(values: np.ndarray) -> float:
    """Mean of the values that are not nan, nan if none is.

    >>> mean_defined([1.0, float("nan"), 0.0])
    0.5
    """
    values = np.asarray(values, np.float64)
    return _mean(values[~np.isnan(values)])


def list_figures(ranked: np.ndarray | Sequence[np.ndarray], relevant: Sequence[np.ndarray], k: int) -> dict[str, np.ndarray]:
    """Measure the first k of each of B lists, (B,) each, nan for a viewer without relevant rows.

    recall   share of the relevant rows, even where there are more than k
    ndcg     DCG@k over that of min(k, relevant) hits at the top, gain 1 (Järvelin & Kekäläinen 2002)
    map      average precision: the sum of precision at each hit, over the number of relevant rows, even above k, as TREC
             counts it (Buckley & Voorhees 2000); some libraries divide by min(k, relevant)
    mrr      1 / rank of the first hit, 0 without one (Voorhees, TREC-8 1999)

    ranked    (B, N) row numbers best first, padded with -1, or B arrays of any length; a repeated row counts once
    relevant  B arrays of row numbers

    >>> figures = list_figures([[3, 1, 2], [5, 6, -1], [4]], [[1, 2], [6], []], k=3)
    >>> {name: [round(float(value), 4) for value in values] for name, values in figures.items()}
    {'recall': [1.0, 1.0, nan], 'ndcg': [0.6934, 0.6309, nan], 'map': [0.5833, 0.5, nan], 'mrr': [0.5, 0.5, nan]}
    """
    hits, wanted = _hits(ranked, relevant, k)
    at = np.arange(hits.shape[1])
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(k) + 2)))[np.minimum(wanted, k)]
    precision = np.cumsum(hits, axis=1) / (at + 1)
    sums = {
        "recall": (hits.sum(axis=1), wanted),
        "ndcg": (hits @ (1 / np.log2(at + 2)), ideal),
        "map": ((precision * hits).sum(axis=1), wanted),
        "mrr": (np.max(hits / (at + 1), axis=1, initial=0.0), wanted > 0),
    }
    return {name: divided(above, below) for name, (above, below) in sums.items()}


def divided(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide (n,) by (n,), nan where the divisor is not above 0."""
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _hits(ranked: np.ndarray | Sequence[np.ndarray], relevant: Sequence[np.ndarray], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mark the relevant rows among the first k of each list (B, at most k), and count the distinct relevant rows (B,)."""
    if len(ranked) != len(relevant):
        raise ValueError(f"recall needs as many rankings as relevant sets, got {len(ranked)} and {len(relevant)}")
    top = padded([np.asarray(row)[:k] for row in ranked])
    owner, wanted = _flat_lists(relevant)
    width = 2 + max(int(top.max(initial=0)), int(wanted.max(initial=0)))
    keys = np.arange(len(top))[:, None] * width + top + 1  # padding is 0 of its list
    wanted = np.unique((owner * width + wanted + 1)[wanted >= 0])
    first = np.zeros(top.shape, bool)
    first.flat[np.unique(keys, return_index=True)[1]] = True
    return np.isin(keys, wanted) & first & (top >= 0), np.bincount(wanted // width, minlength=len(top))


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Return lists of rows as one array (B, N) int64, padded with -1.

    >>> padded([[3, 1], [], [2]]).tolist()
    [[3, 1], [-1, -1], [2, -1]]
    """
    lengths = np.array([len(each) for each in lists], np.int64)
    table = np.full((len(lists), int(lengths.max(initial=0))), -1)
    table[np.arange(table.shape[1]) < lengths[:, None]] = _flat_lists(lists)[1]
    return table


def _flat_lists(lists: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the list of each row (n,), and all rows (n,)."""
    rows = np.concatenate([np.zeros(0, np.int64), *(np.asarray(row, np.int64) for row in lists)])
    return np.repeat(np.arange(len(lists)), [len(row) for row in lists]), rows


def mean_absolute_error(true_seconds: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of |true - predicted|; inf for a non-finite prediction, nan without rows.

    >>> mean_absolute_error([10.0, 0.0], [7.0, 1.0])
    2.0
    """
    true_seconds, predicted = _columns({"true_seconds": true_seconds, "predicted": predicted})
    finite = np.isfinite(predicted)
    return _mean(np.where(finite, np.abs(true_seconds - np.where(finite, predicted, 0.0)), np.inf))


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman's rank correlation, tied values sharing their mean rank. nan if either column is constant.

    >>> rank_correlation([1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.9, 0.3])
    0.8
    """
    left, right = _columns({"left": _sunk(left), "right": _sunk(right)})
    one = np.zeros(len(left), np.int64)
    ranks = [_averaged_ranks(one, values) - (len(values) + 1) / 2 for values in (left, right)] if len(left) else [one, one]
    spread = np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    return float(ranks[0] @ ranks[1] / spread) if spread else float("nan")


def xauc(true_seconds: np.ndarray, predicted: np.ndarray) -> float:
    """Share of pairs with different true values in the right predicted order, a tied prediction counting half.

    XAUC (Zhan et al., KDD 2022) samples pairs; this one is exact, in O(n log^2 n). nan unless two true values differ.

    >>> xauc([1.0, 5.0, 9.0], [2.0, 2.0, 3.0])
    0.8333333333333334
    """
    true_seconds, predicted = _columns({"true_seconds": true_seconds, "predicted": _sunk(predicted)})
    if not np.isfinite(true_seconds).all():
        raise ValueError("xauc needs finite true values; drop the rows whose watch time is unknown")
    comparable = _pairs(len(true_seconds)) - _tied_pairs(true_seconds)
    if not comparable:
        return float("nan")
    only_predicted_tied = _tied_pairs(predicted) - _tied_pairs(true_seconds, predicted)
    order = np.lexsort((-predicted, true_seconds))  # equal true values descend, so they never ascend
    _, ranks = np.unique(predicted[order], return_inverse=True)
    return float((_ascents(ranks) + only_predicted_tied / 2) / comparable)


def stratified_xauc(true_seconds: np.ndarray, predicted: np.ndarray, strata: np.ndarray) -> float:
    """XAUC inside each stratum, averaged with the number of comparable pairs as weight.

    With duration groups as strata, a model that only knows that long videos are watched longer scores 0.5, but has a high XAUC.
    nan unless two true values of one stratum differ.

    >>> stratified_xauc([1.0, 5.0, 9.0, 8.0], [1.0, 2.0, 7.0, 7.0], ["short", "short", "long", "long"])
    0.75
    """
    true_seconds, predicted, strata = _columns({"true_seconds": true_seconds, "predicted": predicted, "strata": strata})
    _, strata = np.unique(strata, return_inverse=True)
    order = np.argsort(strata, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(strata))[:-1]) if len(order) else []
    values = np.array([xauc(true_seconds[part], predicted[part]) for part in parts])
    pairs = np.array([_pairs(len(part)) - _tied_pairs(true_seconds[part]) for part in parts])
    return float(np.average(values[pairs > 0], weights=pairs[pairs > 0])) if pairs.any() else float("nan")


def _pairs(counts: np.ndarray | int) -> int:
    return int(np.sum(counts * (counts - 1) // 2))


def _tied_pairs(*columns: np.ndarray) -> int:
    order = np.lexsort(columns)
    begins = np.flatnonzero(_starts(*(column[order] for column in columns)))
    return _pairs(np.diff(np.append(begins, len(order))))


def _ascents(ranks: np.ndarray) -> int:
    """Count pairs i < j with ranks[i] < ranks[j]. Two ranks differ first at their highest differing bit, so count by bit."""
    total = 0
    for bit in range(int(ranks.max()).bit_length()):
        prefix = ranks >> (bit + 1)
        order = np.argsort(prefix, kind="stable")
        ones = (ranks[order] >> bit) & 1
        zeros_before = np.cumsum(1 - ones)
        begins = np.flatnonzero(_starts(prefix[order]))
        before_group = np.repeat(zeros_before[begins] - (1 - ones[begins]), np.diff(np.append(begins, len(order))))
        total += int(((zeros_before - before_group) * ones).sum())
    return total


def coverage(rows: np.ndarray, catalogue_size: int) -> float:
    """Share of the catalogue among the rows shown; padding (-1) is not a row. nan for an empty catalogue.

    >>> coverage([[0, 3], [3, -1]], catalogue_size=4)
    0.5
    """
    rows = np.unique(np.asarray(rows, dtype=np.int64))
    return float(np.count_nonzero(rows >= 0) / catalogue_size) if catalogue_size else float("nan")


def gini(counts: np.ndarray) -> float:
    """Inequality of recommendation counts: 0 if all videos are equal, towards 1 if one has everything.

    Gini's index as Fleder & Hosanagar (Management Science 2009) use it for recommendations; `counts` (V,) covers every
    video of the catalogue, also those never recommended. nan without recommendations.

    >>> gini([0, 0, 2, 2])
    0.5
    """
    counts = np.sort(np.asarray(counts, np.float64))
    total, n = counts.sum(), len(counts)
    return float(counts @ (2 * np.arange(1, n + 1) - n - 1) / (n * total)) if total else float("nan")


def popularity_lift(ranked: Sequence[np.ndarray], watched: Sequence[np.ndarray], popularity: np.ndarray) -> float:
    """Relative popularity of recommended over watched videos: 0 equal, 1 twice as popular.

    Abdollahpouri et al. (RecSys 2020), over one group of all viewers: the mean popularity of a viewer's list, averaged over
    viewers, against the same of their watches. Deviation: the watches follow the recommendation instead of preceding it, so
    that newcomers count. A viewer without rows is left out on that side; nan without viewers, or if the watches have
    popularity 0.

    ranked, watched  B arrays of row numbers each, without padding
    popularity       (V,) watches of every video

    >>> popularity_lift([[0, 1], [0]], [[1], [2]], popularity=[8, 4, 4])
    0.75
    """
    popularity = np.asarray(popularity, np.float64)
    recommended, chosen = (_mean([popularity[np.asarray(r)].mean() for r in rows if len(r)]) for rows in (ranked, watched))
    return recommended / chosen - 1 if chosen else float("nan")


def creator_gini(ranked: Sequence[np.ndarray], creators: np.ndarray) -> float:
    """Inequality of the slots that creators get: `gini` over every creator of the catalogue, also those never shown.

    creators  (V,) creator row of every video, -1 unknown, which is left out

    >>> creator_gini([[0, 1], [0, 3]], creators=[0, 0, 1, -1])
    0.5
    """
    creators = np.asarray(creators, np.int64)
    owners = creators[_flat_lists(ranked)[1]]
    return gini(np.bincount(owners[owners >= 0], minlength=int(creators.max(initial=-1)) + 1))


def list_means(ranked: Sequence[np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return the mean (B,) of the `values` (V,) of each list's videos, nan of an empty list.

    >>> list_means([[0, 2], []], values=[1.0, 5.0, 2.0]).tolist()
    [1.5, nan]
    """
    owner, rows = _flat_lists(ranked)
    return divided(
        np.bincount(owner, np.asarray(values, np.float64)[rows], len(ranked)), np.bincount(owner, minlength=len(ranked))
    )


def novelty(ranked: Sequence[np.ndarray], popularity: np.ndarray) -> np.ndarray:
    """Return the mean self-information (B,) of each list's videos, in bits: -log2 of a video's share of the watches (Zhou et
    al., PNAS 2010).

    Deviation: one watch is added to every video, so that a video never watched is finite.

    >>> novelty([[0], [1, 2]], popularity=[5, 0, 0]).tolist()
    [0.4150374992788438, 3.0]
    """
    counts = np.asarray(popularity, np.float64) + 1
    return list_means(ranked, -np.log2(counts / counts.sum()))


def serendipity(
    ranked: Sequence[np.ndarray], relevant: Sequence[np.ndarray], expected: Sequence[np.ndarray], k: int
) -> np.ndarray:
    """Return the share (B,) of each list's first k that is relevant and unexpected; nan of an empty list or nothing relevant.

    Ge, Delgado-Battenfeld & Jannach (RecSys 2010): unexpected are videos that a primitive recommender, here the lists
    `expected` of the most popular videos, would not show.

    >>> serendipity([[0, 1], [2, 3]], [[0, 1], [2]], expected=[[0], [4]], k=2).tolist()
    [0.5, 0.5]
    """
    hits, wanted = _hits(ranked, relevant, k)
    obvious, _ = _hits(ranked, expected, k)
    lengths = np.array([min(len(row), k) for row in ranked])
    return divided((hits & ~obvious).sum(axis=1), np.where(wanted > 0, lengths, 0))


def intra_list_distance(ranked: Sequence[np.ndarray], vectors: np.ndarray) -> np.ndarray:
    """Return the mean of 1 - cosine (B,) over the pairs of each list (Ziegler et al., WWW 2005).

    Videos without a vector (a zero row of `vectors` (V, D)) are left out; nan where fewer than two have one.

    >>> intra_list_distance([[0, 1], [0, 2, 3], [0, 3]], vectors=[[1, 0], [0, 2], [1, 1], [0, 0]]).round(4).tolist()
    [1.0, 0.2929, nan]
    """
    vectors = np.asarray(vectors, np.float64)
    table = padded(ranked)
    rows = vectors[table] * (table >= 0)[..., None]
    norms = np.linalg.norm(rows, axis=2, keepdims=True)
    units = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    known, total = (norms[..., 0] > 0).sum(axis=1), units.sum(axis=1)
    return 1 - divided(np.einsum("bd,bd->b", total, total) - known, known * (known - 1))


def freshness(age_h: Sequence[np.ndarray], under_h: float) -> np.ndarray:
    """Return the share (B,) of each list's videos, `age_h` hours old (B arrays), that are younger than `under_h`.

    An unknown age (nan) is not young; nan of an empty list.

    >>> freshness([[1.0, 30.0], [float("nan")]], under_h=24.0).tolist()
    [0.5, 0.0]
    """
    return np.array([_mean(np.asarray(each) < under_h) for each in age_h])


def duplicates(ranked: Sequence[np.ndarray], fingerprints: np.ndarray) -> np.ndarray:
    """Count the slots (B,) of each list that repeat an earlier video of it, or a copy of one.

    fingerprints  (V,) int64, equal for copies, 0 none

    >>> duplicates([[0, 1, 2], [2, 2, 3]], fingerprints=[7, 7, 0, 0]).tolist()
    [1, 1]
    """
    prints = np.asarray(fingerprints, np.int64)
    content = np.where(prints != 0, len(prints) + np.unique(prints, return_inverse=True)[1], np.arange(len(prints)))
    owner, rows = _flat_lists(ranked)
    distinct = np.unique(owner * 2 * len(prints) + content[rows]) // max(2 * len(prints), 1)
    return np.bincount(owner, minlength=len(ranked)) - np.bincount(distinct, minlength=len(ranked))


MOST_DRAWS = 1 << 22  # of viewers at a time


def interval(
    differences: np.ndarray, *, seed: int, viewers: np.ndarray | None = None, resamples: int = 1000, comparisons: int = 1
) -> tuple[float, float]:
    """95% interval of the mean of (T,) paired differences: `intervals` of one column."""
    column = np.asarray(differences, np.float64)[:, None]
    low, high = intervals(column, seed=seed, viewers=viewers, resamples=resamples, comparisons=comparisons)
    return float(low[0]), float(high[0])


def intervals(
    values: np.ndarray,
    *,
    seed: int,
    viewers: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    resamples: int = 1000,
    comparisons: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """95% interval, low and high (M,), of the mean of each column of (T, M) values, by resampling viewers (bootstrap, Efron
    1979); nan for fewer than two viewers.

    `viewers` (T,) is the viewer of each row, drawn with all of their rows; None: one row per viewer. `weights` (T,) weigh the
    mean; None: all alike. A nan counts neither in sum nor in number. All columns see the same draws. With several `comparisons`
    all of their intervals hold together with 95% (Bonferroni).

    >>> [round(float(end[0]), 2) for end in intervals(np.array([[0.0], [1.0]] * 50), seed=0)]
    [0.4, 0.6]
    >>> [round(float(end[0]), 2) for end in intervals(np.array([[0.0], [1.0]] * 50), seed=0, comparisons=8)]
    [0.37, 0.64]
    """
    values = np.asarray(values, np.float64)
    _, owner = np.unique(np.arange(len(values)) if viewers is None else viewers, return_inverse=True)
    count, known = int(owner.max(initial=-1)) + 1, ~np.isnan(values)
    if count < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    weight = known * (1.0 if weights is None else np.asarray(weights, np.float64)[:, None])
    parts = (weight * np.where(known, values, 0.0), weight)
    sums, sizes = (np.stack([np.bincount(owner, column, count) for column in part.T], axis=1) for part in parts)
    random, means = np.random.default_rng(seed), []
    step = max(1, MOST_DRAWS // count)
    for first in range(0, resamples, step):
        drawn = random.integers(count, size=(min(step, resamples - first), count))
        times = np.bincount((drawn + count * np.arange(len(drawn))[:, None]).ravel(), minlength=drawn.size).reshape(drawn.shape)
        total = times @ sizes
        means.append(np.divide(times @ sums, total, out=np.full(total.shape, np.nan), where=total > 0))
    low, high = _percentiles(np.concatenate(means), tail=2.5 / comparisons)
    return low, high


def _percentiles(means: np.ndarray, *, tail: float) -> np.ndarray:
    """Return what `tail` percent of each column of `means` (resamples, M) lies below and above (2, M), nan of no number."""
    bounds = np.full((2, means.shape[1]), np.nan)
    known = np.isfinite(means).any(axis=0)
    bounds[:, known] = np.nanpercentile(means[:, known], [tail, 100 - tail], axis=0)
    return bounds


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format a text table with aligned columns: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(["", name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip() for name, *cells in rows]


def flat(nested: dict, prefix: str = "") -> dict[str, float]:
    """Flatten nested figures to one level of names such as "ranking/long_view/auc"."""
    figures = {}
    for name, value in nested.items():
        figures |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def rounded(figures: object, digits: int) -> object:
    """Round every float of nested mappings and lists for a report; further digits differ between processors.

    nan, an undefined figure, becomes None, because JSON has no nan.
    """
    if isinstance(figures, Mapping):
        return {name: rounded(value, digits) for name, value in figures.items()}
    if isinstance(figures, list):
        return [rounded(value, digits) for value in figures]
    if isinstance(figures, float):
        return None if figures != figures else round(figures, digits)
    return figures


def shown(figure: float | None, form: str) -> str:
    """Format a figure for a table, "–" if undefined: nan, or None from `rounded`.

    >>> shown(0.25, ".4f"), shown(float("nan"), ".4f"), shown(None, ".1%")
    ('0.2500', '–', '–')
    """
    return "–" if figure is None or figure != figure else format(figure, form)

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


def _area_per_group(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUC and number of positives of every group with both labels."""
    labels, scores, groups = _columns({"labels": labels, "scores": _sunk(scores), "groups": groups})
    if not len(labels):
        return np.empty(0), np.empty(0)
    positive, (_, groups) = labels > 0, np.unique(groups, return_inverse=True)
    positives = np.bincount(groups, weights=positive)
    negatives = np.bincount(groups) - positives
    rank_sums = np.bincount(groups, weights=_averaged_ranks(groups, scores) * positive)
    both = (positives > 0) & (negatives > 0)
    positives, negatives, rank_sums = positives[both], negatives[both], rank_sums[both]
    return (rank_sums - positives * (positives + 1) / 2) / (positives * negatives), positives


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Probability that a positive outscores a negative, a tie counting half (Mann-Whitney U; Hanley & McNeil 1982).

    nan if a label is absent.

    >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    areas, _ = _area_per_group(labels, scores, np.zeros(len(labels), dtype=np.int64))
    return _mean(areas)


def gauc(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> float:
    """AUC inside each viewer, averaged with the viewer's positives as weight (Zhu et al., KDD 2017, who weight by impressions).

    Viewers with one label only are left out; nan if none is left.

    >>> gauc([1, 0, 1, 0, 1], [2.0, 1.0, 5.0, 9.0, 9.0], ["a", "a", "b", "b", "b"])
    0.5
    """
    areas, positives = _area_per_group(labels, scores, groups)
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
            "gauc": _area_per_group(labels, scores, groups)[0],
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
    labels, probabilities = _columns({"labels": labels, "probabilities": _probabilities(probabilities)})
    clipped = np.clip(probabilities, 1e-15, 1 - 1e-15)
    return _mean(-np.log(np.where(labels > 0, clipped, 1 - clipped)))


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

    ranked    (B, N) row numbers best first, padded with -1, or B arrays of any length; a repeated row counts once
    relevant  B arrays of row numbers; the denominator is their distinct number, even above k

    >>> recall_at([[3, 1, 2], [5, 6, -1]], [[1, 9], [6]], k=2)
    0.75
    """
    if len(ranked) != len(relevant):
        raise ValueError(f"recall needs as many rankings as relevant sets, got {len(ranked)} and {len(relevant)}")
    (top, wanted), width = _keys([np.asarray(row)[:k] for row in ranked], relevant)
    if not len(wanted):
        return float("nan")
    hits = np.isin(wanted, top, assume_unique=True)
    viewers = wanted // width
    counts = np.bincount(viewers)
    return _mean(np.bincount(viewers, weights=hits)[counts > 0] / counts[counts > 0])


def _keys(*lists: Sequence[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Return for each of `lists` (B arrays of rows) the sorted distinct keys viewer * width + row, and the width; padding is
    dropped."""
    rows = [np.concatenate([np.zeros(0, np.int64), *(np.asarray(row, np.int64) for row in each)]) for each in lists]
    viewers = [np.repeat(np.arange(len(each)), [len(row) for row in each]) for each in lists]
    width = 1 + max((int(row.max(initial=0)) for row in rows), default=0)
    return [np.unique((viewer * width + row)[row >= 0]) for viewer, row in zip(viewers, rows, strict=True)], width


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


def interval(
    differences: np.ndarray, *, seed: int, viewers: np.ndarray | None = None, resamples: int = 1000
) -> tuple[float, float]:
    """95% interval of the mean of (T,) paired differences, by resampling viewers (bootstrap, Efron 1979); nan for fewer than
    two viewers.

    `viewers` (T,) is the viewer of each difference, drawn with all of their differences. None: one difference per viewer.
    """
    differences = np.asarray(differences, np.float64)
    _, owner = np.unique(np.arange(len(differences)) if viewers is None else viewers, return_inverse=True)
    if owner.max(initial=0) < 1:
        return float("nan"), float("nan")
    sums, sizes = np.bincount(owner, differences), np.bincount(owner)
    random, count = np.random.default_rng(seed), len(sizes)
    drawn = (random.integers(count, size=count) for _ in range(resamples))
    low, high = np.percentile([sums[rows].sum() / sizes[rows].sum() for rows in drawn], [2.5, 97.5])
    return float(low), float(high)


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

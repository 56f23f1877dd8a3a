"""Means by viewer, and the test whether two windows have the same.

Rows of one viewer are alike. A viewer of many rows weighs at most as much as ten of one row, and the variance of a mean is
estimated from the sums of whole viewers (the linearised variance of a cluster sample, Cochran, Sampling Techniques, 1977). Two
windows are compared by Rao and Scott's second-order correction of the chi-square test for such samples (Annals of Statistics
1984), as an F test with the degrees of freedom of the viewers (Thomas and Rao, JASA 1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import betainc, fdtrc

LEAST_SEEN = 10  # viewers with a bin, in both windows together; a bin of fewer is not tested alone
# Correlation of the rows of a viewer that weights are best for: n rows weigh n / (1 + LIKE (n - 1)), at most 1 / LIKE rows.
LIKE = 0.1


@dataclass(frozen=True)
class Moments:
    """The mean (m,) of a vector over rows with its covariance (m, m), and the effective number of viewers behind it.

    seen (m,)  viewers with a value other than 0 in each place
    """

    mean: np.ndarray
    covariance: np.ndarray
    seen: np.ndarray
    rows: int
    viewers: float

    @classmethod
    def of_sums(cls, sums: np.ndarray, rows: np.ndarray) -> "Moments":
        """Take sums (V, m) over the rows of each viewer, and their numbers (V,)."""
        sums, rows = sums[rows > 0], rows[rows > 0]
        count, viewers = int(rows.sum()), len(rows)
        if viewers < 2:
            empty = np.full(sums.shape[1], np.nan)
            return cls(empty, np.diag(empty), np.zeros(sums.shape[1]), count, float(viewers))
        factor = damped(rows)
        sums, weights = sums * factor[:, None], rows * factor
        total = weights.sum()
        mean = sums.sum(0) / total
        apart = sums - weights[:, None] * mean
        covariance = apart.T @ apart / total**2 * viewers / (viewers - 1)
        return cls(mean, covariance, (sums != 0).sum(0).astype(np.float64), count, float(total**2 / (weights @ weights)))

    @classmethod
    def of_codes(cls, codes: np.ndarray, viewers: np.ndarray, size: int) -> "Moments":
        """Take bins (N,) of rows and the viewer (N,) of each: the mean is the share of every bin."""
        count = int(viewers.max(initial=-1)) + 1
        sums = np.bincount(viewers * size + codes, minlength=count * size).reshape(count, size)
        return cls.of_sums(sums.astype(np.float64), sums.sum(1))

    def merged(self, groups: np.ndarray) -> "Moments":
        """Add places of the same group; `groups` (m,) has numbers from 0 without gaps."""
        onto = (np.arange(groups.max(initial=-1) + 1)[:, None] == groups).astype(np.float64)
        return Moments(onto @ self.mean, onto @ self.covariance @ onto.T, onto @ self.seen, self.rows, self.viewers)


def damped(rows: np.ndarray) -> np.ndarray:
    """Return the weight (V,) of each row of viewers with so many rows (V,)."""
    return 1 / (1 + LIKE * (np.maximum(rows, 1) - 1))


def p_value(difference: np.ndarray, scale: np.ndarray, first: Moments, second: Moments) -> float:
    """Return the probability of a difference (m,) of means this large without drift, summed in units of `scale` (m,)."""
    kept = scale > 0
    root = np.sqrt(scale[kept])
    parts = [each.covariance[np.ix_(kept, kept)] / np.outer(root, root) for each in (first, second)]
    total = parts[0] + parts[1]
    trace, square = np.trace(total), float((total * total).sum())
    if not trace > 0:  # nothing varies: equal or surely not
        return float(not np.any(np.abs(difference) > 1e-12)) if len(difference) else 1.0
    freedom = trace**2 / sum(
        np.trace(part) ** 2 / max(each.viewers - 1, 1) for part, each in zip(parts, (first, second), strict=True)
    )
    statistic = float(((difference[kept] / root) ** 2).sum())
    return float(fdtrc(trace**2 / square, freedom, statistic / trace))


def p_of_shares(reference: Moments, current: Moments, *, ordered: bool, odd: Sequence[int]) -> float:
    """Compare shares of bins: any change; more viewers with one of the `odd` bins, of which few need to be seen; and for
    ordered bins a shift up or down, which a sum over bins would hide."""
    pooled = (reference.mean * reference.viewers + current.mean * current.viewers) / (reference.viewers + current.viewers)
    values = [_p_of_bins(reference, current, pooled), len(odd) * min(_p_of_seen(reference, current, each) for each in odd)]
    if ordered:
        middle = np.cumsum(pooled) - pooled / 2
        shift = np.array([middle @ (current.mean - reference.mean)])
        both = [replace(each, covariance=np.array([[middle @ each.covariance @ middle]])) for each in (reference, current)]
        values.append(p_value(shift, np.ones(1), *both))
    return min(1.0, len(values) * min(values))


def _p_of_seen(reference: Moments, current: Moments, at: int) -> float:
    """Return the probability that so many of the viewers with a bin are in the current window, which has a part of all."""
    parts = current.viewers / (current.viewers + reference.viewers), current.rows / (current.rows + reference.rows)
    before, now = reference.seen[at], current.seen[at]
    return float(betainc(now, before + 1, max(parts))) if now else 1.0  # the upper tail of a binomial distribution


def _p_of_bins(reference: Moments, current: Moments, pooled: np.ndarray) -> float:
    rare = reference.seen + current.seen < LEAST_SEEN
    groups = np.unique(np.where(rare, -1, np.arange(len(rare))), return_inverse=True)[1]
    first, second = reference.merged(groups), current.merged(groups)
    return p_value(second.mean - first.mean, np.bincount(groups, pooled), first, second)


def p_of_means(reference: Moments, current: Moments) -> float:
    """Compare means place by place, each in units of its own error."""
    scale = np.diag(reference.covariance) + np.diag(current.covariance)
    return p_value(current.mean - reference.mean, scale, reference, current)


def stability(reference: Moments, current: Moments) -> float:
    """Return the population stability index of shares: .1 is usually called a moderate change, .25 a large one."""
    before, now = (np.maximum(each.mean, 1e-4) for each in (reference, current))
    return float(((now - before) * np.log(now / before)).sum())

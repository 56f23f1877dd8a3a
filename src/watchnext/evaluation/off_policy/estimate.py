"""A value with its interval over viewers, its effective sample size, and a warning where the overlap is thin."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from watchnext.evaluation.off_policy.slate_log import SlateLog

QUANTILE = NormalDist().inv_cdf(0.975)  # of 95% intervals
THIN = 100  # effective requests; below it, intervals of weighted means cover less than they claim
SUPPORT = 1.5  # times the half-width of their interval by which weights may miss their mean of 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One estimator's answer: `value`, the `half` width of its 95% interval, and the `effective` number of requests.

    mean_weight   over all positions; 1 is expected, and less says that the log lacks a part of what the policy shows
    warning       empty where the overlap is enough
    """

    name: str
    level: str
    value: float
    half: float
    effective: float
    mean_weight: float
    warning: str

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half


def estimated(name: str, level: str, log: SlateLog, weights: np.ndarray, contributions: np.ndarray) -> Estimate:
    """Summarise contributions (R,) by their mean and its interval, and weights (R, K) by what they are worth."""
    value, half = interval_of(log, contributions)
    effective, mean_weight = effective_requests(log, weights), interval_of(log, _weight_contributions(log, weights))
    return Estimate(
        name=name,
        level=level,
        value=value,
        half=half,
        effective=effective,
        mean_weight=mean_weight[0],
        warning=_overlap_warning(len(log), effective, *mean_weight),
    )


def interval_of(log: SlateLog, contributions: np.ndarray) -> tuple[float, float]:
    """Return the mean of contributions (R,), and the half-width of its 95% interval over viewers.

    The variance is clustered by viewer (Liang & Zeger 1986). Few viewers, or few who carry the variance, count by the degrees
    of freedom of that variance (Satterthwaite 1946). Student's quantile is its expansion (Abramowitz & Stegun 26.7.5), within
    1% from 5 degrees of freedom on.
    """
    value = float(contributions.mean())
    squares = np.bincount(log.viewer, contributions - value) ** 2
    viewers, total = len(squares), float(squares.sum())
    if not total > 0:  # nan included
        return value, total
    freedom = 2 * total**2 / (float(squares @ squares) - total**2 / viewers) if squares.std() else math.inf
    z, freedom = QUANTILE, min(freedom, viewers - 1)
    student = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return value, student * math.sqrt(viewers / (viewers - 1) * total) / len(log)


def effective_requests(log: SlateLog, weights: np.ndarray) -> float:
    """Return Kish's effective sample size, (sum w)^2 / sum w^2, as a number of requests, of the worst position that at least
    half of the slates have."""
    number, squares = log.shown.sum(axis=0), (weights**2).sum(axis=0)
    shares = np.divide(weights.sum(axis=0) ** 2, squares * number, out=np.zeros(len(number)), where=squares > 0)
    return float(len(log) * shares[2 * number >= len(log)].min())


def _weight_contributions(log: SlateLog, weights: np.ndarray) -> np.ndarray:
    """Return contributions (R,) whose mean is the mean weight of all shown videos."""
    return weights.sum(axis=1) / log.shown.sum() * len(log)


def _overlap_warning(requests: int, effective: float, mean_weight: float, half: float) -> str:
    """Say why the overlap of log and policy is too thin to trust the weights; empty where it is not."""
    if effective < THIN:
        return f"thin overlap: worth {effective:,.0f} of {requests:,} requests, expected {THIN} or more"
    if abs(mean_weight - 1.0) > max(SUPPORT * half, 0.05):
        return f"weights average {mean_weight:.2f}, expected 1: the log lacks what the policy shows, or propensities are wrong"
    return ""

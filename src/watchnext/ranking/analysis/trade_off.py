"""Trade-off curve between two heads' metrics as weight moves from one head to the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from watchnext.metrics import shown, worth_of_ranks


@dataclass(frozen=True)
class Point:
    """One point of the curve: `share` of the joint weight on the first head, all `weights`, both `metrics`. An `efficient`
    point is dominated by no other (at least as good in both, better in one)."""

    share: float
    weights: Mapping[str, float]
    metrics: Mapping[str, float]
    efficient: bool


def mean_of_top(outcomes: np.ndarray, values: np.ndarray, groups: np.ndarray, *, k: int) -> float:
    """Average the outcome (N,) of the k rows of highest value (N,) in every group (N,), in expectation over the order of ties.
    Smaller groups count whole; non-finite values sink. nan without rows."""
    if not len(values):
        return float("nan")
    _, which = np.unique(groups, return_inverse=True)
    among = worth_of_ranks(np.where(np.isfinite(values), values, -np.inf), which, lambda ranks: ranks < k)
    return float(np.average(np.asarray(outcomes, np.float64), weights=among))


def weightings(weights: Mapping[str, float], *, first: str, second: str, steps: int) -> list[tuple[float, dict[str, float]]]:
    """Return (share, weights) from all weight on `second` to all on `first`; the sum and all other weights stay."""
    if steps < 2 or first == second:
        raise ValueError(f"a trade-off needs two heads and 2 steps, got {first!r}, {second!r} and {steps}")
    total = weights.get(first, 0.0) + weights.get(second, 0.0)
    if not total > 0:
        raise ValueError(f"the weights of {first!r} and {second!r} sum to {total:g}, expected more than 0; see reranking.value")
    shares = np.linspace(0.0, 1.0, steps)
    return [(float(s), {**weights, first: float(s * total), second: float((1 - s) * total)}) for s in shares]


def trade_off(
    value: Callable[[Mapping[str, float]], np.ndarray],
    *,
    weights: Mapping[str, float],
    first: str,
    second: str,
    metrics: Mapping[str, Callable[[np.ndarray], float]],
    steps: int = 11,
) -> list[Point]:
    """Compute the curve from all weight on `second` to all on `first`.

    value    weights > value of every row (N,), for instance `lambda w: replace(reranker.value, weights=w).of(predictions)`
    metrics  two names > metric of the values, higher is better; see `mean_of_top`
    """
    if len(metrics) != 2:
        raise ValueError(f"a trade-off is between two metrics, got {', '.join(metrics) or 'none'}")
    measured_points = []
    for share, moved in weightings(weights, first=first, second=second, steps=steps):
        values = value(moved)
        measured_points.append((share, moved, {name: metric(values) for name, metric in metrics.items()}))
    figures = np.array([list(measured.values()) for _, _, measured in measured_points])
    return [Point(*point, bool(good)) for point, good in zip(measured_points, efficient(figures), strict=True)]


def efficient(figures: np.ndarray) -> np.ndarray:
    """Mark rows (P,) of `figures` (P, 2) that no other row dominates; rows with nan are never efficient."""
    as_good = (figures[None] >= figures[:, None]).all(-1)
    better = (figures[None] > figures[:, None]).any(-1)
    return ~(as_good & better).any(1) & ~np.isnan(figures).any(1)


def markdown(points: list[Point]) -> str:
    """Render one table row per point and mark efficient points."""
    names = list(points[0].metrics)
    lines = [f"| share | {' | '.join(names)} | |", "| ---: |" + " ---: |" * len(names) + " --- |"]
    for point in points:
        cells = " | ".join(shown(point.metrics[name], ".4f") for name in names)
        lines.append(f"| {point.share:.2f} | {cells} | {'efficient' if point.efficient else ''} |")
    return "\n".join(lines)

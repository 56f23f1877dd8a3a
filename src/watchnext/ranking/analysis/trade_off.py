"""What one head's metric costs in another's, as the weights of the value move between them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from watchnext.metrics import shown, worth_of_ranks


@dataclass(frozen=True)
class Point:
    """`share` of the two heads' weight that the first has, all `weights`, both `metrics`, and whether the point is `efficient`:
    no other is at least as good in both and better in one."""

    share: float
    weights: Mapping[str, float]
    metrics: Mapping[str, float]
    efficient: bool


def mean_of_top(outcomes: np.ndarray, values: np.ndarray, groups: np.ndarray, *, k: int) -> float:
    """Mean outcome (N,) of the k rows of highest value (N,) in every group (N,), or of all in a smaller one, as expected over
    the orders of ties; a value that is not finite sinks. nan without rows."""
    if not len(values):
        return float("nan")
    _, which = np.unique(groups, return_inverse=True)
    among = worth_of_ranks(np.where(np.isfinite(values), values, -np.inf), which, lambda ranks: ranks < k)
    return float(np.average(np.asarray(outcomes, np.float64), weights=among))


def weightings(weights: Mapping[str, float], *, first: str, second: str, steps: int) -> list[tuple[float, dict[str, float]]]:
    """(share, weights) from all to `second` to all to `first`; their sum and all other weights stay."""
    if steps < 2 or first == second:
        raise ValueError(f"a trade-off needs two heads and 2 steps, got {first!r}, {second!r} and {steps}")
    total = weights.get(first, 0.0) + weights.get(second, 0.0)
    if not total > 0:
        raise ValueError(f"{first!r} and {second!r} weigh {total:g} together, expected more than 0; see conf/reranking")
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
    """The curve, from all weight on `second` to all on `first`.

    value    weights > the value of every row (N,), for instance `lambda w: replace(reranker.value, weights=w).of(predictions)`
    metrics  two names > metric of such values, more being better; see `mean_of_top`
    """
    if len(metrics) != 2:
        raise ValueError(f"a trade-off is between two metrics, got {', '.join(metrics) or 'none'}")
    found = []
    for share, moved in weightings(weights, first=first, second=second, steps=steps):
        values = value(moved)
        found.append((share, moved, {name: metric(values) for name, metric in metrics.items()}))
    figures = np.array([list(measured.values()) for _, _, measured in found])
    return [Point(*point, bool(good)) for point, good in zip(found, efficient(figures), strict=True)]


def efficient(figures: np.ndarray) -> np.ndarray:
    """(P,) whether no row of `figures` (P, 2) is at least as good in both and better in one; nan never is."""
    as_good = (figures[None] >= figures[:, None]).all(-1)
    better = (figures[None] > figures[:, None]).any(-1)
    return ~(as_good & better).any(1) & ~np.isnan(figures).any(1)


def markdown(points: list[Point]) -> str:
    """One line a point; an efficient one has a mark."""
    names = list(points[0].metrics)
    lines = [f"| share | {' | '.join(names)} | |", "| ---: |" + " ---: |" * len(names) + " --- |"]
    for point in points:
        cells = " | ".join(shown(point.metrics[name], ".4f") for name in names)
        lines.append(f"| {point.share:.2f} | {cells} | {'efficient' if point.efficient else ''} |")
    return "\n".join(lines)

"""Logits > expected seconds, written once for numpy and torch: what is trained, exported and served is one formula.

Everywhere: `arrays` are the fitted ones of a head, `logits` (N, L), `duration_s` (N,) with 0 where it is unknown; seconds (N,).
G duration groups, and before them, as row 0 of every table, that of unknown durations. No torch here: serving may import it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any  # np.ndarray or torch.Tensor; only operators and methods that both have
LOG_SECONDS = 12.0  # log1p of 45 hours: no prediction is longer
STEEPEST = 30.0  # float32 overflows at e^88; sigmoid(30) is 1 already


def exp(x: Array) -> Array:
    return np.exp(x) if isinstance(x, np.ndarray) else x.exp()


def expm1(x: Array) -> Array:
    return np.expm1(x) if isinstance(x, np.ndarray) else x.expm1()


def log(x: Array) -> Array:
    return np.log(x) if isinstance(x, np.ndarray) else x.log()


def log_sigmoid(x: Array) -> Array:
    return -log(1.0 + exp(-x.clip(-STEEPEST, STEEPEST)))


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + exp(-x.clip(-STEEPEST, STEEPEST)))


def softmax(x: Array) -> Array:
    weights = exp(x.clip(-STEEPEST, STEEPEST))
    return weights / weights.sum(-1)[..., None]


def group_of(duration_s: Array, edges: Array) -> Array:
    """(N,) duration group: the number of `edges` (G,) at or below the duration. The first edge is just above 0, so that group 0
    is that of unknown durations."""
    return (duration_s[:, None] >= edges).sum(-1)


def from_log(x: Array) -> Array:
    """log1p of seconds > seconds, of what is below 0 or too long the nearest."""
    return expm1(x.clip(0.0, LOG_SECONDS))


def log_seconds(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """One logit, log1p of the seconds. Of a wide distribution this is nearer the median than the mean."""
    return from_log(logits[:, 0])


def weighted_odds(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """One logit, the log odds of a row weighted by its seconds in units of `scale` (1,)."""
    return arrays["scale"] * exp(logits[:, 0].clip(-STEEPEST, LOG_SECONDS))


def duration_quantile(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """One logit, the quantile among watches of videos as long; `knots` (1 + G, Q) are the seconds at quantiles, `steps` (Q,)
    count from 0. Linear between knots, by hat functions, as a search would not export."""
    knots = arrays["knots"][group_of(duration_s, arrays["edges"])]
    place = sigmoid(logits[:, 0]) * (arrays["steps"].shape[0] - 1)
    return (knots * (1.0 - abs(place[:, None] - arrays["steps"])).clip(0.0, 1.0)).sum(-1)


def ordinal(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """A logit a threshold, that the watch goes beyond it; `widths` (1 + G, L) are the seconds that each is worth."""
    return (sigmoid(logits) * arrays["widths"][group_of(duration_s, arrays["edges"])]).sum(-1)


def log_leaves(arrays: Mapping[str, Array], logits: Array) -> Array:
    """(N, leaves) log probability of a tree's leaves: `right` and `left` (L, leaves) are 1 where the path to it turns so."""
    right = log_sigmoid(logits)  # to the left it is less by the logit, which saves every other logarithm
    return right @ (arrays["right"] + arrays["left"]) - logits.clip(-STEEPEST, STEEPEST) @ arrays["left"]


def tree(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """A logit an inner node of a binary tree; `means` (1 + G, leaves) are the seconds of the leaves."""
    return (exp(log_leaves(arrays, logits)) * arrays["means"][group_of(duration_s, arrays["edges"])]).sum(-1)


def longest(arrays: Mapping[str, Array], duration_s: Array, group: Array) -> Array:
    """(N,) upper end of a mixture's support: a multiple of the duration, or seconds where it is unknown."""
    return arrays["cap"][group] * (duration_s * (group > 0) + (group == 0) * 1.0)


def components(arrays: Mapping[str, Array], logits: Array, group: Array) -> tuple[Array, Array, Array, Array]:
    """Logit of watch 0 (N,), and of each logit-normal component weight logits, location and scale (N, K). The fitted arrays
    are where an untrained network starts."""
    parts = arrays["centre"].shape[1]
    weights, offset, width = (logits[:, 1 + parts * i : 1 + parts * (i + 1)] for i in range(3))
    location = arrays["centre"][group] + arrays["spread"][group][:, None] * offset
    scale = arrays["spread"][group][:, None] * exp(width.clip(-3.0, 1.5))
    return logits[:, 0] + arrays["zero"][group], weights, location, scale


def mixture(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Mean of a point mass at 0 and K logit-normals on (0, longest), by Gauss-Hermite quadrature: `nodes`, `masses`."""
    group = group_of(duration_s, arrays["edges"])
    zero, weights, location, scale = components(arrays, logits, group)
    part = (sigmoid(location[:, :, None] + scale[:, :, None] * arrays["nodes"]) * arrays["masses"]).sum(-1)
    return sigmoid(-zero) * longest(arrays, duration_s, group) * (softmax(weights) * part).sum(-1)


SECONDS: dict[str, Callable[[Mapping[str, Array], Array, Array], Array]] = {
    "log_seconds": log_seconds,
    "weighted_odds": weighted_odds,
    "duration_quantile": duration_quantile,
    "ordinal": ordinal,
    "tree": tree,
    "mixture": mixture,
}


def seconds(kind: str, arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Expected seconds of the head `kind`. Raises ValueError for an unknown one."""
    if kind not in SECONDS:
        raise ValueError(f"watch-time head {kind!r} is unknown, expected one of {', '.join(SECONDS)}")
    return SECONDS[kind](arrays, logits, duration_s)

"""Expected seconds from logits: one formula in numpy and torch for training, export and serving.

In all functions, `arrays` are the fitted arrays of a head, `logits` (N, L), `duration_s` (N,) with 0 for unknown; seconds (N,).
Tables have 1 + G rows: row 0 for unknown durations, then G duration groups. No torch import, so that serving can use it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any  # np.ndarray or torch.Tensor; only operators and methods that both have
LOG_SECONDS = 12.0  # log1p of 45 hours, the longest prediction
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
    """Return the duration group (N,): the number of `edges` (G,) at or below the duration. The first edge is just above 0, so
    group 0 is for unknown durations."""
    return (duration_s[:, None] >= edges).sum(-1)


def from_log(x: Array) -> Array:
    """Convert log1p seconds to seconds, clamped to [0, LOG_SECONDS]."""
    return expm1(x.clip(0.0, LOG_SECONDS))


def log_seconds(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Read one logit as log1p seconds. For wide distributions this is nearer the median than the mean."""
    return from_log(logits[:, 0])


def weighted_odds(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Read one logit as the log odds of a row weighted by its seconds, in units of `scale` (1,)."""
    return arrays["scale"] * exp(logits[:, 0].clip(-STEEPEST, LOG_SECONDS))


def duration_quantile(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Read one logit as the quantile within the duration group. `knots` (1 + G, Q) are seconds at quantiles, `steps` (Q,) count
    from 0. Interpolates by hat functions, because a search cannot be exported."""
    knots = arrays["knots"][group_of(duration_s, arrays["edges"])]
    position = sigmoid(logits[:, 0]) * (arrays["steps"].shape[0] - 1)
    return (knots * (1.0 - abs(position[:, None] - arrays["steps"])).clip(0.0, 1.0)).sum(-1)


def ordinal(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Read one logit per threshold as the probability of a longer watch; `widths` (1 + G, L) are the seconds of each."""
    return (sigmoid(logits) * arrays["widths"][group_of(duration_s, arrays["edges"])]).sum(-1)


def log_leaves(arrays: Mapping[str, Array], logits: Array) -> Array:
    """Compute the log probability of tree leaves (N, leaves); `right` and `left` (L, leaves) mark the turns of each path."""
    right = log_sigmoid(logits)  # log_sigmoid(-x) = log_sigmoid(x) - x saves half of the logarithms
    return right @ (arrays["right"] + arrays["left"]) - logits.clip(-STEEPEST, STEEPEST) @ arrays["left"]


def tree(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Read one logit per inner node of a binary tree; `means` (1 + G, leaves) are the seconds of the leaves."""
    return (exp(log_leaves(arrays, logits)) * arrays["means"][group_of(duration_s, arrays["edges"])]).sum(-1)


def longest(arrays: Mapping[str, Array], duration_s: Array, group: Array) -> Array:
    """Return the upper end of the mixture's support (N,): a multiple of the duration, or seconds if it is unknown."""
    return arrays["cap"][group] * (duration_s * (group > 0) + (group == 0) * 1.0)


def components(arrays: Mapping[str, Array], logits: Array, group: Array) -> tuple[Array, Array, Array, Array]:
    """Return the logit of watch 0 (N,), and weight logits, location and scale (N, K) of the logit-normal components. The fitted
    arrays initialise an untrained network."""
    parts = arrays["centre"].shape[1]
    weights, offset, width = (logits[:, 1 + parts * i : 1 + parts * (i + 1)] for i in range(3))
    location = arrays["centre"][group] + arrays["spread"][group][:, None] * offset
    scale = arrays["spread"][group][:, None] * exp(width.clip(-3.0, 1.5))
    return logits[:, 0] + arrays["zero"][group], weights, location, scale


def mixture(arrays: Mapping[str, Array], logits: Array, duration_s: Array) -> Array:
    """Compute the mean of a point mass at 0 and K logit-normals on (0, longest) by Gauss-Hermite quadrature."""
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
    """Compute the expected seconds of the head `kind`. Raises ValueError for an unknown kind."""
    if kind not in SECONDS:
        raise ValueError(f"watch-time head {kind!r} is unknown, expected one of {', '.join(SECONDS)}")
    return SECONDS[kind](arrays, logits, duration_s)

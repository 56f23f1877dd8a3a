"""Value candidates: what an impression is worth, and how likely it is to be watched; and validate re-ranking settings."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from watchnext.types import SOURCES, TARGETS, Scored

MERGE = "merge"


class RerankingError(ValueError):
    """Invalid re-ranking setting or input; the message names the value and the expected one."""


def require_known(owner: str, given: Iterable, choices: Iterable[str]) -> None:
    """Raise RerankingError for an unknown name, with the closest match and all choices."""
    choices = tuple(choices)
    for name in given:
        if name not in choices:
            near = difflib.get_close_matches(str(name), choices, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RerankingError(f"{owner} has the unknown key {name!r}.{hint} Known keys: {', '.join(choices)}")


def require_number(setting: str, value: float, *, low: float, high: float = math.inf) -> None:
    """Raise RerankingError unless `value` is a finite number in [low, high]."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        wanted = f"a number from {low} to {high}" if math.isfinite(high) else f"a finite number of at least {low}"
        raise RerankingError(f"{setting} is {value!r}, expected {wanted}")


@dataclass(frozen=True, kw_only=True)
class Value:
    """Weighted sum over TARGETS: probabilities, and watch time as s / (s + watch_half_s), so that all lie in [0, 1].

    weights        target > weight; a target without a weight (or with 0) is not read
    watch_half_s   predicted seconds worth half of the `watch_s` weight; saturation limits the value of long videos
    engage         power of `Scored.engage` by which the sum is multiplied, as a weighted geometric mean of both; 0 is the
                   value of an impression alone
    continuation   chance that a viewer goes on from a slot to the next: the value of a slot counts by the chance to get there.
                   None is that of the log, which `select` fills in; without it, as 1
    source         order candidates by the list of this source instead, and the others after them in the order of the merge;
                   "merge" is that order alone
    """

    weights: Mapping[str, float]
    watch_half_s: float = 30.0
    engage: float = 0.0
    continuation: float | None = 1.0
    source: str | None = None

    def __post_init__(self) -> None:
        require_known("value.weights", self.weights, TARGETS)
        for target, weight in self.weights.items():
            require_number(f"value.weights.{target}", weight, low=-1e6, high=1e6)
        if not any(self.weights.values()):
            raise RerankingError(
                f"value.weights is {dict(self.weights)}, expected a weight other than 0 for one of {', '.join(TARGETS)}"
            )
        require_number("value.watch_half_s", self.watch_half_s, low=1e-3)
        require_number("value.engage", self.engage, low=0, high=100)
        if self.continuation is not None:
            require_number("value.continuation", self.continuation, low=0, high=1)
        if self.source is not None:
            require_known("value.source", [self.source], (*SOURCES, MERGE))
        object.__setattr__(self, "weights", dict(self.weights))

    @property
    def goes_on(self) -> float:
        """The chance to go on to the next slot."""
        return 1.0 if self.continuation is None else self.continuation

    def order(self, scored: Scored) -> np.ndarray:
        """Compute the values (C,) float64 that order candidates; -inf as in `of`."""
        if self.source is not None:
            merged = 1.0 - np.arange(len(scored)) / 2**16
            ranks = 0 if self.source == MERGE else scored.candidates.ranks[:, SOURCES.index(self.source)]
            return np.where(ranks > 0, 2.0 - ranks / 2**16, merged)
        values = self.of(scored.predictions)
        if not self.engage or scored.engage is None:
            return values
        # The root changes no order, but keeps the spread of values that diversity weighs against similarity.
        root, factor = np.abs(values) ** (1 / (1 + self.engage)), scored.engage ** (self.engage / (1 + self.engage))
        return np.copysign(root * factor, values)

    def of(self, predictions: np.ndarray) -> np.ndarray:
        """Compute values (C,) float64 of predictions (C, T). A non-finite weighted prediction gives -inf: the candidate sinks
        but is kept."""
        if predictions.ndim != 2 or predictions.shape[1] != len(TARGETS):
            raise RerankingError(
                f"predictions have shape {predictions.shape}, expected (C, {len(TARGETS)}): {', '.join(TARGETS)}"
            )
        targets = [name for name in TARGETS if self.weights.get(name)]  # fixed order: the sum is bit-stable
        columns = predictions.T[[TARGETS.index(name) for name in targets]].astype(np.float64)
        finite = np.isfinite(columns).all(axis=0)
        values = np.zeros(len(predictions))
        for target, column in zip(targets, columns if finite.all() else np.where(finite, columns, 0.0), strict=True):
            values += self.weights[target] * (self._saturated(column) if target == "watch_s" else column)
        return np.where(finite, values, -np.inf)

    def _saturated(self, seconds: np.ndarray) -> np.ndarray:
        seconds = np.maximum(seconds, 0.0)  # a regression head may predict negative seconds
        return seconds / (seconds + self.watch_half_s)

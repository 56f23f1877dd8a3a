"""The heads' predictions > one value a candidate, and how this stage refuses a wrong setting."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from watchnext.types import TARGETS


class RerankingError(ValueError):
    """A re-ranking setting or input that cannot be obeyed; the message names the value and what was expected."""


def require_known(owner: str, given: Iterable, choices: Iterable[str]) -> None:
    """Refuse a misspelt name, with the nearest right one and all choices."""
    choices = tuple(choices)
    for name in given:
        if name not in choices:
            near = difflib.get_close_matches(str(name), choices, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RerankingError(f"{owner} has the unknown key {name!r}.{hint} Known keys: {', '.join(choices)}")


def require_number(what: str, value: float, *, low: float, high: float = math.inf) -> None:
    """Refuse what is not a finite number in [low, high]."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        wanted = f"a number from {low} to {high}" if math.isfinite(high) else f"a finite number of at least {low}"
        raise RerankingError(f"{what} is {value!r}, expected {wanted}")


@dataclass(frozen=True, kw_only=True)
class Value:
    """Weighted sum over TARGETS: probabilities as they are, watch time as s / (s + watch_half_s), so that all lie in [0, 1].

    weights        target > weight; a target without one (or with 0) is not read
    watch_half_s   predicted seconds worth half of the `watch_s` weight; as it saturates, a long video cannot buy a place
    """

    weights: Mapping[str, float]
    watch_half_s: float = 30.0

    def __post_init__(self) -> None:
        require_known("value.weights", self.weights, TARGETS)
        for target, weight in self.weights.items():
            require_number(f"value.weights.{target}", weight, low=-1e6, high=1e6)
        if not any(self.weights.values()):
            raise RerankingError(
                f"value.weights is {dict(self.weights)}, expected a weight other than 0 for one of {', '.join(TARGETS)}"
            )
        require_number("value.watch_half_s", self.watch_half_s, low=1e-3)
        object.__setattr__(self, "weights", dict(self.weights))

    def of(self, predictions: np.ndarray) -> np.ndarray:
        """(C, T) > (C,) float64; a non-finite prediction under a weight makes -inf: the candidate sinks, it is not lost."""
        if predictions.ndim != 2 or predictions.shape[1] != len(TARGETS):
            raise RerankingError(
                f"predictions have the shape {predictions.shape}, expected (C, {len(TARGETS)}): {', '.join(TARGETS)}"
            )
        values = np.zeros(len(predictions))
        finite = np.ones(len(predictions), bool)
        for target in (name for name in TARGETS if self.weights.get(name)):  # one fixed order: the sum keeps its bits
            column = predictions[:, TARGETS.index(target)].astype(np.float64)
            finite &= np.isfinite(column)
            column = np.where(np.isfinite(column), column, 0.0)
            values += self.weights[target] * (self._saturated(column) if target == "watch_s" else column)
        return np.where(finite, values, -np.inf)

    def _saturated(self, seconds: np.ndarray) -> np.ndarray:
        seconds = np.maximum(seconds, 0.0)  # a regression head may answer below zero
        return seconds / (seconds + self.watch_half_s)

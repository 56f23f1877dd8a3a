"""What a viewer does with a video that appeals this much: exact probabilities, and draws from them.

The watch ratio is `REPLAYS * L`, L logit-logistic around the appeal: its distribution and its mean have closed forms, so the
truth is exact. A long view is a watch of at least 18 s, or of the whole video where that is shorter; it is always a click.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from watchnext.data.tables import OUTCOMES

REPLAYS = 3.0  # a watch never exceeds this multiple of the duration
LONG_VIEW_S = 18.0
# Given a long view, the log odds of each further outcome: at appeal 0, and what one unit of appeal adds.
AFTER_LONG_VIEW = {"like": (-3.0, 0.5), "share": (-4.7, 0.5), "follow": (-4.8, 0.7), "comment": (-4.4, 0.3)}
POSITION_BIAS = {"home": 0.05, "discover": 0.12}  # a position p is looked at with probability (p + 1) ** -bias


@dataclass(frozen=True)
class Truth:
    """Expected `watch_ms` and the probability of every outcome of a video that is looked at; arrays of one shape."""

    watch_ms: np.ndarray
    probability: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcomes:
    """What happened to a slate, by position: `watch_ms`, `received_ms` (UTC) and a mask for every outcome."""

    watch_ms: np.ndarray
    received_ms: np.ndarray
    happened: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Inclination:
    """Log odds that drive a viewer at a video: `appeal`, `stay` of the watch ratio; `duration_s` of the video."""

    appeal: np.ndarray
    stay: np.ndarray
    duration_s: np.ndarray

    def starts(self) -> np.ndarray:
        return sigmoid(3.6 + 0.6 * self.appeal)

    def long_view_after_start(self) -> np.ndarray:
        return sigmoid(self.stay - _logit(np.minimum(1.0, LONG_VIEW_S / self.duration_s) / REPLAYS))

    def click_without_long_view(self) -> np.ndarray:
        return sigmoid(-1.0 + 0.6 * self.appeal)

    def hide_without_long_view(self) -> np.ndarray:
        return sigmoid(-4.8 - 0.8 * self.appeal)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


def _logit(p: np.ndarray) -> np.ndarray:
    return np.log(p) - np.log1p(-p)


def mean_logit_logistic(location: np.ndarray) -> np.ndarray:
    """E[sigmoid(location + X)] for X standard logistic: with a = exp(-location), (1 - a + a ln a) / (1 - a)^2."""
    flat = np.abs(location) < 1e-3  # there the formula is 0 / 0; its series is 1/2 + location / 6
    x = np.where(flat, 1.0, location)
    a = np.exp(-x)
    return np.where(flat, 0.5 + location / 6, (1 - a - a * x) / (1 - a) ** 2)


def truth_of(inclination: Inclination) -> Truth:
    starts, appeal = inclination.starts(), inclination.appeal
    long_view = starts * inclination.long_view_after_start()
    probability = {
        "click": long_view + (starts - long_view) * inclination.click_without_long_view(),
        "long_view": long_view,
        **{name: long_view * sigmoid(base + slope * appeal) for name, (base, slope) in AFTER_LONG_VIEW.items()},
        "hide": (1 - long_view) * inclination.hide_without_long_view(),
    }
    watch_ms = starts * inclination.duration_s * 1000 * REPLAYS * mean_logit_logistic(inclination.stay)
    return Truth(watch_ms, {name: probability[name] for name in OUTCOMES})


def looked_at(positions: np.ndarray, surface: str) -> np.ndarray:
    """Probability that a position (from 0) is looked at; below it nothing can happen."""
    return (positions + 1.0) ** -POSITION_BIAS[surface]


def draw(rng: np.random.Generator, inclination: Inclination, looked: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Watch time in ms and outcomes, each looked at with probability `looked`; arrays of one shape (R, K)."""
    shape = looked.shape
    seen = rng.random(shape) < looked
    starts = seen & (rng.random(shape) < inclination.starts())
    ratio = REPLAYS * sigmoid(inclination.stay + rng.logistic(size=shape))
    watch_s = np.where(starts, ratio * inclination.duration_s, 0.0)
    long_view = watch_s >= np.minimum(LONG_VIEW_S, inclination.duration_s)
    happened = {
        "click": long_view | (starts & (rng.random(shape) < inclination.click_without_long_view())),
        "long_view": long_view,
        "hide": seen & ~long_view & (rng.random(shape) < inclination.hide_without_long_view()),
    }
    for name, (base, slope) in AFTER_LONG_VIEW.items():
        happened[name] = long_view & (rng.random(shape) < sigmoid(base + slope * inclination.appeal))
    # a whole millisecond up, so that a long view stays one in the log
    return np.ceil(watch_s * 1000).astype(np.int64), {name: happened[name] for name in OUTCOMES}

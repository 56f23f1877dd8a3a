"""The verdict of one window: which checks drifted, with evidence that many checks and many rows cannot feign."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from watchnext.monitoring.sketch.bins import Bins
from watchnext.monitoring.sketch.measures import VECTORS
from watchnext.monitoring.sketch.moments import Moments, p_of_means, p_of_shares, stability
from watchnext.monitoring.sketch.rows import Coded
from watchnext.monitoring.sketch.sketch import EVERYTHING, Sketch

NONE, DRIFT, NO_DATA = "none", "drift", "no data"
LEAST_VIEWERS = 30.0  # effective viewers, in reference and window; of fewer, no variance can be estimated
ODD = 0.01  # more of a share of missing, new or out-of-range values from which on an input counts as broken
STUCK = 0.99  # share of one bin from which on a column counts as stuck
LEAST_STABILITY = 0.1  # effect from which on a change of shares matters
LEAST_EFFECT = {"calibration": 0.15, "auc": 0.02, "video": 0.2}  # the same of other checks, by their first word


@dataclass(frozen=True)
class Check:
    """One comparison.

    effect   stability index of shares; calibration: summed change of the mean error by bin over the mean outcome;
             auc: difference; vectors: distance of the centroids over the spread
    least    effect from which on it matters
    p        probability of this much without drift, before correction
    drifted  None where nothing could be compared
    change   the bin that changed most, with its share before and now; "" for others
    broken   the values are missing, new or stuck, which no choice of videos explains; unlike numbers out of range
    """

    effect: float
    least: float
    p: float
    drifted: bool | None
    action: str
    change: str
    missing: tuple[float, float]
    broken: bool = False

    @property
    def size(self) -> float:
        """The effect in units of what matters."""
        return self.effect / self.least

    @property
    def verdict(self) -> str:
        return NO_DATA if self.drifted is None else DRIFT if self.drifted else NONE


@dataclass(frozen=True)
class CheckedSlice:
    """The verdict of a part of a window, with its drifted checks."""

    verdict: str
    rows: int
    drifted: Mapping[str, Check]


@dataclass(frozen=True)
class CheckedWindow:
    """The verdict of a window against a reference.

    columns  check > its result over all rows
    slices   slice > its verdict
    rows, viewers   of (reference, window); viewers are effective numbers
    reason   of "no data"
    """

    verdict: str
    columns: Mapping[str, Check]
    slices: Mapping[str, "CheckedSlice"]
    rows: tuple[int, int]
    viewers: tuple[float, float]
    reason: str = ""

    @property
    def drifted(self) -> list[str]:
        """Names of the drifted checks, the largest effect in units of what matters first."""
        names = [name for name, check in self.columns.items() if check.drifted]
        return sorted(names, key=lambda name: -self.columns[name].size)

    @property
    def findings(self) -> dict[str, Check]:
        """Return the drifted checks of all rows, and as `check (slice)` those that drifted in slices alone."""
        found = {name: self.columns[name] for name in self.drifted}
        parts = [(part, *item) for part, each in self.slices.items() for item in each.drifted.items()]
        return found | {f"{name} ({part})": check for part, name, check in parts if name not in found}


def broken_inputs_alone(result: CheckedWindow) -> CheckedWindow:
    """Return the result with the drift of broken inputs alone: the rest of it follows where a release shows other videos than
    the log that it learned from."""
    columns = {name: check if check.broken else replace(check, drifted=None if check.drifted is None else False)
               for name, check in result.columns.items()}  # fmt: skip
    slices = {name: _slice({check: each for check, each in part.drifted.items() if each.broken}, part)
              for name, part in result.slices.items()}  # fmt: skip
    drifted = any(check.drifted for check in columns.values()) or any(part.drifted for part in slices.values())
    verdict = NO_DATA if result.verdict == NO_DATA else DRIFT if drifted else NONE
    return replace(result, verdict=verdict, columns=columns, slices=slices)


def _slice(drifted: Mapping[str, Check], part: CheckedSlice) -> CheckedSlice:
    return part if part.verdict == NO_DATA else CheckedSlice(DRIFT if drifted else NONE, part.rows, drifted)


def checked(sketch: Sketch, window: Coded, vectors: np.ndarray, *, alpha: float) -> CheckedWindow:
    """Compare a window with the reference. Without drift, the verdict is drift in at most a share `alpha` of windows.

    Half of `alpha` is for all rows, and half for the slices; each half is corrected for its number of checks (Holm 1979).
    """
    reference = sketch.slices[EVERYTHING]
    rows = (sketch.rows, len(window))
    if not len(window):
        return CheckedWindow(NO_DATA, {}, {}, rows, (0.0, 0.0), "the window has no rows")
    current = sketch.measured(window, vectors)
    viewers = tuple(max((each.viewers for each in checks.values()), default=0.0) for checks in (reference, current[EVERYTHING]))
    if min(viewers) < LEAST_VIEWERS:
        short = f"{viewers[0]:.0f} effective viewers in the reference and {viewers[1]:.0f} in the window"
        return CheckedWindow(NO_DATA, {}, {}, rows, viewers, f"{short}, expected at least {LEAST_VIEWERS:.0f}")
    overall = _compared(sketch, {EVERYTHING: current[EVERYTHING]}, alpha / 2)[EVERYTHING]
    others = _compared(sketch, {name: each for name, each in current.items() if name != EVERYTHING}, alpha / 2)
    slices = {name: _summary(checks, current[name]) for name, checks in others.items()}
    drifted = any(check.drifted for check in overall.values()) or any(each.drifted for each in slices.values())
    missing = [name for name in reference if name not in overall]
    columns = overall | {name: Check(0.0, _least(name, sketch.bins), 1.0, None, "inspect", "", (0.0, 1.0)) for name in missing}
    return CheckedWindow(DRIFT if drifted else NONE, columns, slices, rows, viewers)


def _summary(checks: Mapping[str, Check], moments: Mapping[str, Moments]) -> CheckedSlice:
    drifted = {name: check for name, check in sorted(checks.items()) if check.drifted}
    rows = max((each.rows for each in moments.values()), default=0)
    return CheckedSlice((DRIFT if drifted else NONE) if checks else NO_DATA, rows, drifted)


def _compared(sketch: Sketch, current: Mapping[str, Mapping[str, Moments]], alpha: float) -> dict[str, dict[str, Check]]:
    """Compare a family of checks, slice by slice."""
    pairs = {
        (part, name): (sketch.slices[part][name], moments)
        for part, checks in current.items()
        for name, moments in checks.items()
        if name in sketch.slices[part] and min(sketch.slices[part][name].viewers, moments.viewers) >= LEAST_VIEWERS
    }
    p_values = {key: _p(key[1], *pair, sketch.bins) for key, pair in pairs.items()}
    significant = dict(zip(p_values, _holm(list(p_values.values()), alpha), strict=True))
    results: dict[str, dict[str, Check]] = {part: {} for part in current}
    for (part, name), pair in pairs.items():
        results[part][name] = _check(name, *pair, sketch, p_values[part, name], significant[part, name])
    return results


def _holm(p_values: Sequence[float], alpha: float) -> np.ndarray:
    """Return which are significant (n,) bool, so that one of them is wrong with a probability of at most `alpha`."""
    values = np.array(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    passed = np.logical_and.accumulate(values[order] <= alpha / np.arange(len(values), 0, -1))
    significant = np.zeros(len(values), bool)
    significant[order] = passed
    return significant


def _p(name: str, reference: Moments, current: Moments, bins: Mapping[str, Bins]) -> float:
    if name in bins:
        return p_of_shares(reference, current, ordered=bins[name].ordered, odd=bins[name].odd)
    return p_of_means(reference, current)


def _least(name: str, bins: Mapping[str, Bins]) -> float:
    return LEAST_STABILITY if name in bins else LEAST_EFFECT[name.partition(" ")[0]]


def _check(name: str, reference: Moments, current: Moments, sketch: Sketch, p: float, significant: bool) -> Check:
    bins = sketch.bins.get(name)
    effect = stability(reference, current) if bins else _effect(name, reference, current, sketch)
    least = _least(name, sketch.bins)
    drifted = bool(significant and effect >= least)
    missing = (float(reference.mean[0]), float(current.mean[0])) if bins else (0.0, 0.0)
    change = _change(reference, current, bins) if bins else ""
    broken = bins is not None and not name.startswith(("score ", "outcome ")) and _broken(reference, current, bins)
    return Check(effect, least, p, drifted, _action(name, reference, current, bins), change, missing, broken)


def _broken(reference: Moments, current: Moments, bins: Bins) -> bool:
    unknown = list(bins.odd[:1] if bins.ordered else bins.odd)
    return _stuck(reference, current) or bool((current.mean[unknown] - reference.mean[unknown]).max() > ODD)


def _stuck(reference: Moments, current: Moments) -> bool:
    return bool(current.mean.max() > STUCK >= reference.mean.max())


def _effect(name: str, reference: Moments, current: Moments, sketch: Sketch) -> float:
    apart, scale = current.mean - reference.mean, sketch.scales.get(name)
    if name == VECTORS:
        return float(np.sqrt((apart**2).sum() / max(scale.sum(), 1e-12)))
    return float(np.abs(apart).sum() / (max(float(scale[0]), 1e-12) if scale is not None else 1.0))


def _change(reference: Moments, current: Moments, bins: Bins) -> str:
    at = int(np.argmax(np.abs(current.mean - reference.mean)))
    return f"{bins.labels[at]}: {reference.mean[at]:.1%} to {current.mean[at]:.1%}"


def _action(name: str, reference: Moments, current: Moments, bins: Bins | None) -> str:
    if bins is None:
        return "calibrate" if name.startswith("calibration ") else "retrain"
    if name.startswith("score "):
        return "check scores"
    odd = list(bins.odd)
    broken = (current.mean[odd] - reference.mean[odd]).max() > ODD
    return "inspect" if broken or _stuck(reference, current) else "retrain"

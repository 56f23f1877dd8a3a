"""Choose among estimators without knowing the truth, and widen the interval of the chosen one by what may be bias."""

import math
from collections.abc import Sequence

from watchnext.evaluation.off_policy.estimate import Estimate
from watchnext.evaluation.off_policy.policy_rates import LEVELS


def chosen(estimates: Sequence[Estimate]) -> Estimate | None:
    """Choose by SLOPE (Su et al., ICML 2020); None where no estimate has enough overlap.

    Estimates are ordered by what they assume (LEVELS), within a level by width. One that assumes more must be narrower, or it
    has no use. The last is chosen whose interval agrees with those of all before it: up to there, no bias was visible. Unlike
    PAS-IF (Udagawa et al., AAAI 2023), SLOPE needs no split of the log, and the levels have the order that it asks for.
    """
    best, narrower = None, []
    for each in sorted(_usable(estimates), key=lambda each: (LEVELS.index(each.level), -each.half)):
        if all(each.half < other.half for other in narrower):
            if not all(abs(each.value - o.value) <= o.half + (math.sqrt(6) - 1) * each.half for o in narrower):
                break
            best = each
            narrower.append(each)
    return best


def disagreement(best: Estimate, estimates: Sequence[Estimate]) -> float:
    """Return how far `best` is from the narrowest estimates of the levels that assume less: the root mean square over these
    levels, 0 where none has enough overlap.

    An estimate that assumes less has less bias, so the distance bounds that of `best` from above in the mean. It joins the half
    width of the interval in quadrature, as a systematic error joins a statistical one.
    """
    below: dict[str, Estimate] = {}
    for each in sorted(_usable(estimates), key=lambda each: -each.half):
        if LEVELS.index(each.level) < LEVELS.index(best.level):
            below[each.level] = each
    return math.sqrt(sum((best.value - each.value) ** 2 for each in below.values()) / max(len(below), 1))


def checked(best: Estimate, estimates: Sequence[Estimate]) -> bool:
    """Return whether an estimate that assumes less could contradict `best`, or none assumes less than its level."""
    level = LEVELS.index(best.level)
    return level == 0 or any(LEVELS.index(each.level) < level for each in _usable(estimates))


def _usable(estimates: Sequence[Estimate]) -> list[Estimate]:
    return [each for each in estimates if not each.warning and math.isfinite(each.value) and each.half > 0]

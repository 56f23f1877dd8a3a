"""Choose among estimators without knowing the truth."""

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


def checked(best: Estimate, estimates: Sequence[Estimate]) -> bool:
    """Return whether an estimate that assumes less could contradict `best`, or none assumes less than its level."""
    level = LEVELS.index(best.level)
    return level == 0 or any(LEVELS.index(each.level) < level for each in _usable(estimates))


def _usable(estimates: Sequence[Estimate]) -> list[Estimate]:
    return [each for each in estimates if not each.warning and math.isfinite(each.value) and each.half > 0]

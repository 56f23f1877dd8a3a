"""Choose among estimators without knowing the truth."""

import math
from collections.abc import Sequence

import numpy as np

from watchnext.evaluation.off_policy.estimate import Estimate
from watchnext.evaluation.off_policy.policy_rates import LEVELS


def chosen(estimates: Sequence[Estimate]) -> Estimate | None:
    """Choose by SLOPE (Su et al., ICML 2020); None where no estimate has enough overlap.

    Estimates are ordered by what they assume (LEVELS), within a level by width. One that assumes more must be narrower, or it
    has no use. The last is chosen whose interval agrees with those of all before it: up to there, no bias was visible. Unlike
    PAS-IF (Udagawa et al., AAAI 2023), SLOPE needs no split of the log, and the levels have the order that it asks for.
    """
    usable = [each for each in estimates if not each.warning and math.isfinite(each.value) and each.half > 0]
    usable.sort(key=lambda each: (LEVELS.index(each.level), -each.half))
    narrower = [each for at, each in enumerate(usable) if all(each.half < other.half for other in usable[:at])]
    best = None
    for at, each in enumerate(narrower):
        agrees = [abs(each.value - other.value) <= other.half + (np.sqrt(6) - 1) * each.half for other in narrower[:at]]
        if not all(agrees):
            break
        best = each
    return best

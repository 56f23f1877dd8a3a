"""The greedy pass of re-ranking, compiled: slot by slot, the best candidate under the limits and beside the slate so far."""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.diversity import Diversity, Similarity, spread
from watchnext.reranking.limits import SlateLimits, bar, first_barring

NOTHING = np.zeros(0, np.int64)
OUT = -1  # in `Filled.barred_by`: picked, or never eligible


@dataclass(frozen=True)
class Filled:
    """A filled slate.

    picked, propensities (K,)   positions, best first, and the probability of each at its slot
    barred_by (N,)              rule that barred a candidate from the last slot; the number of rules where none did, or OUT
    bent (R,) bool              rules that a video of the slate broke, and floors that were not reached
    """

    picked: np.ndarray
    propensities: np.ndarray
    barred_by: np.ndarray
    bent: np.ndarray


def fill(
    relevance: np.ndarray,
    similarity: Similarity | None,
    diversity: Diversity,
    limits: SlateLimits,
    epsilon: float,
    draws: np.ndarray,
    *,
    slots: int,
    given: np.ndarray = NOTHING,
    outside: int = 0,
    continuation: float = 1.0,
) -> Filled:
    """Fill as many of a slate's `slots` as `draws` (K, 2) has rows, at most N, from candidates sorted by value, best first.

    A candidate scores trade_off * reach * relevance + (1 - trade_off) * its gain in diversity; -inf stays. The reach of a slot
    is the chance that a viewer gets there, `continuation` to the power of the slots above. If no candidate is left
    under all limits, the last ones bend for this slot, but for the `hard` ones: these rather leave slots empty. With
    probability `epsilon` a slot takes a uniform draw of its eligible candidates.

    The first slots hold the positions `given` (P,), P at most K, whatever their scores, with propensity 0 where one was not
    eligible. The last `outside` positions are never eligible: they can only be given.
    """
    n, rules = len(relevance), len(limits.most)
    picked, propensities = np.zeros(len(draws), np.int64), np.zeros(len(draws))
    barred_by, bent = np.where(np.arange(n) < n - outside, rules, OUT), np.zeros(rules, np.bool_)
    worth = diversity.trade_off * np.where(np.isfinite(relevance), relevance, 0.0)
    penalty = 1.0 - diversity.trade_off if similarity else 0.0
    known = (similarity or Similarity.nothing(n)).arrays
    out = picked, propensities, barred_by, bent
    filled = _fill(
        worth, penalty, continuation, np.isfinite(relevance), given, slots, known, similarity is not None, diversity.kind,
        diversity.remembered(slots), limits, epsilon, draws, out,
    )  # fmt: skip
    return Filled(picked[:filled], propensities[:filled], barred_by, bent)


@kernel
def _fill(worth, penalty, continuation, finite, given, slots, known, is_known, kind, memory, limits, epsilon, draws, out):
    """Write `out`, as the arrays of `Filled`; return the number of slots that were filled."""
    picked, propensities, barred_by, bent = out
    n, rules = len(worth), len(bent)
    least, groups = limits.least, limits.groups
    until, latest, need = np.zeros((rules, n), np.int32), np.zeros(rules, np.int32), np.zeros(rules, np.int64)
    free, eligible, gain = barred_by != OUT, np.empty(n, np.int64), np.zeros(n)
    for rule in range(rules):
        need[rule] = min((groups[rule] & free).sum(), least[rule], slots)
    cosine, similarity = np.zeros(n, np.float32), np.zeros(n)
    rows, left = np.zeros((memory, n)), np.ones(n)
    filled, held = 0, rules
    for slot in range(len(picked)):
        if slot > 0:
            if is_known:
                spread(picked[:slot], kind, known, cosine, similarity, rows, left, gain)
            bar(picked[:slot], cosine, known[1], limits, until, latest)
        first_barring(slot, slots, until, latest, need, groups, barred_by)
        found, held = _eligible(limits.hard, rules, free, barred_by, eligible)
        if found == 0 and slot >= len(given):
            break
        best, highest, reach = eligible[0], -np.inf, continuation**slot
        for i in range(found):
            at = eligible[i]
            score = reach * worth[at] + penalty * gain[at] if finite[at] else -np.inf
            if score > highest:  # ties: higher value, then lower row
                best, highest = at, score
        chosen, may_be = best, True
        if slot < len(given):
            chosen = given[slot]
            may_be = _among(chosen, eligible[:found])
        elif draws[slot, 0] < epsilon:
            chosen = eligible[int(draws[slot, 1] * found)]
        picked[slot] = chosen
        propensities[slot] = epsilon / found + (1.0 - epsilon if chosen == best else 0.0) if may_be else 0.0
        free[chosen] = False
        for rule in range(rules):
            bent[rule] = bent[rule] or until[rule, chosen] > slot
            need[rule] = max(need[rule] - groups[rule, chosen], 0)
        filled += 1
    for i in range(n):
        if not free[i]:
            barred_by[i] = OUT
        elif barred_by[i] == held and filled == len(picked):
            barred_by[i] = rules
    for rule in range(rules):
        shown = 0
        for slot in range(filled):
            shown += groups[rule, picked[slot]]
        bent[rule] = bent[rule] or shown < min(least[rule], slots)
    return filled


@kernel
def _among(position, positions):
    held = False
    for each in positions:
        held |= each == position
    return held


@kernel
def _eligible(hard, rules, free, barred_by, eligible):
    """Write the positions that the most rules let in, in their order; return their number, and that of the rules that hold."""
    held = 0
    for i in range(len(free)):
        if free[i]:
            held = max(held, barred_by[i])
        if held == rules:
            break
    found = 0
    for i in range(len(free) if held >= hard else 0):
        eligible[found] = i
        found += free[i] and barred_by[i] == held
    return found, held

"""The greedy pass of re-ranking, compiled: slot by slot, the best candidate under caps and beside the slate so far."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.diversity import Similarity, add_similarity

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Caps:
    """Caps as arrays: `keys` (N, J) int64, -1 none, with the cap of each column `of` (J,) and the limit of each cap `most`."""

    keys: np.ndarray
    of: np.ndarray
    most: np.ndarray

    @classmethod
    def joined(cls, keys: Sequence[np.ndarray], most: Sequence[int], candidates: int) -> "Caps":
        """Join the keys (N, J) of every cap, in the order of the config."""
        none = np.zeros((candidates, 0), np.int64)
        of = np.repeat(np.arange(len(keys)), [each.shape[1] for each in keys])
        return cls(np.concatenate([none, *keys], axis=1, dtype=np.int64), of, np.array(most, np.int64))


@dataclass(frozen=True)
class Filled:
    """A filled slate.

    picked, propensities (K,)   positions, best first, and the probability of each at its slot
    barred (caps, N) bool       candidates that a cap barred from the last slot
    held                        number of caps, from the first, that were not dropped
    """

    picked: np.ndarray
    propensities: np.ndarray
    barred: np.ndarray
    held: int


def fill(
    relevance: np.ndarray,
    similarity: Similarity | None,
    trade_off: float,
    caps: Caps,
    epsilon: float,
    draws: np.ndarray,
    *,
    given: np.ndarray = NOTHING,
    outside: int = 0,
) -> Filled:
    """Fill as many slots as `draws` (K, 2) has rows, at most N, from candidates that are sorted by value, best first.

    A candidate scores trade_off * relevance - (1 - trade_off) * its largest similarity to the slate; -inf stays. A cap bars the
    candidates of a key that the slate holds `most` times. If no candidate is left under all caps, the last one is dropped for
    good, because counts never decrease. With probability `epsilon` a slot takes a uniform draw of its eligible candidates.

    The first slots hold the positions `given` (P,), P at most K, whatever their scores, with propensity 0 where one was not
    eligible. The last `outside` positions are never eligible: they can only be given.
    """
    n, slots = len(relevance), len(draws)
    free = np.arange(n) < n - outside
    picked, propensities = np.zeros(slots, np.int64), np.zeros(slots)
    barred = np.zeros((len(caps.most), n), np.bool_)
    arrays = (similarity or Similarity.nothing(n)).arrays
    weights = trade_off * np.where(np.isfinite(relevance), relevance, 0.0), 1.0 - trade_off if similarity else 0.0
    limits = caps.keys, caps.of, caps.most
    held = _fill(*weights, np.isfinite(relevance), free, given, *arrays, *limits, epsilon, draws, picked, propensities, barred)
    return Filled(picked, propensities, barred, held)


@kernel
def _fill(
    worth,
    penalty,
    finite,
    free,
    given,
    units,
    has_vector,
    creators,
    tags,
    keys,
    of,
    most,
    epsilon,
    draws,
    picked,
    propensities,
    barred,
):
    """Write `picked`, `propensities` and `barred`; return the number of caps that were not dropped."""
    n, held = len(worth), len(most)
    nearest, cosine = np.zeros(n), np.empty(n, np.float32)
    eligible = np.empty(n, np.int64)
    for slot in range(len(picked)):
        if slot > 0:
            last = picked[slot - 1]
            if penalty > 0:
                add_similarity(last, units, has_vector, creators, tags, cosine, nearest)
            _count(last, picked[:slot], keys, of, most, barred)
        found, held = _eligible(free, barred, held, eligible)
        best, highest = eligible[0], -np.inf
        for i in range(found):
            at = eligible[i]
            score = worth[at] - penalty * nearest[at] if finite[at] else -np.inf
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
    return held


@kernel
def _among(position, positions):
    held = False
    for each in positions:
        held |= each == position
    return held


@kernel
def _eligible(free, barred, held, eligible):
    """Write the positions under all caps that still hold; return their number, and the caps left."""
    while True:
        found = 0
        for i in range(len(free)):
            under = free[i]
            for cap in range(held):
                under = under and not barred[cap, i]
            if under:
                eligible[found] = i
                found += 1
        if found > 0 or held == 0:
            return found, held
        held -= 1


@kernel
def _count(last, picked, keys, of, most, barred):
    """Bar the candidates of every key that the slate `picked` now holds as often as its cap allows."""
    columns = len(of)
    for column in range(columns):
        key, cap = keys[last, column], of[column]
        if key < 0:
            continue
        held = 0
        for slot in range(len(picked)):
            held += _has(key, cap, picked[slot], keys, of)
        if held < most[cap]:
            continue
        for i in range(len(keys)):
            if _has(key, cap, i, keys, of):
                barred[cap, i] = True


@kernel
def _has(key, cap, at, keys, of):
    """Return whether a candidate has a key of a cap; a repeated tag counts once."""
    found = False
    for column in range(len(of)):
        found |= of[column] == cap and keys[at, column] == key
    return found

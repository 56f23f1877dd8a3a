"""The soft rules of a slate as arrays, and the compiled pass that bars candidates by them.

Rules stand in the order of the config, after those that never bend. A candidate is barred at a slot by a cap whose key is used
up in the window before it, by a near copy in the slate, or by a floor that needs all slots that are left.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.rules import HARD, Cap, Floor, NearDuplicateRule, Rule, RuleContext

FOREVER = 2**31 - 1
NEVER_NEAR = 9.0  # above any cosine


@dataclass(frozen=True)
class Limits:
    """The limits of N candidates, one row a rule (R), those first that never bend.

    keys (N, J) int64, columns (R, 2)   keys of all caps, -1 none, and the columns [first, end) of each
    most (R,), window (R,)              videos of one key in `window` consecutive slots
    cosine (R,)                         from which on two videos are near copies
    least (R,), groups (R, N) bool      videos of its group that a floor wants; 0 of other rules
    hard                                number of rules that never bend
    names                               of the rules
    """

    keys: np.ndarray
    columns: np.ndarray
    most: np.ndarray
    window: np.ndarray
    cosine: np.ndarray
    least: np.ndarray
    groups: np.ndarray
    hard: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, rules: Sequence[Rule], rows: np.ndarray, context: RuleContext) -> "Limits":
        """Evaluate the caps, floors and near duplicates among `rules` for the videos `rows` (N,)."""
        limiting = [each for each in rules if isinstance(each, Cap | Floor | NearDuplicateRule)]
        limiting.sort(key=lambda each: each.name not in HARD)
        none = np.zeros((len(rows), 0), np.int64)
        keys = [each.keys(rows, context) if isinstance(each, Cap) else none for each in limiting]
        ends = np.cumsum([each.shape[1] for each in keys], dtype=np.int64)
        groups = np.zeros((len(limiting), len(rows)), np.bool_)
        for at, each in enumerate(limiting):
            if isinstance(each, Floor):
                groups[at] = each.group(rows, context)
        return cls(
            keys=np.concatenate([none, *keys], axis=1, dtype=np.int64),
            columns=np.stack([np.append(0, ends)[:-1], ends], axis=1) if limiting else np.zeros((0, 2), np.int64),
            most=np.array([getattr(each, "most", FOREVER) for each in limiting], np.int64),
            window=np.array([getattr(each, "slots", None) or FOREVER for each in limiting], np.int64),
            cosine=np.array([getattr(each, "cosine", NEVER_NEAR) for each in limiting], np.float64),
            least=np.array([getattr(each, "least", 0) for each in limiting], np.int64),
            groups=groups,
            hard=sum(each.name in HARD for each in limiting),
            names=tuple(each.name for each in limiting),
        )

    def first(self, rules: int) -> "Limits":
        """Return the first limits alone."""
        cut = {
            name: getattr(self, name)[:rules] for name in ("columns", "most", "window", "cosine", "least", "groups", "names")
        }
        return Limits(keys=self.keys, **cut, hard=min(self.hard, rules))

    @property
    def has_near(self) -> bool:
        return bool((self.cosine < NEVER_NEAR).any())

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.keys, self.columns, self.most, self.window, self.cosine, self.least, self.groups


@kernel
def bar(picked, cosine_to_last, has_vector, limits, until):
    """Raise `until` (R, N), the first slot at which a rule lets a candidate in again, after the last of `picked` (s,)."""
    keys, columns, most, window, cosine = limits[:5]
    last = picked[-1]
    for rule in range(len(most)):
        if cosine[rule] < NEVER_NEAR and has_vector[last]:
            for i in range(len(has_vector)):
                if has_vector[i] and cosine_to_last[i] >= cosine[rule]:
                    until[rule, i] = FOREVER
        first, end = columns[rule, 0], columns[rule, 1]
        for column in range(first, end):
            key = keys[last, column]
            if key < 0:
                continue
            free_again = _free_again(key, picked, keys, first, end, most[rule], window[rule])
            if free_again <= len(picked):
                continue
            for i in range(len(keys)):
                if _has(key, i, keys, first, end):
                    until[rule, i] = max(until[rule, i], free_again)


@kernel
def _free_again(key, picked, keys, first, end, most, window):
    """Return the slot at which the oldest of the last `most` videos of a key has left the window; 0 with fewer of them."""
    held = 0
    for slot in range(len(picked) - 1, -1, -1):
        held += _has(key, picked[slot], keys, first, end)
        if held == most:
            return min(slot + window, FOREVER)
    return 0


@kernel
def _has(key, at, keys, first, end):
    """Return whether a candidate has a key of a cap; a repeated tag counts once."""
    found = False
    for column in range(first, end):
        found |= keys[at, column] == key
    return found


@kernel
def press(need, slots_left, pressing):
    """Mark the floors (R,) that, with those before them, need all slots that are left."""
    total = 0
    for rule in range(len(need)):
        total += need[rule]
        pressing[rule] = need[rule] > 0 and total >= slots_left


@kernel
def first_barring(at, slot, until, need, pressing, groups):
    """Return the first rule that bars a candidate at a slot, or the number of rules."""
    wanted = False
    for rule in range(len(need)):
        wanted |= need[rule] > 0 and groups[rule, at]
        if until[rule, at] > slot or (pressing[rule] and not wanted):
            return rule
    return len(need)

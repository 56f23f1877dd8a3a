"""The soft rules of a slate as arrays, and the compiled pass that bars candidates by them.

Rules stand in the order of the config, after those that never bend. A candidate is barred at a slot by a cap whose key is used
up in the window before it, by a near copy in the slate, or by a floor that needs all slots that are left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.rules.copies import NearDuplicateRule
from watchnext.reranking.rules.registry import Rule
from watchnext.reranking.rules.rule import HARD, Cap, Floor, RuleContext

FOREVER = 2**31 - 1
NEVER_NEAR = 9.0  # above any cosine


class SlateRules:
    """The rules of a config that limit slates: `names` in their order, those first that never bend, `hard` in number."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        limiting = [each for each in rules if isinstance(each, Cap | Floor | NearDuplicateRule)]
        self._rules = sorted(limiting, key=lambda each: each.name not in HARD)
        self.names = tuple(each.name for each in self._rules)
        self.hard = sum(name in HARD for name in self.names)
        self._columns = np.zeros((len(self.names), 2), np.int64)
        self._most = self._numbers("most", FOREVER, np.int64)
        self._window = self._numbers("slots", FOREVER, np.int64)
        self._cosine = self._numbers("cosine", NEVER_NEAR, np.float64)
        self._least = self._numbers("least", 0, np.int64)
        # A part of a slate keeps what the slate keeps, unless a window closes up or a floor loses videos.
        self.parts_keep_them = bool((self._window == FOREVER).all() and not self._least.any())

    def _numbers(self, setting: str, without: float, kind: type) -> np.ndarray:
        return np.array([getattr(each, setting, None) or without for each in self._rules], kind)

    @property
    def keep_copies_apart(self) -> bool:
        return bool((self._cosine < NEVER_NEAR).any())

    def limits(self, rows: np.ndarray, context: RuleContext) -> "SlateLimits":
        """Evaluate the rules for the videos `rows` (N,)."""
        columns, groups = self._columns.copy(), np.zeros((len(self.names), len(rows)), np.bool_)
        keys, end = [np.zeros((len(rows), 0), np.int64)], 0
        for at, each in enumerate(self._rules):
            if isinstance(each, Cap):
                keys.append(each.keys(rows, context))
                columns[at] = end, end + keys[-1].shape[1]
                end = columns[at, 1]
            elif isinstance(each, Floor):
                groups[at] = each.group(rows, context)
        joined = np.concatenate(keys, axis=1, dtype=np.int64)
        return SlateLimits(joined, columns, self._most, self._window, self._cosine, self._least, groups, self.hard)


class SlateLimits(NamedTuple):
    """The limits of N candidates, one row a rule (R), those first that never bend.

    keys (N, J) int64, columns (R, 2)   keys of all caps, -1 none, and the columns [first, end) of each
    most (R,), window (R,)              videos of one key in `window` consecutive slots
    cosine (R,)                         from which on two videos are near copies
    least (R,), groups (R, N) bool      videos of its group that a floor wants; 0 of other rules
    hard                                number of rules that never bend
    """

    keys: np.ndarray
    columns: np.ndarray
    most: np.ndarray
    window: np.ndarray
    cosine: np.ndarray
    least: np.ndarray
    groups: np.ndarray
    hard: int

    def first(self, rules: int) -> "SlateLimits":
        """Return the first limits alone."""
        return SlateLimits(self.keys, *(each[:rules] for each in self[1:-1]), min(self.hard, rules))


@kernel
def bar(picked, cosine_to_last, has_vector, limits, until, latest):
    """Raise `until` (R, N), the first slot at which a rule lets a candidate in again, after the last of `picked` (s,).

    latest (R,) is the largest of each rule.
    """
    keys, columns, most, window, cosine = limits.keys, limits.columns, limits.most, limits.window, limits.cosine
    last = picked[-1]
    for rule in range(len(most)):
        if cosine[rule] < NEVER_NEAR and has_vector[last]:
            for i in range(len(has_vector)):
                if has_vector[i] and cosine_to_last[i] >= cosine[rule]:
                    until[rule, i] = latest[rule] = FOREVER
        first, end = columns[rule, 0], columns[rule, 1]
        for column in range(first, end):
            key = keys[last, column]
            if key < 0:
                continue
            free_again = _free_again(key, picked, keys, first, end, most[rule], window[rule])
            if free_again <= len(picked):
                continue
            latest[rule] = max(latest[rule], free_again)
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
def first_barring(slot, slots, until, latest, need, groups, barred_by):
    """Write into `barred_by` (N,) the first rule that bars each candidate at a slot, or the number of rules."""
    rules, total = len(need), need.sum()
    barred_by[:] = rules
    for rule in range(rules - 1, -1, -1):
        if need[rule] > 0 and total >= slots - slot:  # with the floors before it, it needs all slots that are left
            _bar_outside(rule, need, groups, barred_by)
        total -= need[rule]
        if latest[rule] > slot:
            for i in range(len(barred_by)):
                barred_by[i] = rule if until[rule, i] > slot else barred_by[i]


@kernel
def _bar_outside(rule, need, groups, barred_by):
    """Bar what is in none of the groups that a floor and those before it still want."""
    for i in range(len(barred_by)):
        wanted = False
        for floor in range(rule + 1):
            wanted |= need[floor] > 0 and groups[floor, i]
        if not wanted:
            barred_by[i] = rule

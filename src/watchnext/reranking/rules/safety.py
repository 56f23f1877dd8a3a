"""Safety: which viewers may get mature videos, and how many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.reranking.rules.rule import SAFETY, Cap, Filter, RuleContext
from watchnext.reranking.value import RerankingError, require_known

ACTIONS = ("allow", "limit", "drop")  # from mild to strict
LINE = ("ages", "regions", "mature")


@dataclass(frozen=True, kw_only=True)
class SafetyFilter(Filter, Cap):
    """Remove videos above the `highest` allowed level. `unsafe` cannot be allowed; an unknown level counts as worse.

    policy   lines like {ages: [18-24], regions: [de], mature: limit}; the first that fits a viewer decides about mature
             videos: allow, limit (at most `most` in a slate, never more) or drop. A list that is left out fits all. A viewer
             whom no line fits gets none. One whose age or region is unknown gets the strictest of the lines that might fit.
    """

    name: ClassVar[str] = "safety"
    highest: str = "safe"
    policy: Sequence[Mapping] = ()
    most: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.highest not in SAFETY[:2]:
            raise RerankingError(f"rules.safety.highest is {self.highest!r}, expected one of {', '.join(SAFETY[:2])}")
        for line in self.policy:
            require_known("rules.safety.policy", line, LINE)
            if line.get("mature") not in ACTIONS:
                raise RerankingError(
                    f"rules.safety.policy has mature: {line.get('mature')!r}, expected one of {', '.join(ACTIONS)}"
                )
        lines = [{**line, **{part: [*map(str, line[part])] for part in LINE[:2] if part in line}} for line in self.policy]
        object.__setattr__(self, "policy", lines)

    def action(self, region: str | None, age: str | None) -> str:
        """Return the one of ACTIONS that applies to mature videos for a viewer; None is unknown."""
        if self.highest == SAFETY[0]:
            return "drop"
        if not self.policy:
            return "allow"
        possible = ["drop"]
        for line in reversed(self.policy):
            known = [(value, line[part]) for value, part in ((age, "ages"), (region, "regions")) if line.get(part)]
            if all(value in names for value, names in known):
                possible = [line["mature"]]
            elif all(value is None or value in names for value, names in known):
                possible.append(line["mature"])
        return max(possible, key=ACTIONS.index)

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        highest = SAFETY[self.action(context.region, context.age) != "drop"]
        return context.facts.safety[rows] > SAFETY.index(highest)

    def beyond(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        limited = (self.keys(rows, context) >= 0).any(axis=1)
        return limited & (np.cumsum(limited) > self.most)

    def keys(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        if self.action(context.region, context.age) != "limit":
            return np.zeros((len(rows), 0), np.int64)
        return np.where(context.facts.safety[rows] == 1, 0, -1)[:, None]

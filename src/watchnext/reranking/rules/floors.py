"""Floors: how many young videos, and how many videos of new creators, a slate has at least."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.reranking.rules.rule import Floor, RuleContext
from watchnext.reranking.value import require_number

HOUR_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class FreshnessFloor(Floor):
    """Keep room for `least` videos that were uploaded in the last `younger_h` hours."""

    name: ClassVar[str] = "freshness"
    least: int = 2
    younger_h: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("rules.freshness.younger_h", self.younger_h, low=0)

    def group(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return context.as_of_ms - context.facts.upload_ms[rows] <= self.younger_h * HOUR_MS  # nan is not young


@dataclass(frozen=True, kw_only=True)
class NewCreatorFloor(Floor):
    """Keep room for `least` videos of creators whose first video was uploaded in the last `younger_days` days."""

    name: ClassVar[str] = "new_creators"
    least: int = 1
    younger_days: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("rules.new_creators.younger_days", self.younger_days, low=0)

    def group(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        creators = context.facts.creator_rows[rows]
        if not len(context.facts.first_upload_ms):
            return np.zeros(len(rows), bool)
        age_ms = context.as_of_ms - context.facts.first_upload_ms[creators]
        return (creators >= 0) & (age_ms <= self.younger_days * 24 * HOUR_MS)

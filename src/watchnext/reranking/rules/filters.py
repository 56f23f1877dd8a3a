"""Filters by availability, region, and what the viewer has seen; they are never relaxed."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.reranking.rules.rule import Filter, RuleContext
from watchnext.reranking.value import RerankingError, require_number
from watchnext.types import among


@dataclass(frozen=True, kw_only=True)
class UnavailableFilter(Filter):
    """Remove videos withdrawn since the release was built."""

    name: ClassVar[str] = "unavailable"

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return np.zeros(len(rows), bool) if context.unavailable is None else context.unavailable[rows].astype(bool)


@dataclass(frozen=True, kw_only=True)
class RegionFilter(Filter):
    """Remove videos not allowed in the viewer's region; in an unknown region only unrestricted videos pass."""

    name: ClassVar[str] = "region"

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        regions = context.facts.regions[rows]
        bit = context.region_bits.get(context.region)
        if bit is None:
            return regions != 0
        if not 0 <= bit < 64:
            raise RerankingError(f"region_bits[{context.region!r}] is {bit}, expected a bit number from 0 to 63")
        return (regions != 0) & (regions & (np.uint64(1) << np.uint64(bit)) == 0)


@dataclass(frozen=True, kw_only=True)
class SeenFilter(Filter):
    """Remove videos the viewer has seen, except the `continued` best valued ones of the source `continue`."""

    name: ClassVar[str] = "seen"
    continued: int = 2

    def __post_init__(self) -> None:
        require_number("rules.seen.continued", self.continued, low=0)

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        seen = among(rows, context.seen)
        midway = among(rows, np.sort(context.continued))
        return seen & ~(midway & (np.cumsum(midway) <= self.continued))

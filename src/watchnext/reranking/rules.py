"""Filters (videos that may never be shown) and caps (limits per slate), one small class each.

A filter is never relaxed. A cap counts while the slate grows. If no candidate satisfies all caps, the last cap in the config is
dropped first, so that the slate is not shorter than necessary.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.value import RerankingError, require_known, require_number
from watchnext.types import among

SAFETY = ("safe", "mature", "unsafe")  # CatalogueFacts.safety is an index into this
HARD = ("unavailable", "safety", "region")  # filters that hold whatever the viewer has seen


class CatalogueFacts(Protocol):
    """Catalogue columns that the rules read, by row number."""

    creator_rows: np.ndarray  # (V,) int32, -1 none
    tag_rows: np.ndarray  # (V, J) int32, padded with -1
    regions: np.ndarray  # (V,) uint64 bits, 0 everywhere
    safety: np.ndarray  # (V,) uint8, index into SAFETY
    fingerprints: np.ndarray  # (V,) int64, equal for copies, 0 none
    vectors: np.ndarray  # (V, D) float32, a zero row is missing
    upload_ms: np.ndarray  # (V,) int64


@dataclass(frozen=True, kw_only=True)
class RuleContext:
    """Inputs of a filter besides the rows. `seen` (n,) are the viewer's rows, sorted; `region_bits` maps a region to its bit
    *number*; `unavailable` is (V,) bool; `continued` (n,) are rows of seen videos that the source `continue` proposed."""

    seen: np.ndarray
    region: str | None
    facts: CatalogueFacts
    region_bits: Mapping[str, int]
    unavailable: np.ndarray | None = None
    continued: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@kernel
def _copied(fingerprints, seen, prints):
    """Mark the `prints` (N,) that a video of `seen` (n,) has; 0 is none. A table of the few prints meets the many seen once."""
    mask = (1 << 11) - 1
    while mask < 4 * prints.size:
        mask = 2 * mask + 1
    table, met, out = np.zeros(mask + 1, np.int64), np.zeros(mask + 1, np.bool_), np.zeros(prints.size, np.bool_)
    for i in range(prints.size):
        at = (prints[i] * 2654435761 >> 13) & mask  # Knuth's multiplicative hash
        while table[at] != 0 and table[at] != prints[i]:
            at = (at + 1) & mask
        table[at] = prints[i]
    for i in range(seen.size):
        own = fingerprints[seen[i]]
        at = (own * 2654435761 >> 13) & mask
        while table[at] != 0 and table[at] != own:
            at = (at + 1) & mask
        met[at] |= table[at] == own
    for i in range(prints.size):
        at = (prints[i] * 2654435761 >> 13) & mask
        while table[at] != prints[i]:
            at = (at + 1) & mask
        out[i] = met[at] and prints[i] != 0
    return out


class Filter(ABC):
    """Remove candidates permanently."""

    name: ClassVar[str]

    @abstractmethod
    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Mark video rows (N,), best valued first, that the rule removes: (N,) bool."""


@dataclass(frozen=True, kw_only=True)
class UnavailableFilter(Filter):
    """Remove videos withdrawn since the release was built."""

    name: ClassVar[str] = "unavailable"

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return np.zeros(len(rows), bool) if context.unavailable is None else context.unavailable[rows].astype(bool)


@dataclass(frozen=True, kw_only=True)
class SafetyFilter(Filter):
    """Remove videos above the `highest` allowed level. `unsafe` cannot be allowed; an unknown level counts as worse."""

    name: ClassVar[str] = "safety"
    highest: str = "safe"

    def __post_init__(self) -> None:
        if self.highest not in SAFETY[:2]:
            raise RerankingError(f"rules.safety.highest is {self.highest!r}, expected one of {', '.join(SAFETY[:2])}")

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return context.facts.safety[rows] > SAFETY.index(self.highest)


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
        midway = np.isin(rows, context.continued)
        return seen & ~(midway & (np.cumsum(midway) <= self.continued))


@dataclass(frozen=True, kw_only=True)
class DuplicateFilter(Filter):
    """Remove copies of a better valued candidate and, if `of_seen`, of seen videos. A video proposed by `continue` is not a
    copy of itself."""

    name: ClassVar[str] = "duplicate"
    of_seen: bool = True

    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        prints = context.facts.fingerprints[rows]
        of_seen = np.zeros(len(rows), bool)
        if self.of_seen:
            of_seen = _copied(context.facts.fingerprints, context.seen, prints) & ~np.isin(rows, context.continued)
        left = np.flatnonzero(~of_seen)
        first = np.zeros(len(rows), bool)
        first[left[np.unique(prints[left], return_index=True)[1]]] = True  # keep the best valued copy
        return ~first & (prints != 0)


class Cap(ABC):
    """Limit a slate to `most` videos per key; videos without a key are not limited."""

    name: ClassVar[str]
    most: int

    def __post_init__(self) -> None:
        require_number(f"rules.{self.name}.most", self.most, low=1)
        if self.most != int(self.most):
            raise RerankingError(f"rules.{self.name}.most is {self.most!r}, expected a whole number")

    @abstractmethod
    def keys(self, rows: np.ndarray, facts: CatalogueFacts) -> np.ndarray:
        """Return the keys (N, J) of video rows (N,), -1 none."""


@dataclass(frozen=True, kw_only=True)
class CreatorCap(Cap):
    name: ClassVar[str] = "creator_cap"
    most: int = 2

    def keys(self, rows: np.ndarray, facts: CatalogueFacts) -> np.ndarray:
        return facts.creator_rows[rows][:, None]


@dataclass(frozen=True, kw_only=True)
class TagCap(Cap):
    name: ClassVar[str] = "tag_cap"
    most: int = 6

    def keys(self, rows: np.ndarray, facts: CatalogueFacts) -> np.ndarray:
        return facts.tag_rows[rows]


Rule = Filter | Cap
RULES: Mapping[str, type[Rule]] = {
    rule.name: rule for rule in (UnavailableFilter, SafetyFilter, RegionFilter, SeenFilter, DuplicateFilter, CreatorCap, TagCap)
}


def rule(name: str, options: Mapping) -> Rule:
    """Build a rule by name. Raises RerankingError for a misspelt rule or option."""
    require_known("rules", [name], RULES)
    require_known(f"rules.{name}", options, RULES[name].__dataclass_fields__)
    return RULES[name](**options)

"""Kinds of rules, and their inputs: filters, caps, floors and demotions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.value import RerankingError, require_number
from watchnext.types import Query

SAFETY = ("safe", "mature", "unsafe")  # CatalogueFacts.safety is an index into this
HARD = ("unavailable", "safety", "region")  # rules that hold whatever the viewer has seen
NOBODY = np.zeros(0, np.int64)


class CatalogueFacts(Protocol):
    """Catalogue columns that the rules read, by row number. The last three are read by rules that are not on by default."""

    creator_rows: np.ndarray  # (V,) int32, -1 none
    tag_rows: np.ndarray  # (V, J) int32, padded with -1
    regions: np.ndarray  # (V,) uint64 bits, 0 everywhere
    safety: np.ndarray  # (V,) uint8, index into SAFETY
    fingerprints: np.ndarray  # (V,) int64, equal for copies, 0 none
    vectors: np.ndarray  # (V, D) float32, a zero row is missing
    upload_ms: np.ndarray  # (V,) float64, nan unknown
    first_upload_ms: np.ndarray  # (creators,) float64, of each creator's first video, nan unknown
    languages: Mapping[str, int]  # language > code

    def language_codes(self, rows: np.ndarray) -> np.ndarray:
        """Return the code (n,) of the language of each video, 0 unknown."""


@dataclass(frozen=True, kw_only=True)
class RuleContext:
    """Inputs of a rule besides the rows.

    seen (n,)        the viewer's rows, sorted
    region_bits      region > its bit *number*
    unavailable      (V,) bool
    continued (n,)   rows of seen videos that the source `continue` proposed
    age, language    of the viewer, as the log names them; None unknown
    hidden (n,)      rows that the viewer has hidden, as far as the history goes
    as_of_ms         time of the request
    """

    seen: np.ndarray
    region: str | None
    facts: CatalogueFacts
    region_bits: Mapping[str, int]
    unavailable: np.ndarray | None = None
    continued: np.ndarray = field(default_factory=lambda: NOBODY)
    age: str | None = None
    language: str | None = None
    hidden: np.ndarray = field(default_factory=lambda: NOBODY)
    as_of_ms: float = 0.0

    @classmethod
    def of(
        cls,
        query: Query,
        *,
        facts: CatalogueFacts,
        region_bits: Mapping[str, int],
        unavailable: np.ndarray | None = None,
        continued: np.ndarray = NOBODY,
    ) -> "RuleContext":
        """Take what a query knows of its viewer."""
        hidden = query.history_rows[query.bits & OUTCOME_BITS["hide"] > 0]
        return cls(
            seen=query.seen,
            region=query.region,
            facts=facts,
            region_bits=region_bits,
            unavailable=unavailable,
            continued=continued,
            age=query.age,
            language=query.language,
            hidden=hidden,
            as_of_ms=query.as_of_ms,
        )


class Filter(ABC):
    """Remove candidates permanently."""

    name: ClassVar[str]

    @abstractmethod
    def removes(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Mark video rows (N,), best valued first, that the rule removes: (N,) bool."""

    def beyond(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Mark video rows (N,) that are more than one slate may have of their kind, the first ones counted first: (N,) bool."""
        return np.zeros(len(rows), bool)


class Cap(ABC):
    """Limit a slate to `most` videos per key in any `slots` consecutive slots; videos without a key are not limited."""

    name: ClassVar[str]
    most: int
    slots: ClassVar[int | None] = None  # None is the whole slate

    def __post_init__(self) -> None:
        require_whole(f"rules.{self.name}.most", self.most, low=1)

    @abstractmethod
    def keys(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Return the keys (N, J) of video rows (N,), -1 none."""


class Floor(ABC):
    """Keep room in a slate for `least` videos of a group, where as many can be shown; they come as late as their value does."""

    name: ClassVar[str]
    least: int

    def __post_init__(self) -> None:
        require_whole(f"rules.{self.name}.least", self.least, low=1)

    @abstractmethod
    def group(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Mark the video rows (N,) of the group: (N,) bool."""


class Demotion(ABC):
    """Let videos weigh less."""

    name: ClassVar[str]

    @abstractmethod
    def factors(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Return the factor (N,) in [0, 1] of the value of each video row (N,), whose values are scaled to [0, 1]."""


def require_whole(setting: str, value: float, *, low: int) -> None:
    """Raise RerankingError unless `value` is a whole number of at least `low`."""
    require_number(setting, value, low=low)
    if value != int(value):
        raise RerankingError(f"{setting} is {value!r}, expected a whole number")

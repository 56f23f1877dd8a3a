"""Caps: how many videos of one creator, one tag or a foreign language a slate, or a window of it, may have."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.reranking.rules.rule import Cap, RuleContext, require_whole


@dataclass(frozen=True, kw_only=True)
class CreatorCap(Cap):
    """Limit a slate to `most` videos of one creator."""

    name: ClassVar[str] = "creator_cap"
    most: int = 2

    def keys(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return context.facts.creator_rows[rows][:, None]


@dataclass(frozen=True, kw_only=True)
class TagCap(Cap):
    """Limit a slate to `most` videos of one tag."""

    name: ClassVar[str] = "tag_cap"
    most: int = 6

    def keys(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        return context.facts.tag_rows[rows]


@dataclass(frozen=True, kw_only=True)
class CreatorWindow(CreatorCap):
    """Limit any `slots` consecutive slots to `most` videos of one creator."""

    name: ClassVar[str] = "creator_window"
    most: int = 1
    slots: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(f"rules.{self.name}.slots", self.slots, low=2)


@dataclass(frozen=True, kw_only=True)
class TagWindow(TagCap):
    """Limit any `slots` consecutive slots to `most` videos of one tag."""

    name: ClassVar[str] = "tag_window"
    most: int = 3
    slots: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole(f"rules.{self.name}.slots", self.slots, low=2)


@dataclass(frozen=True, kw_only=True)
class LanguageCap(Cap):
    """Limit a slate to `most` videos in another language than the viewer's. An unknown language is no other one."""

    name: ClassVar[str] = "language"
    most: int = 4

    def keys(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        own = context.facts.languages.get(context.language, 0)
        codes = context.facts.language_codes(rows)
        foreign = (codes != own) & (codes > 0) & (own > 0)
        return np.where(foreign, 0, -1)[:, None]

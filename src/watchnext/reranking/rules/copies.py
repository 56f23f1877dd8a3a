"""Copies of a video, by fingerprint and by distance of content vectors."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from watchnext.kernels import kernel
from watchnext.reranking.rules.rule import Filter, RuleContext
from watchnext.reranking.value import require_number
from watchnext.types import among, first_of


@kernel
def copied(fingerprints, seen, prints):
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
            of_seen = copied(context.facts.fingerprints, context.seen, prints) & ~among(rows, np.sort(context.continued))
        left = np.flatnonzero(~of_seen)
        first = np.zeros(len(rows), bool)
        first[left[first_of(prints[left])]] = True  # keep the best valued copy
        return ~first & (prints != 0)


@dataclass(frozen=True, kw_only=True)
class NearDuplicateRule:
    """Keep videos apart whose content vectors have a cosine of at least `cosine`: one of them is in the slate, as far as others
    are left. Videos without a vector are not near any."""

    name: ClassVar[str] = "near_duplicate"
    cosine: float = 0.97

    def __post_init__(self) -> None:
        require_number("rules.near_duplicate.cosine", self.cosine, low=-1, high=1)

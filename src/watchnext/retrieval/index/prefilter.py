"""Pre-filter of a search: a static mask shared by viewers and excluded rows of one viewer, as bits in index order."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class StaticMask:
    """Static `mask` (V,) bool by row, e.g. of one region and safety level. Reuse the object: an index packs it once. Rows
    beyond the mask are excluded."""

    mask: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the mask (n,) of `rows` (n,)."""
        known = rows < len(self.mask)
        return known & self.mask[np.where(known, rows, 0)]


@dataclass(frozen=True)
class PreFilter:
    """Allow the videos of a static mask, and of `also`, except the rows `hidden` (n,): seen, withdrawn or not yet uploaded."""

    static_mask: StaticMask
    hidden: np.ndarray
    also: StaticMask | None = None

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) bool of the allowed rows among `rows` (n,)."""
        allowed = self.static_mask.of(rows) & ~np.isin(rows, self.hidden)
        return allowed if self.also is None else allowed & self.also.of(rows)


def pack_bits(mask: np.ndarray) -> np.ndarray:
    """Pack (n,) bool into (ceil(n / 64),) uint64: position p is bit p % 64 of word p // 64."""
    words = np.zeros(-(-len(mask) // 64), np.uint64)
    words.view(np.uint8)[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return words


def count_bits(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


def clear_bits(words: np.ndarray, positions: np.ndarray) -> None:
    """Clear the bits of `positions` (n,) in `words`; negative positions are ignored."""
    chosen = positions[positions >= 0].astype(np.uint64)
    np.bitwise_and.at(words, chosen >> np.uint64(6), ~(np.uint64(1) << (chosen & np.uint64(63))))


def set_positions(words: np.ndarray, n: int) -> np.ndarray:
    """Return the positions below `n` whose bits are set, ascending."""
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little", count=n))

"""Pre-filter of a search: a static mask shared by viewers and excluded rows of one viewer, as bits in index order."""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel

ONE, SIX, LAST = np.uint64(1), np.uint64(6), np.uint64(63)


@dataclass(frozen=True, eq=False)
class StaticMask:
    """Static `mask` (V,) bool by row, e.g. of one region and safety level. Reuse the object: an index packs it once. Rows
    beyond the mask are excluded."""

    mask: np.ndarray


@dataclass(frozen=True)
class PreFilter:
    """Allow the videos of a static mask except the rows `hidden` (n,): seen, withdrawn or not yet uploaded."""

    static_mask: StaticMask
    hidden: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) bool of the allowed rows among `rows` (n,)."""
        known = rows < len(self.static_mask.mask)
        return known & self.static_mask.mask[np.where(known, rows, 0)] & ~np.isin(rows, self.hidden)


def pack_bits(mask: np.ndarray) -> np.ndarray:
    """Pack (n,) bool into (ceil(n / 64),) uint64: position p is bit p % 64 of word p // 64."""
    words = np.zeros(-(-len(mask) // 64), np.uint64)
    words.view(np.uint8)[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return words


def count_bits(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


@kernel(boundscheck=False)
def clear_bits(words, positions):
    """Clear the bits of `positions` (n,) in `words`; negative positions are ignored."""
    for i in range(positions.size):
        if positions[i] >= 0:
            p = np.uint64(positions[i])
            words[p >> SIX] &= ~(ONE << (p & LAST))


@kernel(boundscheck=False)
def _set_positions(words, starts, lists, most, positions):
    n = np.uint64(0)
    for j in range(lists.size):
        if n >= most:
            break
        p, end = np.uint64(starts[lists[j]]), np.uint64(starts[lists[j] + 1])
        while p < end:
            word = words[p >> SIX] >> (p & LAST)
            until = min(end, (p | LAST) + ONE)
            if word:
                for x in range(p, until):  # without a branch, which would be mispredicted
                    positions[n] = np.int32(x)
                    n += word & ONE
                    word >>= ONE
            p = until
    return n


def set_positions(words: np.ndarray, starts: np.ndarray, lists: np.ndarray, most: int) -> np.ndarray:
    """Return positions (n,) int32 of the bits set in `lists`, in list order until there are `most`; list l spans starts[l] to
    starts[l + 1]."""
    room = int(min(most, count_bits(words)) + np.diff(starts).max(initial=0) + 1)  # one is written ahead
    positions = np.empty(room, np.int32)
    return positions[: _set_positions(words, starts, lists, most, positions)]

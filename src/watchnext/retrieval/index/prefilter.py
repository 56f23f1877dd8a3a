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

    shelf: StaticMask
    hidden: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Mark the allowed ones of a few rows: (n,) bool."""
        known = rows < len(self.shelf.mask)
        return known & self.shelf.mask[np.where(known, rows, 0)] & ~np.isin(rows, self.hidden)


def packed(mask: np.ndarray) -> np.ndarray:
    """Pack (n,) bool into (ceil(n / 64),) uint64: place p is bit p % 64 of word p // 64."""
    found = np.zeros(-(-len(mask) // 64), np.uint64)
    found.view(np.uint8)[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return found


def counted(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


@kernel(boundscheck=False)
def clear(words, places):
    """Clear the bits of `places` (n,) in `words`; negative places are ignored."""
    for i in range(places.size):
        if places[i] >= 0:
            p = np.uint64(places[i])
            words[p >> SIX] &= ~(ONE << (p & LAST))


@kernel(boundscheck=False)
def _standing(words, starts, lists, most, places):
    n = np.uint64(0)
    for j in range(lists.size):
        if n >= most:
            break
        p, end = np.uint64(starts[lists[j]]), np.uint64(starts[lists[j] + 1])
        while p < end:
            word = words[p >> SIX] >> (p & LAST)
            until = min(end, (p | LAST) + ONE)
            if word:
                for x in range(p, until):  # no branch: which bits are set cannot be guessed
                    places[n] = np.int32(x)
                    n += word & ONE
                    word >>= ONE
            p = until
    return n


def standing(words: np.ndarray, starts: np.ndarray, lists: np.ndarray, most: int) -> np.ndarray:
    """Return places (n,) int32 of the bits set in `lists`, in list order until there are `most`; list l spans starts[l] to
    starts[l + 1]."""
    room = int(min(most, counted(words)) + np.diff(starts).max(initial=0) + 1)  # one is written ahead
    places = np.empty(room, np.int32)
    return places[: _standing(words, starts, lists, most, places)]

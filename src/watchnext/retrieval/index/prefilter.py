"""Which videos a search may find: what holds for everybody alike as a mask, what is hidden from one viewer as rows, and both as
bits in the order in which an index keeps its videos."""

from dataclasses import dataclass

import numpy as np

from watchnext.kernels import kernel

ONE, SIX, LAST = np.uint64(1), np.uint64(6), np.uint64(63)


@dataclass(frozen=True, eq=False)
class StaticMask:
    """`mask` (V,) bool by row, e.g. of one region and safety level. Make one and keep it: an index packs it once. Rows behind
    the mask are not allowed."""

    mask: np.ndarray


@dataclass(frozen=True)
class PreFilter:
    """What stands on `shelf`, without the rows `hidden` (n,): seen, withdrawn, not there yet."""

    shelf: StaticMask
    hidden: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) bool, of few rows."""
        known = rows < len(self.shelf.mask)
        return known & self.shelf.mask[np.where(known, rows, 0)] & ~np.isin(rows, self.hidden)


def packed(mask: np.ndarray) -> np.ndarray:
    """(n,) bool > (ceil(n / 64),) uint64, place p being bit p % 64 of word p // 64."""
    found = np.zeros(-(-len(mask) // 64), np.uint64)
    found.view(np.uint8)[: -(-len(mask) // 8)] = np.packbits(mask, bitorder="little")
    return found


def counted(words: np.ndarray) -> int:
    return int(np.bitwise_count(words).sum())


@kernel(boundscheck=False)
def clear(words, places):
    """Take `places` (n,) out of `words`; a place below 0 is none."""
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
    """Places (n,) int32 of the bits set in some `lists`, one list after another until there are `most`; list l goes from
    starts[l] to starts[l + 1]."""
    room = int(min(most, counted(words)) + np.diff(starts).max(initial=0) + 1)  # one is written ahead
    places = np.empty(room, np.int32)
    return places[: _standing(words, starts, lists, most, places)]

"""Types that cross stage borders, and the shape legend.

B requests, C candidates, K slate, H history, F features, D embedding, T targets, V videos, U users.
Videos are catalogue row numbers everywhere inside; ids exist only at the outer border. Times are UTC milliseconds, ratios in
[0, 1].
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from watchnext.kernels import kernel

# Bit i of Candidates.sources is SOURCES[i]. Served logs and precomputed slates hold these bits: new sources are
# appended, and none moves. Bit 1 was `popular` before it went by surface and region.
SOURCES = (
    "two_tower",
    "trending",
    "fresh",
    "related",
    "transitions",
    "followed",
    "continue",
    "popular",
    "popular_recently",
    "popular_now",
)
AGAIN = 15  # bit of Candidates.sources: seen before, and back because too little unseen is left. No source proposes it
TARGETS = ("click", "long_view", "like", "watch_s")  # columns of Scored.predictions: three probabilities, then seconds


NOBODY = ""  # user_id of a request without a viewer or session


@dataclass(frozen=True, kw_only=True)
class Dials:
    """Settings of re-ranking for one request, None as in the release.

    weights    target > weight of the value, in place of the release's
    diversity  in [0, 1]: 0 is value alone, 1 is dissimilarity alone
    engage     power of how likely a watch is
    """

    weights: Mapping[str, float] | None = None
    diversity: float | None = None
    engage: float | None = None


@dataclass(frozen=True, kw_only=True)
class VideoFilter:
    """The videos that a request may get: those with one name of each list; an empty list lets all through."""

    tags: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    language: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """A request for a slate. `as_of_ms` is its time; later events are not read. `region` overrides the user's; the rows in
    `exclude`, and the videos of creators named in `muted`, are never proposed. A request that is not `personalised` is answered
    as one of a new viewer: nothing of the user is read. Videos beside the row `seed` join the candidates. `budget_ms` may
    shorten that of the recommender. A `mirrored` one is answered for the log alone, beside another recommender: its slate is
    not shown.
    """

    request_id: str
    user_id: int | str
    k: int
    as_of_ms: int
    surface: str | None = None
    region: str | None = None
    context: Mapping[str, str | float] = field(default_factory=dict)
    exclude: tuple[int, ...] = ()
    muted: tuple[str, ...] = ()
    personalised: bool = True
    dials: Dials = Dials()
    filter: VideoFilter = VideoFilter()
    seed: int | None = None
    budget_ms: float = math.inf
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request hydrated with what is known of its viewer as of its time; sources, rules and networks read it.

    request                    the request as asked
    region                     the request's, or else the viewer's own; None unknown
    state (S,) float64         the viewer's folded record
    seen (n,) int64            video rows that the viewer has seen, sorted
    history_rows (H,) int64    the last watches, and outcomes without one, latest first; each with
    ago_s, watch_s, bits (H,)  seconds since it was known, watched seconds, and OUTCOME_BITS
    creators (n,) int64        creators in the viewer's record, with
    engagement (n,)            the viewer's decayed count of liked videos of each
    inputs                     inputs of networks that do not depend on a candidate, one row each
    age, language              of the viewer, as the log names them; None unknown
    vectors (Q, D) float32     the query tower's, where computed for many viewers at once; else None
    muted (n,) int64           rows of the videos of muted creators
    """

    request: Request
    region: str | None
    state: np.ndarray
    seen: np.ndarray
    history_rows: np.ndarray
    ago_s: np.ndarray
    watch_s: np.ndarray
    bits: np.ndarray
    creators: np.ndarray
    engagement: np.ndarray
    inputs: Mapping[str, np.ndarray]
    age: str | None = None
    language: str | None = None
    vectors: np.ndarray | None = None
    muted: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def as_of_ms(self) -> float:
        return float(self.request.as_of_ms)

    @cached_property
    def excluded(self) -> np.ndarray:
        """Rows (n,) int64 that the request excludes or mutes, sorted."""
        return np.unique(np.concatenate([np.array(self.request.exclude, np.int64), self.muted]))

    @cached_property
    def hidden(self) -> np.ndarray:
        """Rows (n,) int64 that were seen or are excluded, sorted."""
        if not len(self.excluded):
            return self.seen
        return np.sort(np.concatenate([self.seen, self.excluded]), kind="stable")  # two runs, which a stable sort merges


def among(rows: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of `rows` that are in `ascending` (m,); `np.isin` would sort both."""
    if not len(ascending):
        return np.zeros(len(rows), bool)
    return ascending[np.minimum(ascending.searchsorted(rows), len(ascending) - 1)] == rows


def first_of(keys: np.ndarray) -> np.ndarray:
    """Return the positions (m,) in `keys` (n,) int64 at which each distinct key stands first, ascending."""
    return _first_of(keys, np.zeros(1 << (2 * len(keys)).bit_length(), np.int64))


@kernel
def _first_of(keys, table):
    """Find them by a hash table with open addressing: `table` (T,) of zeros, T a power of two above n, will hold
    positions + 1."""
    mask, out, found = len(table) - 1, np.empty(len(keys), np.int64), 0
    for i in range(len(keys)):
        slot = ((keys[i] ^ keys[i] >> 29) * 2654435761 >> 7) & mask  # Knuth's multiplicative hash
        while table[slot] != 0 and keys[table[slot] - 1] != keys[i]:
            slot = (slot + 1) & mask
        if table[slot] == 0:
            table[slot] = i + 1
            out[found] = i
            found += 1
    return out[:found]


def descending(scores: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Return the positions of `scores` (n,), the highest first, equal ones by `ties` (n,): a lexsort in a quarter of its time,
    as few scores are equal."""
    order = np.argsort(-scores)
    _settle(order, scores, ties)
    return order


@kernel
def _settle(order, scores, ties):
    """Sort each run of equal scores in `order` (n,) by `ties`."""
    first = 0
    for end in range(1, len(order) + 1):
        if end < len(order) and scores[order[end]] == scores[order[first]]:
            continue
        if end - first > 1:
            run = order[first:end]
            order[first:end] = run[np.argsort(ties[run])]
        first = end


@dataclass(frozen=True)
class Candidates:
    """Candidates of retrieval, best first.

    rows (C,) int64                distinct videos
    sources (C,) uint16            the sources of each, as bits
    scores (C,) float32            merged score
    ranks (C, SOURCES) uint16      rank in the list of each source, from 1; 0 is not listed. None for precomputed slates
    """

    rows: np.ndarray
    sources: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def named_by(self, source: str) -> np.ndarray:
        """Return a mask (C,) of the candidates that a source returned."""
        return (self.sources >> SOURCES.index(source) & 1).astype(bool)

    def take(self, positions: np.ndarray) -> "Candidates":
        """Return the candidates at `positions` (n,), in that order."""
        return Candidates(*(values[positions] for values in vars(self).values()))

    def source_ranks(self, at: int) -> dict[str, int]:
        """Return source > rank in its list for the candidate at a position; empty where ranks are not known."""
        ranks = [] if self.ranks is None else self.ranks[at].tolist()
        return {name: rank for name, rank in zip(SOURCES, ranks, strict=False) if rank}

    @property
    def again(self) -> np.ndarray:
        """Mask (C,) of those that were seen before and are back."""
        return (self.sources >> AGAIN & 1).astype(bool)


@dataclass(frozen=True)
class Scored:
    """Scored candidates of ranking, in the same order.

    predictions (C, T)   of an impression, columns as in TARGETS
    engage (C,) float64  how many times as likely as an average candidate each is to be watched at all; None is not estimated
    """

    candidates: Candidates
    predictions: np.ndarray
    engage: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.candidates)


@dataclass(frozen=True)
class Slate:
    """The slate of re-ranking, best first.

    picked        (K,) int64, positions in the scored candidates
    values        (K,) float64, the value of each at its selection
    propensities  (K,) float64, probability of this video at this position given those above it
    removed       rule name > positions of the candidates it removed, each under the first rule that removed it
    order         (C,) int64, positions of all candidates, best valued first
    bent          names of the soft rules that the slate does not keep, as too few candidates were left
    """

    picked: np.ndarray
    values: np.ndarray
    propensities: np.ndarray
    removed: Mapping[str, np.ndarray] = field(default_factory=dict)
    order: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    bent: tuple[str, ...] = ()

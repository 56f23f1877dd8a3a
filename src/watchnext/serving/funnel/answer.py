"""The recommender's answer to a request, and the time that each stage took."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import NamedTuple

import numpy as np

from watchnext.types import AGAIN, SOURCES, Candidates, Query, Request, Scored, Slate


class Degradation(NamedTuple):
    """A part of the funnel that failed or was left out: a stable code, and a sentence."""

    code: str
    text: str


STORE_DOWN = Degradation("store_down", "the store could not be read: answered as for a new viewer")
INDEX_FAILED = Degradation("index_failed", "the search of vectors failed: answered from trending, fresh and the other sources")
SOURCE_FAILED = Degradation("source_failed", "the source {name} failed: answered from the others")
SOURCES_LATE = Degradation(
    "sources_late", "no time was left to ask every source: answered from trending, fresh and some others"
)
RANKER_FAILED = Degradation("ranker_failed", "the ranker failed: answered in retrieval order")
RANKER_LATE = Degradation("ranker_late", "no time was left to rank: answered in retrieval order")
NOT_PRECOMPUTED = Degradation("not_precomputed", "no precomputed slate is valid: answered from trending and fresh, unranked")
IMPRESSIONS_LOST = Degradation("impressions_lost", "impressions were not recorded")


@dataclass(frozen=True)
class Answer:
    """A slate with everything that led to it.

    release        id of the release that answered
    mode           "online", "not_personalised", or "precomputed": then `scored` has only the slate's videos, and `funnel` has
                   the original counts
    as_of_ms       when it was computed
    ids            ids of the slate's videos, best first; everything below is in that order
    explanations   sentences, one list a video
    removed        rule > number of candidates that it removed
    funnel         number of videos retrieved, ranked, and in the slate
    query          the request hydrated, None of a precomputed slate
    first          candidates and slate before seen videos filled it up, for traces; None where it was not refilled
    degradations   one for each part that failed
    position       number of events of the store's journal that were read; None if some were committed meanwhile
    name_features  computes `features` when they are first read, as only the log needs them and no viewer waits for them:
                   feature name > (K,) as the ranker saw them, object for categories and float32 for values
    """

    request: Request
    release: str
    mode: str
    as_of_ms: int
    scored: Scored
    slate: Slate
    ids: Sequence[int | str]
    explanations: Sequence[Sequence[str]]
    removed: Mapping[str, int]
    funnel: Mapping[str, int]
    query: Query | None = None
    first: tuple[Scored, Slate] | None = None
    degradations: tuple[Degradation, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    position: int | None = None
    name_features: Callable[[], Mapping[str, np.ndarray]] = dict

    @cached_property
    def features(self) -> Mapping[str, np.ndarray]:
        return self.name_features()

    @property
    def passed(self) -> tuple[Scored, Slate]:
        """Candidates of retrieval, and the slate of them."""
        return self.first or (self.scored, self.slate)

    @property
    def degraded(self) -> bool:
        return bool(self.degradations)

    @cached_property
    def rows(self) -> np.ndarray:
        return self.scored.candidates.rows[self.slate.picked]

    @cached_property
    def predictions(self) -> np.ndarray:
        """(K, T); nan where the ranker did not run."""
        return self.scored.predictions[self.slate.picked]

    @cached_property
    def sources(self) -> list[list[str]]:
        return source_names(self.scored.candidates.sources[self.slate.picked])


class Retrieved(NamedTuple):
    """The candidates of a request that may be shown, best first, before ranking; rule > number that it removed."""

    candidates: Candidates
    removed: Mapping[str, int]
    degradations: tuple[Degradation, ...]
    timings_ms: Mapping[str, float]


def source_names(sources: np.ndarray) -> list[list[str]]:
    """Return the names of the sources that are set as bits in each of `sources` (n,); "again" of a seen video that is back."""
    return [*map(list, map(_names_of, sources.tolist()))]


@cache
def _names_of(bits: int) -> tuple[str, ...]:
    names = {**dict(enumerate(SOURCES)), AGAIN: "again"}
    return tuple(name for bit, name in names.items() if bits >> bit & 1)


def counts_by_source(sources: np.ndarray) -> list[int]:
    """Return how many of `sources` (n,) uint16 name each of SOURCES as a bit."""
    bits = np.unpackbits(sources.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return bits[:, : len(SOURCES)].sum(axis=0, dtype=np.int64).tolist()


# Share of the budget after which a stage is cut short: no further source is asked, and ranking does not begin.
LATEST = {"retrieval": 0.4, "ranking": 0.6}


class StageTimer:
    """Measure the milliseconds of each stage, an equal share of `requests`, and say when it is late for one."""

    def __init__(self, timer: Callable[[], float], budget_ms: float, requests: int = 1) -> None:
        self._timer, self._budget_ms, self._requests = timer, budget_ms, max(requests, 1)
        self._began = self._last = timer()
        self.ms: dict[str, float] = {}

    def is_late(self, stage: str) -> bool:
        return 1000.0 * (self._timer() - self._began) >= LATEST[stage] * self._budget_ms

    def stop(self, stage: str) -> None:
        now = self._timer()
        self.ms[stage] = 1000.0 * (now - self._last) / self._requests
        self._last = now

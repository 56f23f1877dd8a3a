"""Explain why a video is in a slate. Each sentence follows from known facts; none is guessed."""

from itertools import compress

import numpy as np

from watchnext.features.encode.expressions import HOUR_MS
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, Query, Scored, Slate

WATCHED = ("click", "long_view")  # counts of videos that were started or watched long
ENOUGH = 0.5  # least sum of these counts, decayed at the longest half-life
NEW, NEW_H = "uploaded in the last 24 hours", 24.0
POPULAR_RANK, POPULAR_SHARE = 100, 0.05  # a list of popular videos goes far beyond the popular ones of a catalogue
WEAKER = {
    "followed": "by a creator you watched before",
    "fresh": "among the latest uploads",
    **dict.fromkeys(("trending", "popular", "popular_recently", "popular_now"), "watched by others"),
}  # source > sentence, for a video that has no better one
USER_TAG, USER_CREATOR = 2, 3  # indices in the counters of a candidate
BITS = np.arange(len(SOURCES), dtype=np.uint16)
TOWERS, TRENDING, _, RELATED, TRANSITIONS, _, CONTINUE, POPULAR, POPULAR_RECENTLY, POPULAR_NOW = range(len(SOURCES))


def are_new(as_of_ms: float, upload_ms: np.ndarray) -> np.ndarray:
    """Return a mask (n,) of the videos that are new at a time."""
    return (as_of_ms - upload_ms) / HOUR_MS <= NEW_H


def without_new(sentences: list[str], sources: int) -> list[str]:
    """Return the sentences of a video that was new when they were written and is not any more."""
    return [each for each in sentences if each != NEW] or _weaker(sources)


class Explanations:
    """Write sentences for the videos of a slate."""

    def __init__(self, release: Release, store: Store) -> None:
        counts, half_lives_ms = release.pipeline.schema.state.counts, release.layout.half_lives_ms
        longest = int(np.argmax(half_lives_ms))
        self._slots = [count * len(half_lives_ms) + longest for count, name in enumerate(counts) if name in WATCHED]
        self._upload_ms, self._creator_rows = store.catalogue.upload_ms, store.catalogue.creator_rows
        self._popular = min(POPULAR_RANK, POPULAR_SHARE * len(release.catalogue))
        self._release, self._store = release, store

    def explain(self, query: Query, scored: Scored, slate: Slate) -> list[list[str]]:
        """Return one list a video (K) of the slate."""
        picked = scored.candidates.take(slate.picked)
        watched = self._store.counters(query.state, picked.rows, query.as_of_ms)[:, :, self._slots].sum(axis=2)
        named = picked.sources[:, None] >> BITS & 1 > 0
        first = (picked.ranks > 0) & (picked.ranks <= self._popular)
        near = "similar to what you watched" if (query.watch_s > 0).any() else "chosen for new viewers"
        epsilon = self._release.reranker_of(query.request.surface).exploration.epsilon
        facts = {
            # The best video has a propensity of at least 1 - epsilon; one with less was drawn at random.
            "explored at random": slate.propensities < 1.0 - epsilon,
            "you left it midway": named[:, CONTINUE],
            "shown to you before: nothing new is left": picked.again,
            "from a creator you watch": watched[:, USER_CREATOR] >= ENOUGH,
            "about what you watch": watched[:, USER_TAG] >= ENOUGH,
            "by a creator you follow": np.isin(self._creator_rows[picked.rows], self._followed(query)),
            near: named[:, TOWERS],
            "watched together with what you watched": named[:, RELATED],
            "watched next after what you watched": named[:, TRANSITIONS],
            "popular now": first[:, TRENDING] | first[:, POPULAR_NOW],
            "popular": first[:, POPULAR] | first[:, POPULAR_RECENTLY],
            NEW: are_new(query.as_of_ms, self._upload_ms[picked.rows]),
        }
        sentences, holds = [*facts], np.stack([*facts.values()], axis=1).tolist()
        chosen = [list(compress(sentences, each)) for each in holds]
        return [each or _weaker(sources) for each, sources in zip(chosen, picked.sources.tolist(), strict=True)]

    def _followed(self, query: Query) -> np.ndarray:
        """Return the creators (n,) that the viewer follows, as far as the history goes."""
        creators = self._creator_rows[query.history_rows[query.bits & OUTCOME_BITS["follow"] > 0]]
        return creators[creators >= 0]


def _weaker(sources: int) -> list[str]:
    """Return a sentence for a video that has no better one; a given video may have no source, and so none."""
    return [sentence for source, sentence in WEAKER.items() if sources >> SOURCES.index(source) & 1][:1]

"""Explain why a video is in a slate. Each sentence follows from known facts; none is guessed."""

import numpy as np

from watchnext.features.encode.expressions import HOUR_MS
from watchnext.features.state.history import OUTCOME_BITS
from watchnext.reranking.rules.rule import CatalogueFacts
from watchnext.serving.funnel.answer import source_names
from watchnext.serving.release.release import Release
from watchnext.types import SOURCES, Query, Scored, Slate

WATCHED = ("click", "long_view")  # counts of videos that were started or watched long
ENOUGH = 0.5  # least sum of these counts, decayed at the longest half-life
NEW_H = 24.0
POPULAR_RANK, POPULAR_SHARE = 100, 0.05  # a list of popular videos goes far beyond the popular ones of a catalogue
WEAKER = {
    "followed": "by a creator you watched before",
    "fresh": "among the latest uploads",
    **dict.fromkeys(("trending", "popular", "popular_recently", "popular_now"), "watched by others"),
}  # source > sentence, for a video that has no better one
USER_TAG, USER_CREATOR = 2, 3  # indices in the counters of a candidate


class Explanations:
    """Write sentences for the videos of a slate."""

    def __init__(self, release: Release, facts: CatalogueFacts) -> None:
        counts, half_lives_ms = release.pipeline.schema.state.counts, release.layout.half_lives_ms
        longest = int(np.argmax(half_lives_ms))
        self._slots = [count * len(half_lives_ms) + longest for count, name in enumerate(counts) if name in WATCHED]
        self._upload_ms, self._creator_rows = facts.upload_ms, facts.creator_rows
        self._popular = min(POPULAR_RANK, POPULAR_SHARE * len(release.catalogue))
        self._release = release

    def explain(self, query: Query, scored: Scored, slate: Slate, counters: np.ndarray) -> list[list[str]]:
        """Return one list a video (K) of the slate; `counters` (C, 4, block) are those of all candidates."""
        candidates, picked = scored.candidates, slate.picked
        rows = candidates.rows[picked]
        watched = counters[picked][:, :, self._slots].sum(axis=2)
        sources, ranks = candidates.sources[picked], candidates.ranks[picked]
        named_by = {name: (sources >> i & 1).astype(bool) for i, name in enumerate(SOURCES)}
        first = dict(zip(SOURCES, ((ranks > 0) & (ranks <= self._popular)).T, strict=True))
        near = "similar to what you watched" if (query.watch_s > 0).any() else "chosen for new viewers"
        epsilon = self._release.reranker_of(query.request.surface).exploration.epsilon
        facts = {
            # The best video has a propensity of at least 1 - epsilon; one with less was drawn at random.
            "explored at random": slate.propensities < 1.0 - epsilon,
            "you left it midway": named_by["continue"],
            "shown to you before: nothing new is left": candidates.again[picked],
            "from a creator you watch": watched[:, USER_CREATOR] >= ENOUGH,
            "about what you watch": watched[:, USER_TAG] >= ENOUGH,
            "by a creator you follow": np.isin(self._creator_rows[rows], self._followed(query)),
            near: named_by["two_tower"],
            "watched together with what you watched": named_by["related"],
            "watched next after what you watched": named_by["transitions"],
            "popular now": first["trending"] | first["popular_now"],
            "popular": first["popular"] | first["popular_recently"],
            "uploaded in the last 24 hours": (query.as_of_ms - self._upload_ms[rows]) / HOUR_MS <= NEW_H,
        }
        of_videos = zip(*(holds.tolist() for holds in facts.values()), strict=True)
        chosen = ([sentence for sentence, holds in zip(facts, of_video, strict=True) if holds] for of_video in of_videos)
        return [sentences or _weaker(names) for sentences, names in zip(chosen, source_names(sources), strict=True)]

    def _followed(self, query: Query) -> np.ndarray:
        """Return the creators (n,) that the viewer follows, as far as the history goes."""
        creators = self._creator_rows[query.history_rows[query.bits & OUTCOME_BITS["follow"] > 0]]
        return creators[creators >= 0]


def _weaker(sources: list[str]) -> list[str]:
    """Return a sentence for a video that has no better one; a given video may have no source, and so none."""
    return [sentence for source, sentence in WEAKER.items() if source in sources][:1]

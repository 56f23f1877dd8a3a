"""Explain why a video is in a slate. Each sentence follows from known facts; none is guessed."""

import numpy as np

from watchnext.features.encode.expressions import HOUR_MS
from watchnext.serving.release.release import Release
from watchnext.types import SOURCES, Query, Scored, Slate

POSITIVE = ("click", "long_view", "like", "share", "follow", "comment")  # counts of deliberate outcomes
ENOUGH = 0.5  # least sum of these counts, decayed at the longest half-life
NEW_H = 72.0
USER_TAG, USER_CREATOR = 2, 3  # indices in the counters of a candidate


class Explanations:
    """Write sentences for the videos of a slate."""

    def __init__(self, release: Release) -> None:
        counts, half_lives_ms = release.pipeline.schema.state.counts, release.layout.half_lives_ms
        longest = int(np.argmax(half_lives_ms))
        self._slots = [count * len(half_lives_ms) + longest for count, name in enumerate(counts) if name in POSITIVE]
        self._upload_ms, self._epsilon = release.catalogue.upload_ms, release.reranker.exploration.epsilon

    def explain(self, query: Query, scored: Scored, slate: Slate, counters: np.ndarray) -> list[list[str]]:
        """Return one list a video (K) of the slate; `counters` (C, 4, block) are those of all candidates."""
        candidates, picked = scored.candidates, slate.picked
        positive = counters[picked][:, :, self._slots].sum(axis=2)
        named_by = {name: candidates.named_by(name)[picked] for name in SOURCES}
        like_you = "chosen for viewers like you" if query.request.personalised else "chosen for new viewers"
        near = "similar to what you watched" if len(query.history_rows) else like_you
        facts = {
            # The best video has a propensity of at least 1 - epsilon; one with less was drawn at random.
            "explored at random": slate.propensities < 1.0 - self._epsilon,
            "you left it midway": named_by["continue"],
            "from a creator you watch": positive[:, USER_CREATOR] >= ENOUGH,
            "about what you watch": positive[:, USER_TAG] >= ENOUGH,
            "new from a creator you follow or like": named_by["followed"],
            near: named_by["two_tower"],
            "often watched together with what you watched": named_by["related"],
            "often watched next": named_by["transitions"],
            "popular now": named_by["trending"] | named_by["popular_now"],
            "popular": named_by["popular"] | named_by["popular_recently"],
            "new upload": (query.as_of_ms - self._upload_ms[candidates.rows[picked]]) / HOUR_MS <= NEW_H,
        }
        chosen = [[sentence for sentence, holds in facts.items() if holds[i]] for i in range(len(picked))]
        last = [
            ["among the latest uploads"] if fresh else [] for fresh in named_by["fresh"]
        ]  # a given video may have no source
        return [sentences or other for sentences, other in zip(chosen, last, strict=True)]

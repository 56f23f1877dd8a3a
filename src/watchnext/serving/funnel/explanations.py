"""Why a video stands in a slate, in sentences that are true of it: each is read off what was known, none is guessed."""

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.schema import StateSpec
from watchnext.types import SOURCES

LIKING = ("click", "long_view", "like", "share", "follow", "comment")  # counts that say a viewer chose something
ENOUGH = 0.5  # of them, decayed at the longest half-life
NEW_H = 72.0
USER_TAG, USER_CREATOR = 2, 3  # places in the counters of a candidate


class Reasons:
    """Sentences for the videos of a slate."""

    def __init__(self, state: StateSpec, layout: Layout) -> None:
        half_lives = len(layout.half_lives_ms)
        longest = int(np.argmax(layout.half_lives_ms))
        self._slots = [count * half_lives + longest for count, name in enumerate(state.counts) if name in LIKING]

    def of(
        self, counters: np.ndarray, sources: np.ndarray, age_h: np.ndarray, explored: np.ndarray, *, has_history: bool
    ) -> list[list[str]]:
        """One list a video (K), from its counters (K, 4, block), source bits, age (nan unknown) and whether chance chose it."""
        liking = counters[:, :, self._slots].sum(axis=2)
        named = {name: sources >> bit & 1 for bit, name in enumerate(SOURCES)}
        near = "similar to what you watched" if has_history else "chosen for viewers like you"
        facts = {
            "explored at random": explored,
            "you left it midway": named["continue"],
            "from a creator you watch": liking[:, USER_CREATOR] >= ENOUGH,
            "about what you watch": liking[:, USER_TAG] >= ENOUGH,
            "new from a creator you follow or like": named["followed"],
            near: named["two_tower"],
            "often watched together with what you watched": named["related"],
            "often watched next": named["transitions"],
            "popular now": named["trending"],
            "new upload": age_h <= NEW_H,
        }
        said = [[sentence for sentence, holds in facts.items() if holds[place]] for place in range(len(sources))]
        return [sentences or ["among the latest uploads"] for sentences in said]  # the one source left is `fresh`

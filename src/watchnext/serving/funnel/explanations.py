"""Explain why a video is in a slate. Each sentence follows from known facts; none is guessed."""

import numpy as np

from watchnext.features.state.fold import Layout
from watchnext.schema import StateSpec
from watchnext.types import SOURCES

POSITIVE = ("click", "long_view", "like", "share", "follow", "comment")  # counts of deliberate outcomes
ENOUGH = 0.5  # least sum of these counts, decayed at the longest half-life
NEW_H = 72.0
USER_TAG, USER_CREATOR = 2, 3  # indices in the counters of a candidate


class Explanations:
    """Write sentences for the videos of a slate."""

    def __init__(self, state: StateSpec, layout: Layout) -> None:
        half_lives = len(layout.half_lives_ms)
        longest = int(np.argmax(layout.half_lives_ms))
        self._slots = [count * half_lives + longest for count, name in enumerate(state.counts) if name in POSITIVE]

    def explain(
        self, counters: np.ndarray, sources: np.ndarray, age_h: np.ndarray, explored: np.ndarray, *, has_history: bool
    ) -> list[list[str]]:
        """Return one list a video (K) from counters (K, 4, block), source bits, ages (nan unknown) and random draws (bool)."""
        positive = counters[:, :, self._slots].sum(axis=2)
        named_by = {name: sources >> bit & 1 for bit, name in enumerate(SOURCES)}
        near = "similar to what you watched" if has_history else "chosen for viewers like you"
        facts = {
            "explored at random": explored,
            "you left it midway": named_by["continue"],
            "from a creator you watch": positive[:, USER_CREATOR] >= ENOUGH,
            "about what you watch": positive[:, USER_TAG] >= ENOUGH,
            "new from a creator you follow or like": named_by["followed"],
            near: named_by["two_tower"],
            "often watched together with what you watched": named_by["related"],
            "often watched next": named_by["transitions"],
            "popular now": named_by["trending"],
            "new upload": age_h <= NEW_H,
        }
        chosen = [[sentence for sentence, holds in facts.items() if holds[i]] for i in range(len(sources))]
        return [sentences or ["among the latest uploads"] for sentences in chosen]  # the only source left is `fresh`

"""What is trending, kept up with the events that a store accepts."""

from collections.abc import Sequence

import numpy as np

from watchnext.retrieval.sources.trending import Trending
from watchnext.serving.release.release import Release
from watchnext.serving.store.events import Event

HALF_LIVES = 8.0  # an event that old counts 1/256 and is not worth reading


class TrendingNow:
    """Counts of a release, and of the events since. An event counts where it says it was shown, in the viewer's own region; one
    of an unknown viewer or without a surface counts in the levels that are known."""

    def __init__(self, release: Release) -> None:
        self.counts = Trending(release.trending)
        self._counted = release.retrieval["trending"]["count"]
        self._user_ids, self._regions, self._as_of_ms = release.user_ids, release.user_regions, release.as_of_ms

    def since_ms(self, now_ms: int) -> float:
        """From when on events of a journal matter: the release holds those before its `as_of`, and old ones have faded."""
        return max(self._as_of_ms, now_ms - HALF_LIVES * self.counts.half_life_ms)

    def _counts(self, event: Event) -> bool:
        return event.kind == "outcome" and event.known_at >= self._as_of_ms and getattr(event, self._counted)

    def take(self, events: Sequence[Event], rows: np.ndarray) -> None:
        """Count events about the videos `rows` (N,), but those of the log's time, which the release has counted."""
        chosen = [i for i, event in enumerate(events) if self._counts(event)]
        if not chosen:
            return
        users = self._user_ids.rows([events[i].user_id for i in chosen])
        regions = [str(self._regions[user]) if user >= 0 else "" for user in users.tolist()]
        lines = self.counts.lines([(events[i].surface, region) for i, region in zip(chosen, regions, strict=True)])
        self.counts.count(rows[chosen], np.array([float(events[i].known_at) for i in chosen]), lines)

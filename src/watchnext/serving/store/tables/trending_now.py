"""Keep trending counts up to date with the events that a store accepts."""

from collections.abc import Sequence

import numpy as np

from watchnext.retrieval.sources.trending import Trending
from watchnext.serving.release.release import Release
from watchnext.serving.store.tables.journal import Event

HALF_LIVES = 8.0  # an older event counts less than 1/256 and is not read


class TrendingNow:
    """Trending counts of a release and of later events, with `room` for videos that are posted.

    An event counts for its surface and the viewer's own region. Without a surface, or for an unknown viewer, it counts only at
    the levels that are known.
    """

    def __init__(self, release: Release, *, room: int) -> None:
        self.counts = Trending(release.trending, room=room)
        self._outcome = release.retrieval["trending"]["count"]
        self._user_ids, self._regions, self._as_of_ms = release.user_ids, release.user_regions, release.as_of_ms

    def since_ms(self, now_ms: int) -> float:
        """Return the time from which events of a journal matter: the release holds earlier ones, and old ones have faded."""
        return max(self._as_of_ms, now_ms - HALF_LIVES * self.counts.half_life_ms)

    def _is_counted(self, event: Event) -> bool:
        return event.kind == "outcome" and event.known_at >= self._as_of_ms and getattr(event, self._outcome)

    def add(self, events: Sequence[Event], rows: np.ndarray) -> None:
        """Count events about the videos `rows` (N,), except those before the release's `as_of`, which it has counted."""
        chosen = [i for i, event in enumerate(events) if self._is_counted(event)]
        if not chosen:
            return
        users = self._user_ids.rows([events[i].user_id for i in chosen])
        regions = [str(self._regions[user]) if user >= 0 else "" for user in users.tolist()]
        lines = self.counts.lines([(events[i].surface, region) for i, region in zip(chosen, regions, strict=True)])
        self.counts.count(rows[chosen], np.array([float(events[i].known_at) for i in chosen]), lines)

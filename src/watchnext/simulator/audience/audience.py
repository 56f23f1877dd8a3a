"""An audience: viewers who visit, watch, leave and come back, each according to how earlier slates served them."""

import heapq
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from watchnext.data.tables import OUTCOMES
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.audience.visits import Visit, asked, comings, watched
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS, Outcomes, truths
from watchnext.simulator.platform.slates import SESSIONS, Memory, Platform, empty_chunk, new_scratch

SAMPLE = 64  # videos of the uniform draw from which a viewer's expectation follows
PAUSE_MS = HOUR_MS // 2  # between two sessions


class Audience:
    """Let viewers of a platform visit day by day. One thread uses it; another audience of the same world does not know of it.

    users (U,)          rows of the viewers who take part
    satisfaction (U,)   as of the last slate
    """

    def __init__(self, platform: Platform, memory: Memory, *, loyalty: Loyalty, users: np.ndarray, start_ms: int) -> None:
        clusters = platform.directions.shape[1]
        self.users, self.satisfaction = np.asarray(users, np.int64), np.zeros(len(users))
        self._platform = platform._replace(physics=platform.physics._replace(satiation=loyalty.satiation))
        self._memory = memory._replace(weary=np.zeros((len(memory.free_ms), clusters)))
        self._loyalty, self._scratch, self._out = loyalty, new_scratch(clusters), empty_chunk(1)
        self._position = np.full(len(memory.free_ms), -1)
        self._position[self.users] = np.arange(len(self.users))
        self._rested_ms = np.full(len(memory.free_ms), start_ms)
        self._queue: list[tuple[int, Visit]] = []
        self.expected = self._uniform_long_views(start_ms) + loyalty.margin

    def _uniform_long_views(self, time_ms: int) -> np.ndarray:
        """Return the share (U,) of long views that a uniform draw of the uploaded videos would have."""
        order, videos = self._platform.index.by_upload, self._platform.videos
        uploaded = order[videos["upload_ms"][order] <= time_ms]
        rows = uploaded[np.linspace(0, len(uploaded) - 1, SAMPLE).astype(np.int64)]
        users, drawn = np.repeat(self.users, SAMPLE), np.tile(rows, len(self.users))
        none, times = np.zeros(len(drawn), np.int64), np.full(len(drawn), time_ms)
        table = truths(self._platform.physics, self._platform.viewers, videos, users, drawn, times, none > 0, none)
        return table[:, 1 + OUTCOMES.index("long_view")].reshape(-1, SAMPLE).mean(axis=1)

    @property
    def chances(self) -> np.ndarray:
        """Chance (U,) of each viewer to come on the next day."""
        return self._loyalty.chances(self.satisfaction)

    def live(self, day_ms: int, show: Callable[[Visit], Sequence[int]]) -> Iterator[tuple[Visit, Sequence[int], Outcomes]]:
        """Let the viewers live through a day: yield every visit in the order of time, the slate (K,) of video rows, best first,
        that `show` returned for it, and its outcomes. A session that goes on after midnight does so on the next call."""
        queue, end_ms = self._queue, day_ms + DAY_MS
        for visit in self.come(day_ms):
            heapq.heappush(queue, (visit.time_ms, visit))
        while queue and queue[0][0] < end_ms:
            _, visit = heapq.heappop(queue)
            free_ms = int(self._memory.free_ms[visit.user])
            if visit.number == 0 and free_ms > visit.time_ms:  # the session before is not over
                heapq.heappush(queue, (free_ms, visit._replace(time_ms=free_ms)))
                continue
            rows = show(visit)
            outcomes, after = self.watch(visit, rows)
            if after:
                heapq.heappush(queue, (after.time_ms, after))
            yield visit, rows, outcomes

    def come(self, day_ms: int) -> list[Visit]:
        """Draw the first visits of all sessions of a day, by time."""
        most = len(self.users) * SESSIONS
        at, times, keys = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
        count = comings(self._platform, self._scratch, self.users, self.chances, day_ms, at, times, keys)
        order = np.lexsort((at[:count], times[:count]))
        first = zip(self.users[at[order]].tolist(), times[order].tolist(), keys[order].tolist(), strict=True)
        return [self._visit(user, time_ms, key, -1, 0, 0) for user, time_ms, key in first]

    def _visit(self, user: int, time_ms: int, key: int, surface: int, number: int, depth: int) -> Visit:
        surface, slots = asked(self._platform.seed, self._scratch.stream, user, key, surface)
        return Visit(user, time_ms, surface, slots, number, depth, key)

    def watch(self, visit: Visit, rows: Sequence[int]) -> tuple[Outcomes, Visit | None]:
        """Show the slate `rows` (K,), best first, at a visit; return its outcomes, and the session's next visit if there is
        one.

        A viewer who is shown nothing leaves.
        """
        slate = np.asarray(rows, np.int32)
        self._out.video[: len(slate)] = slate
        self._rest(visit)
        if not len(slate):
            self._remember(visit, 0.0, visit.time_ms)
            return self._outcomes(visit, 0), None
        long_views, time_ms = watched(
            self._platform, self._memory, self._scratch, visit.user, visit.key, visit.time_ms, visit.surface, visit.number,
            visit.depth, len(slate), self._out,
        )  # fmt: skip
        self._remember(visit, long_views / len(slate), abs(time_ms))
        if time_ms < 0:
            return self._outcomes(visit, len(slate)), None
        depth = visit.depth + len(slate)
        after = self._visit(visit.user, time_ms, visit.key + 1, visit.surface, visit.number + 1, depth)
        return self._outcomes(visit, len(slate)), after

    def _rest(self, visit: Visit) -> None:
        hours = (visit.time_ms - self._rested_ms[visit.user]) / HOUR_MS
        self._memory.weary[visit.user] *= self._loyalty.rested(hours)
        self._rested_ms[visit.user] = visit.time_ms

    def _remember(self, visit: Visit, long_views: float, end_ms: int) -> None:
        self._memory.free_ms[visit.user] = end_ms + PAUSE_MS
        at = self._position[visit.user]
        gained = long_views - self.expected[at] - self.satisfaction[at]
        self.satisfaction[at] += self._loyalty.memory * gained

    def _outcomes(self, visit: Visit, slots: int) -> Outcomes:
        watch_ms, lag_ms = (values[:slots].astype(np.int64) for values in (self._out.watch_ms, self._out.lag_ms))
        flags = self._out.flags[:slots]
        masks = {name: (flags >> bit) & 1 == 1 for bit, name in enumerate(OUTCOMES)}
        return Outcomes(watch_ms, visit.time_ms + lag_ms, masks)

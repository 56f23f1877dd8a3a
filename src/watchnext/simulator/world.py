"""A simulated short-video platform with known true preferences, for the sample, benchmarks of any size and closed-loop tests.

docs/simulator.md describes mechanisms and figures. Users and videos are addressed by their row in the tables of the log.
"""

from collections.abc import Iterator
from copy import copy
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa

from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.tables import OUTCOMES, Tables
from watchnext.simulator.audience.audience import Audience
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.behaviour import DAY_MS, DIMENSION, Outcomes, Truth, popularity_of, taste_into, truth_from, truths
from watchnext.simulator.log_stream import DayLog, draw_days
from watchnext.simulator.mechanisms import SURFACES, Mechanisms, examination
from watchnext.simulator.platform.inventory import empty_inventory, index_videos
from watchnext.simulator.platform.logging_policy import FOLLOWS, Policy
from watchnext.simulator.platform.slates import Memory, Platform, empty_chunk, new_scratch, watch_slate
from watchnext.simulator.population import blocks, draw_viewers, unit, user_table
from watchnext.simulator.random import reset
from watchnext.simulator.shift import Shift, shifted
from watchnext.simulator.videos import draw_catalogue, draw_uploads, video_table

REQUESTS_IN_SESSION, SLOTS = 2.8, 8.0  # averages that convert impressions per day to sessions per day
DEFAULT_MECHANISMS, DEFAULT_POLICY = Mechanisms(), Policy()


class World:
    """A simulated platform. `read` and `log` hold the log in memory, `days_of_log` streams it; all give the same log."""

    def __init__(
        self,
        *,
        users: int = 1600,
        videos: int = 4000,
        creators: int | None = None,
        tags: int = 40,
        vector_size: int = 16,
        days: int = 10,
        impressions_per_user_day: float = 9.0,
        start_ms: int = 1_741_564_800_000,
        seed: int = 20250310,
        mechanisms: Mechanisms = DEFAULT_MECHANISMS,
        policy: Policy = DEFAULT_POLICY,
    ):
        """`start_ms` is a midnight UTC, by default Monday 10 March 2025; `creators` is by default an eighth of the videos."""
        if start_ms % DAY_MS:
            raise ValueError(
                f"start_ms is {start_ms}, expected a midnight UTC; the nearest before it is {start_ms - start_ms % DAY_MS}"
            )
        if min(users, videos, tags, days) < 1:
            raise ValueError(f"users={users} videos={videos} tags={tags} days={days}: expected at least 1 of each")
        self.days, self.start_ms, self.seed, self.vector_size = days, start_ms, seed, vector_size
        self.mechanisms, self.policy = mechanisms, policy
        creators = creators or max(videos // 8, 1)
        directions = unit(np.random.default_rng([seed, 0]).standard_normal((tags, DIMENSION)))
        self.viewers = draw_viewers(
            seed,
            users=users,
            directions=directions,
            days=days,
            start_ms=start_ms,
            sessions=impressions_per_user_day / (REQUESTS_IN_SESSION * SLOTS),
            drift_days=mechanisms.drift_days,
        )
        self.catalogue = draw_catalogue(
            seed, videos=videos, creators=creators, directions=directions, days=days, start_ms=start_ms
        )
        self._platform = Platform(
            seed,
            self.viewers,
            self.catalogue,
            index_videos(self.catalogue, tags, creators),
            mechanisms.compiled(),
            np.ascontiguousarray(directions.T),
            np.array([policy.home, policy.discover]),
            policy.explore,
            policy.random_requests,
            policy.blur,
        )
        self._first_index, self._steps = self._platform.index, 0
        self._wave_from = len(self.catalogue)

    def read(self) -> Loaded:
        """Return the log as a loader does."""
        return Loaded(self.log(), pl.DataFrame(schema=REJECTED))

    def log(self) -> Tables:
        """Simulate the whole period under the logging policy; every call gives the same tables."""
        groups = [group for day in self.days_of_log(quiet=True) for group in self.tables_of(day)]
        texts = pl.col("surface", "policy").cast(pl.String)
        return Tables(
            pl.from_arrow(pa.concat_tables(groups)).with_columns(texts),
            pl.from_arrow(pa.concat_tables(self.user_tables())),
            pl.from_arrow(pa.concat_tables(self.video_tables())),
        )

    def user_tables(self) -> Iterator[pa.Table]:
        return (user_table(self.viewers, part) for part in blocks(len(self.viewers)))

    def video_tables(self) -> Iterator[pa.Table]:
        return (video_table(self.catalogue, self.seed, self.vector_size, part) for part in blocks(len(self.catalogue)))

    def uploads(self, first: int) -> pa.Table:
        """Return the canonical table of the videos from row `first` on, which `continued` added.

        A wave is drawn apart, so that the vectors of the usual uploads do not depend on it.
        """
        ends = (first, self._wave_from, len(self.catalogue))
        parts = [slice(*each) for each in pairwise(ends) if each[0] < each[1]] or [slice(first, first)]
        return pa.concat_tables([video_table(self.catalogue, self.seed, self.vector_size, part) for part in parts])

    def tables_of(self, day: DayLog) -> Iterator[pa.Table]:
        """Yield the canonical impressions of a day, some 260,000 at a time."""
        return day.groups(self.viewers["id"], self.catalogue["id"])

    def days_of_log(self, *, threads: int = 1, quiet: bool = False) -> Iterator[DayLog]:
        """Simulate day by day; the log does not depend on `threads`. Shows a progress bar on a terminal unless `quiet`."""
        return self._drawn(self._fresh_memory(), self.days, threads=threads, quiet=quiet)

    def _drawn(self, memory: Memory, days: int, *, threads: int, quiet: bool) -> Iterator[DayLog]:
        return draw_days(
            self._platform,
            empty_inventory(self._platform.index, self.catalogue, 24 // self.policy.refresh_h),
            memory,
            first_ms=self.start_ms,
            days=days,
            policy_sharpness=self.policy.popularity,
            threads=threads,
            quiet=quiet,
        )

    def continued(self, days: int, shift: Shift | None = None) -> "World":
        """Return the world with `days` more in which its creators upload as many videos a day as before; and in which, with a
        `shift`, tastes jump on one of these days, and a wave of further videos is uploaded.

        The rows of viewers and videos stay, new videos follow behind them, and the log of the first days is the same. The other
        uploads are those of the world without a shift.
        """
        later, directions = copy(self), np.ascontiguousarray(self._platform.directions.T)
        creators, end_ms = len(self._platform.index.creator_start) - 1, self.start_ms + self.days * DAY_MS
        count = len(self.catalogue) * days // (2 * self.days)
        uploads = draw_uploads(self.seed, self.catalogue, count, creators, directions, days=days, start_ms=end_ms)
        later.catalogue, later.days = np.concatenate([self.catalogue, uploads]), self.days + days
        later._wave_from = len(later.catalogue)
        if shift is not None:
            shift.require(days)
            shift_ms = end_ms + (shift.day - 1) * DAY_MS
            wave = draw_uploads(self.seed, later.catalogue, shift.videos, creators, directions, days=1, start_ms=shift_ms)
            later.catalogue = np.concatenate([later.catalogue, wave])
            later.viewers = shifted(self.viewers, shift, seed=self.seed, shift_ms=shift_ms)
        index = index_videos(later.catalogue, len(directions), creators)
        later._platform = self._platform._replace(viewers=later.viewers, videos=later.catalogue, index=index)
        later.__dict__.pop("_memory", None)
        return later

    def audience(self, *, loyalty: Loyalty, users: np.ndarray, start_ms: int) -> Audience:
        """Return the viewers `users` (U,), by row, as the log of the days before `start_ms`, a midnight UTC, leaves them."""
        memory, days = self._fresh_memory(), (start_ms - self.start_ms) // DAY_MS
        for _ in self._drawn(memory, days, threads=1, quiet=True):
            pass
        memory.free_ms[:] = 0
        return Audience(self._platform, memory, loyalty=loyalty, users=users, start_ms=start_ms)

    @cached_property
    def _memory(self) -> Memory:
        """Memory of closed loops; the log has its own."""
        return self._fresh_memory()

    def _fresh_memory(self) -> Memory:
        """Return the memory before the log: every viewer follows a few creators of their best cluster."""
        users, index = len(self.viewers), self._first_index
        follows, follows_at = np.full((users, FOLLOWS), -1, np.int32), np.zeros(users, np.int32)
        for part in blocks(users):
            rng = np.random.default_rng([self.seed, 8, part.start])
            cluster = (self.viewers["first"][part] @ self._platform.directions).argmax(axis=1)
            start, end = index.cluster_start[cluster], index.cluster_start[cluster + 1]
            positions = start[:, None] + (rng.random((len(cluster), 4)) * (end - start)[:, None]).astype(np.int64)
            counts = np.where(end > start, rng.integers(0, 5, len(cluster)), 0)
            creators = self.catalogue["creator"][index.by_cluster[np.minimum(positions, len(index.by_cluster) - 1)]]
            repeated = np.tril(creators[:, :, None] == creators[:, None, :], -1).any(axis=2)
            follows[part, :4] = np.where((np.arange(4) < counts[:, None]) & ~repeated, creators, -1)
            follows_at[part] = counts
        seen = np.full((users, self.policy.seen), -1, np.int32)
        return Memory(seen, np.zeros(users, np.int32), follows, follows_at, np.zeros(users, np.int64), np.zeros((users, 0)))

    def taste(self, user_rows: np.ndarray, time_ms: np.ndarray | int) -> np.ndarray:
        """Return taste unit vectors (..., D) at any time."""
        users, times = np.broadcast_arrays(user_rows, time_ms)
        out = np.empty((users.size, DIMENSION), np.float32)
        for row, user, time in zip(out, users.ravel(), times.ravel(), strict=True):
            taste_into(row, self.viewers, user, time)
        return out.reshape(*users.shape, -1)

    def popularity(self, video_rows: np.ndarray, time_ms: np.ndarray | int) -> np.ndarray:
        """Return the log popularity at any time."""
        pairs = np.broadcast(video_rows, time_ms)
        return np.array([popularity_of(self.catalogue, *pair) for pair in pairs]).reshape(pairs.shape)

    def truth(
        self,
        user_rows: np.ndarray,
        video_rows: np.ndarray,
        time_ms: np.ndarray | int,
        *,
        followed: np.ndarray | None = None,
        session_depth: np.ndarray | int = 0,
    ) -> Truth:
        """Return the truth of examined videos. Arguments broadcast against each other, such as (B, 1), (B, C), (B, 1).

        followed       whether the viewer follows the creator; default: those before the log, and those added by `step`
        session_depth  impressions of the viewer's session before the request
        """
        if followed is None:
            users, videos = np.broadcast_arrays(user_rows, video_rows)
            followed = (self._memory.follows[users] == self.catalogue["creator"][videos][..., None]).any(axis=-1)
        arrays = np.broadcast_arrays(user_rows, video_rows, time_ms, followed, session_depth)
        flat = [np.ascontiguousarray(array).ravel() for array in arrays]
        return truth_from(truths(self._platform.physics, self.viewers, self.catalogue, *flat), arrays[0].shape)

    def examination(self, long_view: np.ndarray, surface: str) -> np.ndarray:
        """Return the examination probability (..., K) of each position of a slate, given true `long_view` probabilities."""
        return examination(self.mechanisms.position_law, _known(surface), long_view)

    def step(self, user_row: int, video_rows: np.ndarray, time_ms: int, surface: str, *, session_depth: int = 0) -> Outcomes:
        """Show one slate (K,), best first, and draw its outcomes; every call draws anew, and follows persist."""
        slate = np.asarray(video_rows)
        out = empty_chunk(len(slate) // 10 + 1)
        out.video[: len(slate)] = slate
        scratch = new_scratch(self._platform.directions.shape[1])
        reset(scratch.stream, self.seed, 3, self._steps, 0)
        self._steps += 1
        surface_code = SURFACES.index(_known(surface))
        watch_slate(self._platform, self._memory, scratch, user_row, time_ms, surface_code, session_depth, len(slate), out, 0)
        masks = {name: (out.flags[: len(slate)] >> i) & 1 == 1 for i, name in enumerate(OUTCOMES)}
        watch_ms, lag_ms = (values[: len(slate)].astype(np.int64) for values in (out.watch_ms, out.lag_ms))
        return Outcomes(watch_ms, time_ms + lag_ms, masks)


def _known(surface: str) -> str:
    if surface not in SURFACES:
        raise ValueError(f"surface is {surface!r}, expected one of {', '.join(SURFACES)}")
    return surface

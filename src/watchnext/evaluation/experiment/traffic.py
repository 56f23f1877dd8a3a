"""Simulated viewers in front of the Recommender that serves: what an arm shows, what its viewers do, and what its store learns.

Policies that stand side by side share the traffic: the store of each hears what a server hears, the log since the release,
videos as they are posted, the impressions of all viewers at the time of the answer, and outcomes when they arrive.
"""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.data.tables import OUTCOMES
from watchnext.evaluation.experiment.interleaving import team_draft
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.replay.event_stream import events_of, fresh_store
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.serving.store.tables.journal import Event
from watchnext.simulator.audience.visits import Visit
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS, Outcomes
from watchnext.simulator.mechanisms import SURFACES
from watchnext.types import Request

COLUMNS = {
    "viewer": pl.Int32, "request": pl.Int32, "time_ms": pl.Int64, "position": pl.Int16, "video": pl.Int32,
    "watch_ms": pl.Int64, "long_view": pl.Boolean, "team": pl.Int8,
}  # fmt: skip
POSTED_TOGETHER = 100  # videos of one call at most, as the API has it
LOGGED_TOGETHER = 10_000  # events


class Arm:
    """Answer visits by one of several policies, or by two whose slates are interleaved.

    policy_of  (users of the world,) number of the policy that answers each; None interleaves two
    rows       impressions of each request so far, as columns of COLUMNS; `team` is the number of the policy
    """

    def __init__(
        self, recommenders: Sequence[Recommender], simulation: Simulation, policy_of: np.ndarray | None, *, seed: int
    ) -> None:
        self._recommenders, self._policy_of, self._seed = recommenders, policy_of, seed
        self._users, ids = simulation.world.viewers["id"], simulation.world.catalogue["id"]
        self._row = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        self._posts, self._posted = simulation.posts(), 0
        self._due: list[tuple[int, int, Event]] = []
        self._order, self._ids, self._teams = count(), [], []
        self.rows: list[pl.DataFrame] = []

    def show(self, visit: Visit) -> list[int]:
        """Answer a visit with rows of videos (K,), once the stores have heard what was known before it."""
        self._hear(visit.time_ms)
        surface = SURFACES[visit.surface]
        user_id = int(self._users[visit.user])
        request = Request(f"{visit.user}-{visit.key}", user_id, visit.slots, visit.time_ms, surface)
        self._ids, self._teams = self._answered(request, visit)
        return [self._row[each] for each in self._ids]

    def _answered(self, request: Request, visit: Visit) -> tuple[Sequence[int], Sequence[int]]:
        if self._policy_of is not None:
            number = int(self._policy_of[visit.user])
            ids = self._recommenders[number].recommend(request).ids
            return ids, [number] * len(ids)
        slates = [recommender.recommend(request).ids for recommender in self._recommenders]
        random = np.random.default_rng([self._seed, visit.user, visit.key])
        return team_draft(*slates, request.k, random)

    def hear_of(self, visit: Visit, rows: Sequence[int], outcomes: Outcomes) -> None:
        """Keep what a visit came to, for the record and for the stores at the time when they would know it."""
        shared = {"user_id": int(self._users[visit.user]), "surface": SURFACES[visit.surface]}
        shared["request_id"] = f"{visit.user}-{visit.key}"
        received, watched = outcomes.received_ms.tolist(), outcomes.watch_ms.tolist()
        flags = {name: mask.tolist() for name, mask in outcomes.masks.items()}
        for at, video_id in enumerate(self._ids):
            given = {name: flags[name][at] for name in OUTCOMES}
            self._push(Event(kind="shown", video_id=video_id, known_at=visit.time_ms, **shared))
            outcome = {"known_at": received[at], "watch_ms": watched[at]}
            self._push(Event(kind="outcome", video_id=video_id, **outcome, **shared, **given))
        columns = [visit.user, len(self.rows), visit.time_ms, np.arange(len(rows)), rows, outcomes.watch_ms]
        columns += [outcomes.masks["long_view"], self._teams]
        broadcast = (np.broadcast_to(np.asarray(each), len(rows)) for each in columns)
        self.rows.append(pl.DataFrame(dict(zip(COLUMNS, broadcast, strict=True)), schema_overrides=COLUMNS))

    def _push(self, event: Event) -> None:
        heapq.heappush(self._due, (event.known_at, next(self._order), event))

    def _hear(self, until_ms: int) -> None:
        """Apply every event known before a time: posts in calls of their own, as a server gets them."""
        start = self._posted
        while self._posted < len(self._posts) and self._posts[self._posted].known_at < until_ms:
            self._posted += 1
        events = []
        while self._due and self._due[0][0] < until_ms:
            events.append(heapq.heappop(self._due)[2])
        for recommender in self._recommenders:
            for first in range(start, self._posted, POSTED_TOGETHER):
                recommender.store.apply(self._posts[first : min(first + POSTED_TOGETHER, self._posted)])
            if events:
                recommender.store.apply(events)


def run_arms(
    title: str, policies: Sequence[Release], simulation: Simulation, policy_of: np.ndarray | None, *, seed: int
) -> pl.DataFrame:
    """Let the viewers of a simulation live with policies, as `Arm` says; return their impressions, with COLUMNS.

    Shows a progress bar on a terminal. The same arguments give the same impressions.
    """
    audience = simulation.audience()
    with opened(policies, simulation) as recommenders:
        arm = Arm(recommenders, simulation, policy_of, seed=seed)
        hours = 24 * simulation.days
        with tqdm(total=hours, desc=f"experiment: {title}", unit=" h", disable=None) as bar:
            for day in range(simulation.days):
                for visit, rows, outcomes in audience.live(simulation.start_ms + day * DAY_MS, arm.show):
                    arm.hear_of(visit, rows, outcomes)
                    bar.update((visit.time_ms - simulation.start_ms) // HOUR_MS - bar.n)
            bar.update(hours - bar.n)
    return pl.concat([pl.DataFrame(schema=COLUMNS), *arm.rows])


@contextmanager
def opened(policies: Sequence[Release], simulation: Simulation) -> Iterator[list[Recommender]]:
    """Yield a recommender of each policy, with a store that has heard the log since its release."""
    with ExitStack() as stores:
        recommenders = []
        for release in policies:
            simulation.require(release)
            store = stores.enter_context(fresh_store(release))
            events = events_of(simulation.log.impressions, release.as_of_ms)
            for first in range(0, len(events), LOGGED_TOGETHER):
                store.apply(events[first : first + LOGGED_TOGETHER])
            recommenders.append(Recommender(release, store))
        yield recommenders

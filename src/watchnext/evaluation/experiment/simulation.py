"""The simulated platform of an experiment: a world that goes on after its log, and the viewers who take part."""

from dataclasses import dataclass

import numpy as np

from watchnext.assignment import ExperimentError
from watchnext.data.tables import Tables
from watchnext.serving.release.release import Release
from watchnext.serving.store.tables.journal import Event
from watchnext.simulator.audience.audience import Audience
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.shift import Shift
from watchnext.simulator.world import World


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A world after its log.

    world     continued by `days`
    log       of the days before `start_ms`
    users     rows of the viewers who take part, (U,), bots among them as in the log
    start_ms  the end of the log, from where the policies answer
    released  number of videos that are in the log
    """

    world: World
    log: Tables
    loyalty: Loyalty
    users: np.ndarray
    start_ms: int
    days: int
    released: int

    @classmethod
    def of(cls, world: World, *, loyalty: Loyalty, days: int, viewers: int | None, shift: Shift | None = None) -> "Simulation":
        """Continue a world, with a `shift` if one is given; at most `viewers` take part, evenly spaced over all. Raises
        ExperimentError for too few, ValueError for a shift after the last day.

        Fewer than all make a smaller platform than the one that a release has learned, with smaller counts.
        """
        if days < 1 or (viewers is not None and viewers < 2):
            raise ExperimentError(f"days is {days} and viewers {viewers}: expected at least 1 day and 2 viewers")
        most = len(world.viewers)
        chosen = np.unique(np.linspace(0, most - 1, min(viewers or most, most)).astype(np.int64))
        return cls(
            world=world.continued(days, shift), log=world.log(), loyalty=loyalty, users=chosen, days=days,
            start_ms=world.start_ms + world.days * DAY_MS, released=len(world.catalogue),
        )  # fmt: skip

    def people(self, users: np.ndarray) -> np.ndarray:
        """Return those of `users` (U,) who are no bots: figures are of people alone, as a team filters its bots."""
        return users[~self.world.viewers["bot"][users]]

    def audience(self) -> Audience:
        """Return the viewers as the log leaves them; every call gives new ones with the same luck."""
        return self.world.audience(loyalty=self.loyalty, users=self.users, start_ms=self.start_ms)

    def posts(self) -> list[Event]:
        """Return the events that post the videos uploaded after the log, in the order of time."""
        table = sorted(self.world.uploads(self.released).to_pylist(), key=lambda row: row["upload_ms"])
        return [
            Event(kind="posted", user_id="", video_id=row.pop("video_id"), known_at=row["upload_ms"], metadata=row)
            for row in table
        ]

    def require(self, release: Release) -> None:
        """Raise ExperimentError unless a release was built from the log of this world."""
        users, videos = self.world.viewers["id"], self.world.catalogue["id"][: self.released]
        if not (np.array_equal(release.user_ids.ids, users) and np.array_equal(release.video_ids.ids, videos)):
            raise ExperimentError(
                f"{release.id} was not built from the log of this world ({len(users):,} viewers and {len(videos):,} videos): "
                "how viewers would answer is known of a simulated log alone, not of a real one; give the data set of the world "
                "that made the log, such as data=world, or run an experiment on live traffic"
            )
        if release.as_of_ms > self.start_ms:
            raise ExperimentError(f"{release.id} is as of {release.as_of_ms}, after the log's end at {self.start_ms}")

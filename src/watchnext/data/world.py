"""A simulated short-video platform whose true preferences are known: it makes the sample, and drives closed-loop tests.

The logging policy fills a slate from the top. With probability EXPLORE a slot is uniform over the videos that may still be
shown, otherwise it is drawn from the softmax of the policy's scores over them; `propensity` is the mixture's probability of
the video at its slot, given those above it. A share of the requests is answered by the policy `random`, all of whose slots are
uniform. A video may be shown when it is uploaded, safe, allowed in the viewer's region and not among the last videos shown to
the viewer.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.data import behaviour
from watchnext.data.behaviour import Inclination, Outcomes, Truth
from watchnext.data.loaders import REJECTED, Loaded
from watchnext.data.logging_policy import Seen, draw_slates
from watchnext.data.population import DAY_MS, draw_catalogue, draw_viewers, unit
from watchnext.data.tables import IMPRESSIONS, Tables

HOUR_MS = 3_600_000
EXPLORE = 0.05
RANDOM_REQUESTS = 0.04
MIN_SLOTS, MAX_SLOTS = 6, 10
DRIFT_AFTER_DAYS = 14  # tastes go on drifting this long after the log ends, for closed loops that start there
# How the policy `softmax` weighs popularity and its blurred view of the viewer's taste, by surface.
POLICY_WEIGHTS = {"home": (0.6, 1.7), "discover": (1.0, 0.9)}


@dataclass(frozen=True)
class Requests:
    """R requests of one hour, by distinct viewers."""

    users: np.ndarray
    time_ms: np.ndarray
    discover: np.ndarray


class World:
    """Users and videos are addressed by their row in `viewers.table` and `catalogue.table`, the tables of the log."""

    def __init__(
        self,
        *,
        users: int = 1600,
        videos: int = 4000,
        creators: int = 500,
        tags: int = 40,
        dimension: int = 12,
        vector_size: int = 16,
        days: int = 10,
        impressions_per_user_day: float = 9.0,
        start_ms: int = 1_741_564_800_000,
        seed: int = 20250310,
    ):
        """`start_ms` is a midnight UTC, by default Monday 10 March 2025."""
        if start_ms % DAY_MS:
            raise ValueError(
                f"start_ms is {start_ms}, expected a midnight UTC; the nearest before it is {start_ms - start_ms % DAY_MS}"
            )
        self.days, self.start_ms, self.seed = days, start_ms, seed
        rng = np.random.default_rng([seed, 0])
        directions = unit(rng.standard_normal((tags, dimension)))
        requests = impressions_per_user_day / (0.5 * (MIN_SLOTS + MAX_SLOTS))
        knots = days + DRIFT_AFTER_DAYS + 1
        self.viewers = draw_viewers(
            rng, users=users, directions=directions, knots=knots, days=days, start_ms=start_ms, requests_per_day=requests
        )
        self.catalogue = draw_catalogue(
            rng, videos=videos, creators=creators, directions=directions, days=days, start_ms=start_ms, vector_size=vector_size
        )
        self._blur = 0.12 * rng.standard_normal((users, dimension))  # the policy never learns a viewer's taste exactly
        self._scale = np.sqrt(dimension)  # the cosine of two random unit vectors has standard deviation 1 / sqrt(D)
        self._outcomes = np.random.default_rng([seed, 1])

    def read(self) -> Loaded:
        """The log, as a loader answers it."""
        return Loaded(self.log(), pl.DataFrame(schema=REJECTED))

    def taste(self, user_rows: np.ndarray, time_ms: np.ndarray | int) -> np.ndarray:
        """Unit vectors (..., D) at any time, between daily knots; before the first and after the last they stand still."""
        knots = self.viewers.tastes.shape[1]
        at = np.clip((np.asarray(time_ms) - self.start_ms) / DAY_MS, 0, knots - 1)
        before = np.minimum(at.astype(np.int64), knots - 2)
        share = (at - before)[..., None]
        tastes = self.viewers.tastes
        return unit((1 - share) * tastes[user_rows, before] + share * tastes[user_rows, before + 1])

    def popularity(self, video_rows: np.ndarray, time_ms: np.ndarray | int) -> np.ndarray:
        """Log popularity: quality, and a buzz that rises to its peak after upload and dies; 0 buzz before upload."""
        age = np.maximum(np.asarray(time_ms) - self.catalogue.uploaded_ms[video_rows], 0) / HOUR_MS
        relative = age / self.catalogue.peak_h[video_rows]
        return 0.6 * self.catalogue.quality[video_rows] + self.catalogue.buzz[video_rows] * relative * np.exp(1 - relative)

    def truth(self, user_rows: np.ndarray, video_rows: np.ndarray, time_ms: np.ndarray | int) -> Truth:
        """Before position bias. The three broadcast against each other, as (B, 1), (B, C), (B, 1) do."""
        return behaviour.truth_of(self._inclination(*np.broadcast_arrays(user_rows, video_rows, time_ms)))

    def _inclination(self, users: np.ndarray, videos: np.ndarray, time_ms: np.ndarray) -> Inclination:
        viewers, catalogue = self.viewers, self.catalogue
        match = self._scale * np.einsum("...d,...d->...", self.taste(users, time_ms), catalogue.latent[videos])
        foreign = viewers.language[users] != catalogue.language[videos]
        appeal = 1.1 * match + 0.6 * self.popularity(videos, time_ms) - 0.6 * foreign + viewers.eagerness[users] - 1.6
        duration_s = catalogue.duration_s[videos]
        # Longer videos are watched to a smaller part; a television keeps its viewers.
        stay = -2.1 + 1.4 * appeal - 0.5 * np.log(duration_s / 25) + 0.4 * viewers.television[users]
        return Inclination(appeal, stay, duration_s)

    def step(self, user_row: int, video_rows: np.ndarray, time_ms: int, surface: str) -> Outcomes:
        """Show one slate (K,), best first, and draw what happens, from a generator that the world keeps between calls."""
        if surface not in behaviour.POSITION_BIAS:
            raise ValueError(f"surface is {surface!r}, expected one of {', '.join(behaviour.POSITION_BIAS)}")
        slate = np.atleast_2d(video_rows)
        looked = np.atleast_2d(behaviour.looked_at(np.arange(slate.shape[1]), surface))
        drawn = self._draw(self._outcomes, np.array([user_row]), slate, np.array([time_ms]), looked)
        return Outcomes(drawn.watch_ms[0], drawn.received_ms[0], {name: mask[0] for name, mask in drawn.happened.items()})

    def _draw(
        self, rng: np.random.Generator, users: np.ndarray, slates: np.ndarray, time_ms: np.ndarray, looked: np.ndarray
    ) -> Outcomes:
        """Outcomes (R, K) of R slates; a video is watched after those above it, and its outcome arrives a moment later."""
        inclination = self._inclination(*np.broadcast_arrays(users[:, None], slates, time_ms[:, None]))
        watch_ms, happened = behaviour.draw(rng, inclination, looked)
        lag_ms = rng.exponential(1500, watch_ms.shape).astype(np.int64)
        return Outcomes(watch_ms, time_ms[:, None] + watch_ms.cumsum(axis=1) + lag_ms, happened)

    def log(self) -> Tables:
        """The whole period under the logging policy; every call gives the same tables."""
        rng = np.random.default_rng([self.seed, 2])
        seen = Seen(len(self.viewers.activity))
        parts, requests_before = [], 0
        for requests in self._requests(rng):
            part = self._served(rng, requests, seen)
            parts.append({**part, "request_id": requests_before + part["request_id"]})
            requests_before += len(requests.users)
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Tables(_impressions(columns, self), self.viewers.table, self.catalogue.table)

    def _requests(self, rng: np.random.Generator) -> Iterator[Requests]:
        """Hour by hour; a viewer's several requests of an hour come one after another, in waves."""
        viewers = self.viewers
        for hour in range(24 * self.days):
            start = self.start_ms + hour * HOUR_MS
            rhythm = np.exp(1.2 * np.cos((hour % 24 - viewers.peak_h) * np.pi / 12)) / np.i0(1.2) / 24
            here = viewers.joined_ms < start + HOUR_MS
            counts = rng.poisson(viewers.activity * rhythm * here)
            for wave in range(counts.max(initial=0)):
                users = np.flatnonzero(counts > wave)
                within = (wave + rng.random(len(users))) / counts[users]
                time_ms = np.maximum(start + (within * HOUR_MS).astype(np.int64), viewers.joined_ms[users])
                yield Requests(users, time_ms, rng.random(len(users)) < 0.25)

    def _served(self, rng: np.random.Generator, requests: Requests, seen: Seen) -> dict[str, np.ndarray]:
        """Columns of the impressions of these requests; `request_id` is the row in `requests`."""
        users, time_ms = requests.users, requests.time_ms
        uniform = rng.random(len(users)) < RANDOM_REQUESTS
        eligible = self._eligible(users, time_ms) & ~seen.mask(users, len(self.catalogue.unsafe))
        explore = np.where(uniform, 1.0, EXPLORE)
        slates, propensity = draw_slates(rng, self._policy_scores(requests), eligible, explore, MAX_SLOTS)
        positions = np.arange(MAX_SLOTS)
        bias = np.where(requests.discover, behaviour.POSITION_BIAS["discover"], behaviour.POSITION_BIAS["home"])
        shown = (slates >= 0) & (positions < rng.integers(MIN_SLOTS, MAX_SLOTS + 1, (len(users), 1)))
        drawn = self._draw(rng, users, slates, time_ms, (positions + 1.0) ** -bias[:, None])
        seen.add(users, np.where(shown, slates, -1))
        row, position = np.nonzero(shown)
        return {
            "request_id": row,
            "user": users[row],
            "video": slates[shown],
            "time_ms": time_ms[row],
            "discover": requests.discover[row],
            "position": position.astype(np.int16),
            "propensity": propensity[shown].astype(np.float32),
            "uniform": uniform[row],
            "watch_ms": drawn.watch_ms[shown],
            "received_ms": drawn.received_ms[shown],
            **{name: mask[shown] for name, mask in drawn.happened.items()},
        }

    def _eligible(self, users: np.ndarray, time_ms: np.ndarray) -> np.ndarray:
        """(R, V) what may be shown, but for what was seen."""
        catalogue = self.catalogue
        uploaded = catalogue.uploaded_ms[None, :] <= time_ms[:, None]
        return uploaded & ~catalogue.unsafe & catalogue.allowed.T[self.viewers.region[users]]

    def _policy_scores(self, requests: Requests) -> np.ndarray:
        """(R, V) what the policy `softmax` believes: popularity, and a blurred match a day behind the drift."""
        weights = np.array([POLICY_WEIGHTS["home"], POLICY_WEIGHTS["discover"]])[requests.discover.astype(np.int64)]
        blurred = unit(self.taste(requests.users, requests.time_ms - DAY_MS) + self._blur[requests.users])
        match = self._scale * blurred @ self.catalogue.latent.T
        popularity = self.popularity(np.arange(len(self.catalogue.unsafe)), requests.time_ms[:, None])
        return weights[:, :1] * popularity + weights[:, 1:] * match


def _impressions(columns: dict[str, np.ndarray], world: World) -> pl.DataFrame:
    """The canonical table, sorted by (time_ms, request_id, position)."""
    order = np.lexsort((columns["position"], columns["request_id"], columns["time_ms"]))
    columns = {name: values[order] for name, values in columns.items()}
    user, video = columns.pop("user"), columns.pop("video")
    discover, uniform = columns.pop("discover"), columns.pop("uniform")
    changes = np.diff(columns["request_id"], prepend=-1) != 0
    columns["request_id"] = changes.cumsum()  # waves of one hour overlap in time; ids follow the time
    frame = pl.DataFrame(columns).with_columns(
        user_id=world.viewers.table["user_id"].gather(user),
        video_id=world.catalogue.table["video_id"].gather(video),
        day=pl.from_epoch(pl.col("time_ms"), "ms").cast(pl.Date),
        surface=pl.Series(np.where(discover, "discover", "home")),
        policy=pl.Series(np.where(uniform, "random", "softmax")),
    )
    return frame.select(list(IMPRESSIONS))

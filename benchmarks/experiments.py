"""Check the statistics of experiments: `python -m benchmarks.experiments [--runs 1000] [--pairs 200]`.

    aa            share of A/A tests that ever exclude 0 in hourly looks over a week, always-valid beside 1.96 standard errors,
                  with the same at the last look alone. Viewers are heavy-tailed and come again and again, so that their sums
                  are not the independent observations of the theorem; rates and session lengths are those of the simulator
    power         at the lift that `power.detectable_lift` promises for 80%: found at the last look, and always valid, with the
                  hour
    interleaving  pairs of rankers of a simulated world, each ranking 100 uploaded videos by the true log odds of a long view
                  and noise of its own. A stand-in for the funnel: no store, no retrieval, no learning. Each pair has an A/B
                  test of viewers assigned by hash, and team-draft interleaving with a tenth of its requests: how often the
                  signs agree, for all pairs, for those whose A/B test is significant, and with the true difference; `ab_agrees`
                  is the A/B's own

The last line is one JSON object.
"""

import argparse
import json
import time

import numpy as np

from watchnext.assignment import Assignment
from watchnext.cli import composed, exits_on, instantiate
from watchnext.evaluation.experiment.ab_test import looks
from watchnext.evaluation.experiment.interleaving import credit, team_draft
from watchnext.evaluation.experiment.power import detectable_lift
from watchnext.metrics import rounded
from watchnext.ratios import TWO_SIDED_95, ratio
from watchnext.sequential import first_decision
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.mechanisms import examination
from watchnext.simulator.platform.sessions import HOURS
from watchnext.simulator.population import ACTIVITY_SPREAD, EAGERNESS_SPREAD
from watchnext.simulator.world import World

SESSIONS_A_DAY, SECONDS, SECONDS_SPREAD = 0.8, 120.0, 1.1
CANDIDATES, SLATE, LONG_VIEW = 100, 8, "long_view"


# ---- A/A and power ---------------------------------------------------------------------------------------------------


def weeks(random: np.random.Generator, viewers: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw seconds (viewers, hours) watched so far by the end of each hour, and the sessions (hours,) so far."""
    rate = np.exp(ACTIVITY_SPREAD * random.standard_normal(viewers) - ACTIVITY_SPREAD**2 / 2)
    by_hour = np.tile(HOURS / HOURS.sum(), days) * SESSIONS_A_DAY
    sessions = random.poisson(rate[:, None] * by_hour)
    length = SECONDS * np.exp(0.5 * EAGERNESS_SPREAD * random.standard_normal(viewers))
    noise = np.exp(SECONDS_SPREAD * random.standard_normal(sessions.shape) - SECONDS_SPREAD**2 / 2)
    seconds = sessions * length[:, None] * noise
    return seconds.cumsum(axis=1), sessions.sum(axis=0).cumsum()


def tested(runs: int, viewers: int, days: int, lift: float, seed: int) -> dict:
    """Run A/B tests of a relative lift of every viewer's seconds; return the shares that find it and the median hour."""
    always, peeking, last, hours = 0, 0, 0, []
    for run in range(runs):
        random = np.random.default_rng([seed, run])
        (first, sessions), (second, others) = (weeks(random, viewers // 2, days) for _ in range(2))
        at_every_hour = looks((1.0 + lift) * first, second, (sessions + others).astype(float))
        decided = first_decision(at_every_hour)
        difference = (1.0 + lift) * first.mean(axis=0) - second.mean(axis=0)
        errors = np.sqrt(((1.0 + lift) ** 2 * first.var(axis=0) + second.var(axis=0)) / (viewers // 2))
        beyond = np.abs(difference) > TWO_SIDED_95 * errors
        always, peeking, last = always + (decided is not None), peeking + beyond.any(), last + beyond[-1]
        hours += [] if decided is None else [decided + 1]
    found = {"always_valid": always / runs, "repeated_single_looks": peeking / runs, "last_look": last / runs}
    return {**found, "median_hour": float(np.median(hours)) if hours else None, "runs": runs, "viewers": viewers}


# ---- interleaving ----------------------------------------------------------------------------------------------------


class Requests:
    """Requests of a world's viewers, with the truth of CANDIDATES uploaded videos each.

    users (N,)     rows, and arms (N,) of their viewers: 0 or 1
    chance (N, C)  of a long view, if examined
    """

    def __init__(self, world: World, requests: int, seed: int) -> None:
        random, people = np.random.default_rng([seed, 1]), np.flatnonzero(~world.viewers["bot"])
        activity = world.viewers["activity"][people] / world.viewers["activity"][people].sum()
        time_ms = world.start_ms + world.days * DAY_MS
        uploaded = np.flatnonzero((world.catalogue["upload_ms"] <= time_ms) & (world.catalogue["safety"] == 0))
        self.users = random.choice(people, requests, p=activity)
        rows = uploaded[random.integers(0, len(uploaded), (requests, CANDIDATES))]
        self.chance = world.truth(self.users[:, None], rows, np.array([[time_ms]])).probability[LONG_VIEW]
        assignment = Assignment.of_shares(f"benchmark {seed}", {"first": 0.5, "second": 0.5})
        ids = world.viewers["id"].tolist()
        self.arms = np.array([assignment.arm_of(ids[user]) == "second" for user in self.users.tolist()], int)
        self.log_odds = np.log(self.chance / (1.0 - self.chance))
        self.world = world

    def ranked(self, noise: float, random: np.random.Generator) -> np.ndarray:
        """Return the candidates (N, C) in the order of a ranker that sees the log odds with so much noise."""
        return np.argsort(-(self.log_odds + noise * random.standard_normal(self.log_odds.shape)), axis=1)

    def expected(self, order: np.ndarray) -> float:
        """Return the expected long views of a request, the truth."""
        chance = np.take_along_axis(self.chance, order[:, :SLATE], axis=1)
        return float((chance * self.world.examination(chance, "home")).sum(axis=1).mean())

    def viewed(self, at: np.ndarray, slates: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Draw the long views (n, K) of the slates (n, K) of the requests `at` (n,)."""
        chance = self.chance[at[:, None], slates]
        examined = examination(self.world.mechanisms.position_law, "home", chance)
        looked = random.random((len(at), 1)) < examined  # one look down the slate, so that below its end nothing happens
        return looked & (random.random(chance.shape) < chance)


def compared(requests: Requests, noises: tuple[float, float], random: np.random.Generator) -> dict[str, float]:
    """Compare two rankers: the true difference, the A/B's with its z, and interleaving's credit on a tenth of the requests."""
    orders = [requests.ranked(noise, random) for noise in noises]
    slates = np.where(requests.arms[:, None] == 0, *(order[:, :SLATE] for order in orders))
    everyone = np.arange(len(requests.users))
    long_views = requests.viewed(everyone, slates, random).sum(axis=1)
    (first, of_first), (second, of_second) = (_by_viewer(requests.users, long_views, requests.arms == arm) for arm in (0, 1))
    chosen = random.choice(everyone, len(everyone) // 10, replace=False)
    drafted = [team_draft(orders[0][at], orders[1][at], SLATE, random) for at in chosen]
    watched = requests.viewed(chosen, np.array([slate for slate, _ in drafted]), random)
    credits = np.array([credit(np.array(teams), each) for (_, teams), each in zip(drafted, watched, strict=True)])
    value, error = _by_viewer(requests.users[chosen], credits, np.ones(len(chosen), bool))
    return {
        "true": requests.expected(orders[0]) - requests.expected(orders[1]),
        "ab": first - second,
        "ab_z": (first - second) / np.hypot(of_first, of_second),
        "interleaved": value,
        "interleaved_z": value / error,
    }


def _by_viewer(users: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Return the mean over requests and its standard error over viewers."""
    _, owner = np.unique(users[chosen], return_inverse=True)
    return ratio(np.bincount(owner, values[chosen]), np.bincount(owner).astype(float))


def agreement(pairs: list[dict[str, float]]) -> dict:
    table = {name: np.array([pair[name] for pair in pairs]) for name in pairs[0]}
    signs = {name: np.sign(values) for name, values in table.items()}
    clear = np.abs(table["ab_z"]) > TWO_SIDED_95
    agree, right = signs["interleaved"] == signs["ab"], signs["interleaved"] == signs["true"]

    def mean(mask: np.ndarray) -> float:
        return float(mask.mean()) if len(mask) else float("nan")

    return {
        "pairs": len(pairs),
        "agrees": mean(agree),
        "significant": int(clear.sum()),
        "agrees_of_significant": mean(agree[clear]),
        "right": mean(right),
        "ab_agrees": mean(signs["ab"] == signs["true"]),
        "median_abs_ab_z": float(np.median(np.abs(table["ab_z"]))),
        "median_abs_interleaved_z": float(np.median(np.abs(table["interleaved_z"]))),
    }


@exits_on(ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="A/A tests, and half as many with a lift")
    parser.add_argument("--viewers", type=int, default=1000, help="of such a test, both arms together")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--pairs", type=int, default=200, help="of rankers")
    parser.add_argument("--requests", type=int, default=20_000, help="of an A/B test of rankers")
    parser.add_argument("--noise", type=float, default=2.0, help="largest noise of a ranker, in log odds")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if min(options.runs, options.pairs) < 1 or options.viewers < 4 or options.requests < 100:
        raise ValueError(f"{options}: expected at least 1 run, 1 pair, 4 viewers and 100 requests")
    began = time.process_time()
    week, _ = weeks(np.random.default_rng([options.seed, 0]), 100_000, options.days)
    lift = detectable_lift(week[:, -1], options.viewers)
    sizes = options.viewers, options.days
    figures = {"aa": tested(options.runs, *sizes, 0.0, options.seed)}
    figures["power"] = {"lift": lift, **tested(max(options.runs // 2, 1), *sizes, lift, options.seed + 1)}
    requests = Requests(instantiate(composed(["data=world"]).data.loader), options.requests, options.seed)
    random = np.random.default_rng([options.seed, 2])
    noises = random.uniform(0.0, options.noise, (options.pairs, 2)).tolist()
    figures["interleaving"] = agreement([compared(requests, tuple(pair), random) for pair in noises])
    figures["interleaving"] |= {"ab_requests": options.requests, "requests": options.requests // 10}
    print(json.dumps({**rounded(figures, 4), "days": options.days, "cpu_s": round(time.process_time() - began, 1)}))


if __name__ == "__main__":
    main()

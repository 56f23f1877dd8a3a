"""One day of requests to a fleet: arrivals by a measured daily curve, reads from shards, a queue at each server.

A request reads its viewer's state from one shard and, if the server's cache misses, videos from another; then it waits for a
server. The balancer draws two servers and takes the one that is free earlier (Mitzenmacher, "The power of two choices in
randomized load balancing", 2001). A server works on two requests at once, each slower than one alone; one whose queue is full
sheds. Reads that outlast their budget are given up: the slate is degraded. Every hour is simulated for some seconds, from
empty queues.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from watchnext.kernels import kernel

# Impressions by hour of the day, KuaiRand-Pure, 22 April to 8 May 2022: the busiest hour is 1.55 times the mean.
HOURLY = np.array([7510, 4536, 2984, 1818, 1491, 1649, 3012, 4630, 5942, 7240, 8217, 9419,
                   10517, 10417, 9433, 9525, 10141, 10889, 10637, 10042, 10535, 11085, 11967, 11425], np.float64)  # fmt: skip
ZONES = 3
THREADS = 2  # of a server, as in production
FUNNEL = ("retrieval", "ranking", "reranking", "answer")
P99 = 2.3263  # standard normal


@dataclass(frozen=True)
class ServiceTimes:
    """Measured times of one server, in ms.

    slate_ms   a slate while the server has no other: the funnel's stages, and a look-up over HTTP for all around them
    spread     standard deviation of its logarithm, from p50 and p99 of one request after another
    read_ms    one read of a viewer's state, which is not in `slate_ms`
    stretch    how many times longer each of two slates takes, from the slates that one process answers in a second
    waiting    requests that may wait at a server
    """

    slate_ms: float
    spread: float
    read_ms: float
    stretch: float
    waiting: int = 32

    @property
    def per_s(self) -> float:
        """Slates a second of a server that is never idle."""
        return 1e3 * THREADS / (self.slate_ms * self.stretch)

    @classmethod
    def of(cls, serving: dict, over_http: dict) -> "ServiceTimes":
        """Take them from the figures of `benchmarks.serving`, in process and over HTTP."""
        spread = float(np.log(serving["p99_ms"] / serving["p50_ms"]) / P99)
        stages = over_http["stages_ms"]
        slate_ms = sum(stages[name] for name in FUNNEL) + over_http["precomputed_p50_ms"]
        stretch = max(1e3 * THREADS / (slate_ms * over_http["capacity_rps"]), 1.0)
        return cls(slate_ms=slate_ms, spread=spread, read_ms=stages["state"], stretch=stretch)


@dataclass(frozen=True)
class Fleet:
    """`servers` in three zones and `shards` of the state, which meet `per_s` requests in the busiest hour.

    budget_ms   after which a read is given up
    cache_hit   share of requests that find all videos in the server's cache
    slow        how many times longer a read takes on the first shard
    viral       share of the reads of videos that ask for one video, whose shard is the first
    lost_zone   the servers of one zone are gone
    evenly      requests come at equal distances, as a benchmark sends them; else at random (Poisson)
    """

    servers: int
    shards: int
    per_s: float
    budget_ms: float = 50.0
    cache_hit: float = 0.9
    slow: float = 1.0
    viral: float = 0.0
    lost_zone: bool = False
    evenly: bool = False

    @property
    def alive(self) -> int:
        """Servers that answer."""
        return self.servers - (-(-self.servers // ZONES) if self.lost_zone else 0)


# What may go wrong > the fields of a fleet that say so.
INCIDENTS = {
    "none": {},
    "one shard ten times slower": {"slow": 10.0},
    "one zone lost": {"lost_zone": True},
    "cold caches": {"cache_hit": 0.0},
    "a viral video": {"viral": 0.5},
    "a viral video, cold caches": {"viral": 0.5, "cache_hit": 0.0},
}


@dataclass(frozen=True)
class FleetDay:
    """Results: `p50_ms` and `p99_ms` of the busiest hour; shares of the day's requests that were `shed` and `degraded`."""

    p50_ms: float
    p99_ms: float
    shed: float
    degraded: float
    requests: int


@kernel
def _read(arrivals, asked, times, slow, shards, budget, ready):
    """Read from FIFO shards; write when each request is `ready`, at the latest after the budget. Return those given up."""
    free, given_up = np.zeros(shards), 0
    for i in range(arrivals.size):
        shard = asked[i]
        if shard < 0:
            continue
        start = max(arrivals[i], free[shard])
        until = arrivals[i] + budget
        if start >= until:
            given_up += 1
            ready[i] = until
            continue
        finish = start + times[i] * (slow if shard == 0 else 1.0)
        free[shard] = finish
        given_up += finish > until
        ready[i] = max(ready[i], min(finish, until))
    return given_up


@kernel
def _serve(ready, first, second, times, stretch, servers, most, finish):
    """Serve requests in the order in which they are ready, each at the earlier free of two servers. `finish` -1: shed."""
    free = np.zeros((servers, THREADS))
    for i in range(ready.size):
        server = first[i] if free[first[i]].min() <= free[second[i]].min() else second[i]
        thread = free[server].argmin()
        if free[server, thread] - ready[i] > most:
            finish[i] = -1.0
            continue
        start = max(free[server, thread], ready[i])
        finish[i] = start + times[i] * (stretch if free[server].max() > start else 1.0)
        free[server, thread] = finish[i]


def simulated_day(fleet: Fleet, times: ServiceTimes, *, seconds: float, seed: int) -> FleetDay:
    """Simulate `seconds` of every hour. Raises ValueError if no server is left."""
    if fleet.alive < 1 or fleet.shards < 1:
        raise ValueError(f"{fleet.servers} servers with {fleet.shards} shards leave none that answers; take more")
    random = np.random.default_rng(seed)
    hours = [_hour(fleet, times, fleet.per_s * share, seconds, random) for share in HOURLY / HOURLY.max()]
    number, shed, degraded = (sum(values) for values in list(zip(*hours, strict=True))[1:])
    latency = hours[int(np.argmax(HOURLY))][0]
    p50, p99 = np.percentile(latency, [50, 99]) if latency.size else (np.nan, np.nan)
    return FleetDay(float(p50), float(p99), shed / max(number, 1), degraded / max(number, 1), number)


def _hour(fleet: Fleet, times: ServiceTimes, per_s: float, seconds: float, random: np.random.Generator):
    """Return the latencies in ms, and the numbers of requests, of those shed and of those degraded."""
    number = round(per_s * seconds) if fleet.evenly else random.poisson(per_s * seconds)
    arrivals = (np.arange(number) / max(number, 1) if fleet.evenly else np.sort(random.random(number))) * 1e3 * seconds
    ready = arrivals.copy()
    viewers = random.integers(0, fleet.shards, number)
    videos = np.where(random.random(number) < fleet.viral, 0, random.integers(0, fleet.shards, number))
    videos[random.random(number) < fleet.cache_hit] = -1
    degraded = 0
    for asked in (viewers, videos):
        reads = random.exponential(times.read_ms, number)
        degraded += _read(arrivals, asked, reads, fleet.slow, fleet.shards, fleet.budget_ms, ready)
    order = np.argsort(ready, kind="stable")
    works = times.slate_ms * random.lognormal(-(times.spread**2) / 2, times.spread, number)  # of mean slate_ms
    first, second = (random.integers(0, fleet.alive, number) for _ in range(2))
    finish = np.empty(number)
    _serve(ready[order], first, second, works, times.stretch, fleet.alive, 1e3 * times.waiting / times.per_s, finish)
    served = finish >= 0
    return (finish - arrivals[order])[served], number, int((~served).sum()), degraded


def machines_for(fleet: Fleet, times: ServiceTimes, *, limit_ms: float, shed: float, seconds: float, seed: int) -> int:
    """Find the smallest number of servers which in the busiest hour has a p99 of at most `limit_ms` and sheds at most a share.

    Raises ValueError if no number is enough: then reads, not servers, are the limit.
    """

    def enough(servers: int) -> bool:
        tried = replace(fleet, servers=servers)
        if tried.alive < 1:
            return False
        latency, number, refused, _ = _hour(tried, times, fleet.per_s, seconds, np.random.default_rng(seed))
        return refused <= shed * number and (not latency.size or np.percentile(latency, 99) <= limit_ms)

    low, high = 0, max(math.ceil(fleet.per_s / times.per_s), 1)
    while not enough(high):
        low, high = high, 2 * high
        if high > 64 * max(fleet.per_s / times.per_s, 1):
            raise ValueError(f"no number of servers keeps p99 at {limit_ms:g} ms: reads take longer; add shards or a budget")
    while high - low > max(high // 100, 1):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

"""The simulated fleet obeys what queues are known to obey, and incidents hurt where they should."""

from dataclasses import replace

import numpy as np
import pytest

from watchnext.lifecycle.fleet.fleet_day import HOURLY, INCIDENTS, Fleet, ServiceTimes, machines_for, simulated_day

STEADY = ServiceTimes(slate_ms=8.0, spread=0.0, read_ms=1e-9, stretch=2.0)  # two at once are no faster than one after another
TIMES = ServiceTimes(slate_ms=8.0, spread=0.27, read_ms=0.6, stretch=1.6)
FLEET = Fleet(servers=12, shards=4, per_s=0.5 * 12 * TIMES.per_s)


def day(fleet: Fleet, times: ServiceTimes = TIMES, seconds: float = 4.0):
    return simulated_day(fleet, times, seconds=seconds, seed=0)


def test_a_server_that_is_never_crowded_takes_the_service_time():
    found = day(Fleet(servers=1, shards=1, per_s=50.0, cache_hit=1.0, evenly=True), STEADY)
    assert (found.p50_ms, found.p99_ms) == (pytest.approx(8.0), pytest.approx(8.0))
    assert found.shed == found.degraded == 0


def test_spread_is_that_of_the_service_times():
    found = day(Fleet(servers=1, shards=1, per_s=20.0, cache_hit=1.0, evenly=True), replace(TIMES, read_ms=1e-9), seconds=200)
    assert found.p50_ms == pytest.approx(8.0 * np.exp(-(0.27**2) / 2), rel=0.02)
    assert found.p99_ms / found.p50_ms == pytest.approx(np.exp(2.3263 * 0.27), rel=0.05)


def test_beyond_capacity_a_server_sheds_all_but_what_it_can_serve():
    most = Fleet(servers=1, shards=1, per_s=10 * STEADY.per_s, cache_hit=1.0)
    found = day(most, STEADY, seconds=20)
    served = np.minimum(10 * HOURLY / HOURLY.max(), 1).sum() / (10 * HOURLY / HOURLY.max()).sum()
    assert 1 - found.shed == pytest.approx(served, rel=0.05)
    assert found.p99_ms < 8.0 * (STEADY.waiting + 4)


def test_waiting_grows_with_the_load():
    times = replace(STEADY, waiting=10_000)
    found = day(Fleet(servers=1, shards=1, per_s=0.5 * times.per_s, cache_hit=1.0), times, seconds=100)
    assert 8.0 < found.p50_ms < found.p99_ms
    busier = day(Fleet(servers=1, shards=1, per_s=0.8 * times.per_s, cache_hit=1.0), times, seconds=100)
    assert busier.p99_ms > 1.5 * found.p99_ms


def test_incidents_hurt_where_they_should():
    found = {name: day(replace(FLEET, **changed)) for name, changed in INCIDENTS.items()}
    quiet = found["none"]
    assert quiet.degraded == 0
    assert found["one shard ten times slower"].degraded > 0.01
    assert found["one shard ten times slower"].p99_ms < FLEET.budget_ms + 4 * quiet.p99_ms, "reads are given up"
    assert found["one zone lost"].p99_ms > quiet.p99_ms
    assert found["cold caches"].p50_ms > quiet.p50_ms
    assert found["a viral video, cold caches"].p99_ms > found["cold caches"].p99_ms


def test_a_shard_that_is_asked_more_than_it_can_answer_degrades_slates_and_loses_none():
    crowded = replace(FLEET, shards=1, per_s=2_500.0, servers=100)
    found = day(crowded)
    assert found.degraded > 0.01
    assert found.shed == 0


def test_the_smallest_fleet_is_just_enough():
    bounds = {"limit_ms": 60.0, "shed": 0.001, "seconds": 3.0, "seed": 0}
    least = machines_for(FLEET, TIMES, **bounds)
    assert FLEET.per_s / TIMES.per_s <= least <= FLEET.servers
    assert simulated_day(replace(FLEET, servers=least), TIMES, seconds=3.0, seed=0).p99_ms <= 60.0
    assert machines_for(replace(FLEET, lost_zone=True), TIMES, **bounds) > least


def test_where_reads_are_the_limit_no_server_helps():
    slow = replace(FLEET, slow=100.0, budget_ms=80.0)
    with pytest.raises(ValueError, match="no number of servers keeps p99 at 60 ms: reads take longer"):
        machines_for(slow, TIMES, limit_ms=60.0, shed=0.001, seconds=2.0, seed=0)


def test_a_fleet_of_nobody_is_refused():
    with pytest.raises(ValueError, match="1 servers with 4 shards leave none that answers"):
        day(replace(FLEET, servers=1, lost_zone=True))


def test_service_times_are_those_of_the_records():
    stages = {"state": 0.5, "retrieval": 2.0, "ranking": 3.0, "reranking": 1.0, "answer": 0.0, "outside": 9.0}
    over_http = {"capacity_rps": 150.0, "precomputed_p50_ms": 2.0, "stages_ms": stages}
    found = ServiceTimes.of({"p50_ms": 5.0, "p99_ms": 10.0}, over_http)
    assert (found.slate_ms, found.read_ms) == (8.0, 0.5)
    assert found.per_s == pytest.approx(150.0)
    assert np.exp(2.3263 * found.spread) == pytest.approx(2.0)

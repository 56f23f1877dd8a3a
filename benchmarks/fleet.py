"""Simulate the fleet of servers from recorded service times: `python -m benchmarks.fleet --viewers 1e6 100e6`.

Service times are those of the records `serving` and `serving-http`, loads those of `capacity` in conf/config.yaml, mid. First
one machine under the load of `serving-http`, simulated beside measured. Then, for each number of daily viewers and each
incident of a day: p50 and p99 of the busiest hour, the shares of the day's requests that were shed or degraded, with as many
server processes as leave them half busy at the peak; and the smallest number of processes, and of machines for them, that keeps
p99 and shedding within bounds in the busiest hour. A process stands for two cores, as in the record. The last line is one JSON
object.
"""

import argparse
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import yaml
from tqdm import tqdm

from watchnext.lifecycle.capacity.assumptions import CapacityAssumptions
from watchnext.lifecycle.capacity.scaling_curves import RESULTS
from watchnext.lifecycle.fleet.fleet_day import INCIDENTS, Fleet, ServiceTimes, machines_for, simulated_day
from watchnext.metrics import rounded

CORES_A_PROCESS = 2
SEED = 0


def one_machine(times: ServiceTimes, measured: dict) -> dict[str, dict[str, float]]:
    """Simulate the load of the record, and return its percentiles simulated and measured."""
    fleet = Fleet(servers=1, shards=1, per_s=measured["rate"], cache_hit=1.0, evenly=True)
    found = simulated_day(fleet, times, seconds=200, seed=SEED)
    return {"simulated": {"p50_ms": found.p50_ms, "p99_ms": found.p99_ms},
            "measured": {name: measured[name] for name in ("p50_ms", "p99_ms")}}  # fmt: skip


def incidents(viewers: float, times: ServiceTimes, assumed: CapacityAssumptions, options: argparse.Namespace) -> dict:
    """Simulate a day of each incident. Returns the processes and the figures by incident."""
    per_s = viewers * assumed.peak_per_1000 / 1e3
    servers = max(math.ceil(per_s / (times.per_s * assumed.busy)), assumed.least)
    shards = math.ceil(per_s * times.read_ms / 1e3 / assumed.busy)
    fleet = Fleet(servers=servers, shards=shards, per_s=per_s)
    seconds = min(options.seconds, max(options.requests / per_s, 1.0))
    days = {}
    for name, changed in tqdm(INCIDENTS.items(), desc=f"{viewers:g} viewers", unit=" incidents"):
        broken = replace(fleet, **changed)
        day = simulated_day(broken, times, seconds=seconds, seed=SEED)
        least = machines_for(broken, times, limit_ms=options.limit_ms, shed=options.shed, seconds=seconds, seed=SEED)
        machines = math.ceil(least * CORES_A_PROCESS / assumed.machine_cores)
        days[name] = asdict(day) | {"processes": least, "machines": machines}
    return {"per_s": per_s, "processes": servers, "shards": shards, "days": days}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=float, nargs="+", default=[1e6, 100e6, 500e6])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each hour, at most")
    parser.add_argument("--requests", type=float, default=2e5, help="of the busiest hour, but at least a second")
    parser.add_argument("--limit-ms", type=float, default=100.0, help="largest p99 of the busiest hour")
    parser.add_argument("--shed", type=float, default=0.001, help="largest share of a day's requests that are shed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    serving, over_http = (json.loads((options.results / f"{name}.json").read_text())["figures"]
                          for name in ("serving", "serving-http"))  # fmt: skip
    times = ServiceTimes.of(serving, over_http)
    configured = yaml.safe_load(Path("conf/config.yaml").read_text())["capacity"]["assumptions"]
    assumed = CapacityAssumptions.of(configured, "mid")
    fleets = {f"{viewers:.0f}": incidents(viewers, times, assumed, options) for viewers in options.viewers}
    figures = {"times": asdict(times), "one_machine": one_machine(times, over_http), "fleets": fleets}
    print(json.dumps(rounded(figures, 5)))


if __name__ == "__main__":
    main()

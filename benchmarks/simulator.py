"""Time the simulated world, from its parameters to Parquet: `python -m benchmarks.simulator --impressions 20000000`.

It has a million viewers and a million videos (fewer below 4 million impressions), and as many days as that takes.
`impressions_per_s` covers `python -m watchnext.simulator world` without compilation: drawing viewers and videos, the log,
writing three tables. `peak_mb` is the process's highest resident size. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from watchnext.simulator.log_files import write_world
from watchnext.simulator.world import World

PER_USER_DAY = 9.0  # as conf/data/world.yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=4_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    size = min(1_000_000, max(options.impressions // 4, 100))
    days = max(1, round(options.impressions / (size * PER_USER_DAY)))
    threads = len(os.sched_getaffinity(0))
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        write_world(World(users=50, videos=200, days=1), Path(folder) / "warm", threads=threads, quiet=True)
        began = time.perf_counter()
        world = World(
            users=size,
            videos=size,
            days=days,
            impressions_per_user_day=options.impressions / size / days,
            seed=options.seed,
        )
        drawn = time.perf_counter()
        written = write_world(world, Path(folder) / "out", threads=threads)
        seconds = time.perf_counter() - began
        held = sum(path.stat().st_size for path in (Path(folder) / "out" / "impressions").rglob("*.parquet"))
    figures = {
        "impressions": written,
        "users": size,
        "videos": size,
        "days": days,
        "threads": threads,
        "impressions_per_s": round(written / seconds),
        "setup_s": round(drawn - began, 2),
        "cpu_s": round(time.process_time(), 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "file_bytes_per_impression": round(held / written, 1),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

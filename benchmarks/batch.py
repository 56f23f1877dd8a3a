"""Compute the slates of many viewers ahead of time: `python -m benchmarks.batch`, or with `--viewers 50000 --videos 1000000`.

As the stage `recommendations` runs: the whole funnel for every viewer, in a process for each core, or in tasks of Spark with
`--master local[2]`, into a durable store and as Parquet; the start of the processes is counted, that of Spark is not. On
`releases/current`, or on a release of a simulated world with so many videos and at least as many viewers, built once as
in benchmarks/serving.py. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving import simulated

from watchnext.cli import exits_on
from watchnext.metrics import rounded
from watchnext.serving.funnel.ahead.batch import recommend_all
from watchnext.serving.funnel.ahead.spark_batch import SparkBatch
from watchnext.serving.release.release import Release, ReleaseError, current
from watchnext.serving.store.store import Store
from watchnext.spark import SparkError, engine


def built(videos: int, viewers: int, days: int, words: list[str]) -> Path:
    """Return the releases of a simulated world with so many videos and at least so many viewers, built if missing."""
    for folder in sorted(Path("outputs").glob(f"benchmark-{videos}x*x{days}")):
        if int(folder.name.split("x")[1]) >= viewers and (folder / "releases" / "current").exists():
            return folder / "releases"
    return simulated(videos, viewers, days, words)


def measure(
    release: Release, folder: Path, *, viewers: int | None, k: int, processes: int | None, master: str | None = None
) -> dict:
    Store.open(folder / "store", release).close()
    settings = {"k": k, "now_ms": release.as_of_ms, "viewers": viewers, "processes": processes}
    with engine("spark" if master else "local", master or "") as spark:
        began = time.perf_counter()
        compute = SparkBatch(spark).computed if spark else None
        report = recommend_all(release, folder / "store", folder / "batch", compute=compute, **settings)
        seconds = time.perf_counter() - began
    return {
        "viewers_per_s": report.users / seconds,
        "seconds": seconds,
        "viewers": report.users,
        "videos": len(release.catalogue),
        "slates": report.slates,
        "degraded": report.degraded,
        "processes": master or processes or os.cpu_count(),
    }


@exits_on(ReleaseError, SparkError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, help="of a simulated world; without it, releases/current is taken")
    parser.add_argument("--viewers", type=int, help="to compute; without it, all of the release")
    parser.add_argument("--days", type=int, default=4, help="of the simulated world")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--processes", type=int, help="without it, one a core")
    parser.add_argument("--master", help="of Spark, which then computes")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of every stage that builds that world's release")
    options = parser.parse_args()
    releases = Path("releases")
    if options.videos:
        releases = built(options.videos, options.viewers or options.videos, options.days, options.overrides)
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        words = {name: getattr(options, name) for name in ("viewers", "k", "processes", "master")}
        found = measure(Release.load(current(releases)), Path(folder), **words)
    print(json.dumps(rounded(found, 3)))


if __name__ == "__main__":
    main()

"""Build the features of one log in this process and on Spark: `python -m benchmarks.spark`.

The log is that of benchmarks/features.py. Each way builds a small log first, so that kernels are compiled and workers have
started, and then the log. `cpu_s` is the processor time of this process, the Java machine and its Python workers, and what to
compare on a busy machine. `shuffle_bytes_a_row` is what Spark's tasks wrote for others to read, `worker_peak_mb` the most that
a Python worker held. The last line is one JSON object.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from benchmarks.features import write_log

from watchnext.cli import exits_on
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.state.fold_log import replay
from watchnext.features.state.spark_fold import SparkFold
from watchnext.metrics import rounded
from watchnext.schema import FeatureSchema
from watchnext.spark import Spark, SparkError

WAIT_S = 600.0  # for a worker, on a busy machine


def cpu_s() -> float:
    """Return the processor seconds of this process and all below it, those that ended among them."""
    total = 0.0
    for each in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error):  # it just ended, and counts in its parent
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def worker_peak_mb() -> float:
    """Return the largest memory of a Python worker that lives, so far, in MB."""
    peaks = [0]
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):  # it just ended
            lines = Path(f"/proc/{each.pid}/status").read_text().splitlines() if "pyspark.worker" in each.cmdline() else []
            peaks += [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return max(peaks) / 1024


def built(work: Path, name: str, schema: FeatureSchema, fold_into: Callable) -> dict[str, float]:
    """Build the small log, then the log; `fold_into` makes the fold of a scratch folder. Returns rates of the second build."""
    builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=5)
    for log in ("small", "log"):
        out, tables = work / f"{log}-{name}", StoredTables.open(work / log)
        began, worked = time.perf_counter(), cpu_s()
        builder.build(tables, TimeSplit(valid_days=1, test_days=1), out, fold_into(out / "state" / "spark"))
        seconds, worked = time.perf_counter() - began, cpu_s() - worked
    rows = sum(day.rows for day in tables.days)
    return {"rows_per_s": rows / seconds, "seconds": seconds, "cpu_s": worked, "rows_per_cpu_s": rows / worked}


def on_spark(work: Path, workers: int, schema: FeatureSchema) -> dict[str, float]:
    events, began = work / f"events-{workers}", time.perf_counter()
    events.mkdir()
    logged = {
        "spark_eventLog_enabled": "true",
        "spark_eventLog_dir": events.resolve().as_uri(),
        "spark_eventLog_compress": "false",
    }
    with Spark.opened(f"local[{workers}]", wait_s=WAIT_S, **logged) as spark:
        start_s = time.perf_counter() - began
        figures = built(work, f"spark-{workers}", schema, lambda scratch: SparkFold(spark, scratch).replay)
        figures |= {"start_s": start_s, "worker_peak_mb": worker_peak_mb()}
    rows = sum(day.rows for log in ("small", "log") for day in StoredTables.open(work / log).days)
    return figures | {"shuffle_bytes_a_row": shuffled(events) / rows}


def shuffled(events: Path) -> int:
    """Sum the bytes that tasks wrote for others, from Spark's log of its events."""
    lines = (json.loads(line) for path in events.rglob("events_*") for line in path.read_text().splitlines())
    ended = (line["Task Metrics"] for line in lines if line["Event"] == "SparkListenerTaskEnd" and "Task Metrics" in line)
    return sum(metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"] for metrics in ended)


def differing(one: Path, other: Path) -> int:
    """Count the files that one of the folders lacks, or that differ."""
    files = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    return sum(_bytes(one / path) != _bytes(other / path) for path in files)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@exits_on(SparkError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=2_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="processes of this machine")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    schema = FeatureSchema.load(Path("conf/features/world.yaml"))
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        work = Path(folder)
        write_log(work / "small", min(5_000, options.impressions), options.seed)
        write_log(work / "log", options.impressions, options.seed)
        one = built(work, "one", schema, lambda scratch: replay)
        spark = {workers: on_spark(work, workers, schema) for workers in options.workers}
        differ = sum(differing(work / "log-one", work / f"log-spark-{workers}") for workers in spark)
    overhead = {workers: figures["cpu_s"] / one["cpu_s"] for workers, figures in spark.items()}
    figures = {"impressions": options.impressions, "one_process": one, "spark": spark, "cpu_overhead": overhead}
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(rounded(figures | {"driver_peak_mb": peak_mb, "differing_files": differ, "seed": options.seed}, 3)))


if __name__ == "__main__":
    main()

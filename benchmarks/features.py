"""The feature stage, Parquet in to training columns out: `python -m benchmarks.features --impressions 2000000`.

A random log with a heavy tail; keys grow with its rows: a viewer every 40 impressions, a video every 100.
Compilation is done before the clock starts. The last line is one JSON object; `peak_mb` is the process's highest resident size.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from watchnext.data.splits import TimeSplit
from watchnext.data.tables import OUTCOMES, Tables, read_tables
from watchnext.features.build import FeatureBuilder
from watchnext.features.labels import Labels
from watchnext.schema import FeatureSchema

START_MS, DAY_MS, DAYS = 1_700_006_400_000, 86_400_000, 14


def log_of(impressions: int, seed: int) -> Tables:
    """Random tables of the simulated platform's layout."""
    random = np.random.default_rng(seed)
    users, videos = max(impressions // 40, 50), max(impressions // 100, 50)
    time_ms = START_MS + np.sort(random.integers(0, DAYS * DAY_MS, impressions))
    watch_ms = (random.exponential(15_000, impressions) * (random.random(impressions) > 0.1)).astype(np.int64)
    columns = {
        "request_id": np.arange(impressions) // 8,
        "user_id": (users * random.random(impressions) ** 2).astype(np.int64),
        "video_id": (videos * random.random(impressions) ** 3).astype(np.int64),
        "time_ms": time_ms,
        "watch_ms": watch_ms,
        **{name: random.random(impressions) < 0.2 for name in OUTCOMES},
    }
    frame = pl.DataFrame(columns).with_columns(
        day=pl.from_epoch("time_ms", time_unit="ms").dt.date(),
        surface=pl.lit("home"),
        received_ms=pl.lit(None, pl.Int64),
    )
    return Tables(frame, users_of(users, random), videos_of(videos, random))


def users_of(count: int, random: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame({"user_id": np.arange(count), "account_age_days": random.integers(0, 2000, count)}).with_columns(
        region=pl.lit("north"), age_group=pl.lit("18-24"), device=pl.lit("phone"), user_language=pl.lit("en")
    )


def videos_of(count: int, random: np.random.Generator) -> pl.DataFrame:
    tags = random.integers(0, 40, (count, 2)).astype(str)
    return pl.DataFrame(
        {
            "video_id": np.arange(count),
            "creator_id": random.integers(0, max(count // 10, 1), count),
            "upload_ms": START_MS + random.integers(-10 * DAY_MS, DAYS * DAY_MS, count),
            "duration_ms": random.integers(5_000, 300_000, count),
            "tags": tags.tolist(),
            "vector": random.standard_normal((count, 16)).astype(np.float32).tolist(),
        },
        schema_overrides={"vector": pl.List(pl.Float32)},
    ).with_columns(
        language=pl.lit("en"),
        regions=pl.lit(None, pl.List(pl.String)),
        safety=pl.lit(None, pl.String),
        fingerprint=pl.lit(None, pl.Int64),
    )


def build(folder: Path, out: Path, schema: FeatureSchema) -> None:
    tables = read_tables(folder)
    split = TimeSplit(valid_days=1, test_days=1).assign(tables.impressions["day"])
    builder = FeatureBuilder(
        schema=schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=5, data_hash="benchmark"
    )
    builder.build(tables, split, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    schema = FeatureSchema.load(Path("conf/features/world.yaml"))
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        work = Path(folder)
        log_of(2_000, options.seed).write(work / "small")
        build(work / "small", work / "warm", schema)
        log_of(options.impressions, options.seed).write(work / "log")
        began = time.perf_counter()
        build(work / "log", work / "out", schema)
        seconds = time.perf_counter() - began
        written = sum(path.stat().st_size for path in (work / "out" / "columns").iterdir())
    found = {
        "impressions": options.impressions,
        "impressions_per_s": round(options.impressions / seconds),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "column_bytes_per_impression": round(written / options.impressions),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

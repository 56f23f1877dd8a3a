"""Time the feature stage, from Parquet to training columns: `python -m benchmarks.features --impressions 20000000`.

The log is random with a heavy tail, 14 days long, or longer so that no day exceeds 1.5 million impressions. Keys grow with its
rows: a viewer every 40 impressions, a video every 100. A viewer comes for a session of a dozen impressions, in requests of six.
Another process writes the log, and compilation is done before the clock starts. The last line is one JSON object: `peak_mb` is
the process's highest resident size, `cpu_s` the processor time of all threads, `start_s` the time of a log of 5,000
impressions, which `ns_per_impression` leaves out.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numba import njit

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, begin, finish, write_day
from watchnext.data.structure import sound_columns
from watchnext.data.tables import OUTCOMES, DataError, Tables
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.state.fold import Layout, fold_event
from watchnext.schema import FeatureSchema

FIRST, DAY_MS = date(2025, 3, 10), 86_400_000
DAYS, ROWS_A_DAY = 14, 1_500_000
SESSION, REQUEST = 12, 6  # impressions of each


def write_log(folder: Path, impressions: int, seed: int) -> None:
    """Write random tables in the layout of the simulated platform, day by day."""
    random, schema = np.random.default_rng(seed), FeatureSchema.load(Path("conf/features/world.yaml"))
    users, videos = max(impressions // 40, 50), max(impressions // 100, 50)
    days = max(DAYS, -(-impressions // ROWS_A_DAY))
    rows, written = np.diff(np.linspace(0, impressions, days + 1).astype(int)), []
    of_users, of_videos = users_of(users, random), videos_of(videos, random)
    for number in range(days):
        day = FIRST + timedelta(days=number)
        tables = whole(Tables(impressions_of(day, rows[number], users, videos, random), of_users, of_videos), schema)
        if not written:
            begin(folder, tables)
        written.append(write_day(folder, str(day), tables.impressions))
    finish(folder, written)


def whole(tables: Tables, schema: FeatureSchema) -> Tables:
    """Complete the columns as a loader does: all columns of the schema and `data/tables.py`, null if synthesised."""
    frames, faults, _ = sound_columns(tables, schema)
    if faults:
        raise DataError("\n".join(fault.message for fault in faults))
    return Tables(**frames)


def impressions_of(day: date, rows: int, users: int, videos: int, random: np.random.Generator) -> pl.DataFrame:
    """Draw one day: sessions of viewers, some of them frequent, with a request every minute and a half."""
    session = np.arange(rows) // SESSION
    starts = random.integers(0, DAY_MS - 1_800_000, session[-1] + 1)
    viewers = (users * random.random(session[-1] + 1) ** 2).astype(np.int64)
    within = np.arange(rows) % SESSION
    midnight = (day - date(1970, 1, 1)).days * DAY_MS
    watch_ms = (random.exponential(15_000, rows) * (random.random(rows) > 0.1)).astype(np.int64)
    columns = {
        "request_id": midnight + np.arange(rows) // REQUEST,
        "user_id": viewers[session],
        "video_id": (videos * random.random(rows) ** 3).astype(np.int64),
        "time_ms": midnight + starts[session] + within // REQUEST * 90_000,
        "position": (within % REQUEST).astype(np.int16),
        "watch_ms": watch_ms,
        **{name: random.random(rows) < 0.2 for name in OUTCOMES},
    }
    return pl.DataFrame(columns).with_columns(day=pl.lit(day), surface=pl.lit("home"))


def users_of(count: int, random: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame({"user_id": np.arange(count), "account_age_days": random.integers(0, 2000, count)}).with_columns(
        region=pl.lit("north"), age_group=pl.lit("18-24"), device=pl.lit("phone"), user_language=pl.lit("en")
    )


def videos_of(count: int, random: np.random.Generator) -> pl.DataFrame:
    midnight = (FIRST - date(1970, 1, 1)).days * DAY_MS
    tags = pl.DataFrame(random.integers(0, 40, (count, 2)), schema=["a", "b"]).select(
        tags=pl.concat_list(pl.all().cast(pl.String))
    )
    vectors = pl.Series("vector", random.standard_normal((count, 16)).astype(np.float32)).arr.to_list()
    return pl.DataFrame(
        {
            "video_id": np.arange(count),
            "creator_id": random.integers(0, max(count // 10, 1), count),
            "upload_ms": midnight + random.integers(-10 * DAY_MS, DAYS * DAY_MS, count),
            "duration_ms": random.integers(5_000, 300_000, count),
        }
    ).with_columns(
        tags["tags"],
        vectors,
        language=pl.lit("en"),
    )


def build(folder: Path, out: Path, schema: FeatureSchema) -> tuple[float, float]:
    """Build the features and return the seconds taken, by the clock and by the processor."""
    builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=5)
    began, worked = time.perf_counter(), time.process_time()
    builder.build(StoredTables.open(folder), TimeSplit(valid_days=1, test_days=1), out)
    return time.perf_counter() - began, time.process_time() - worked


@njit
def updates(layout, viewers, items, video_rows, tags, amounts):
    """Update online counters event by event, each of a viewer, a video and its creator."""
    for i in range(video_rows.size):
        row = video_rows[i]
        at, viewer = 1e12 + 1000.0 * i, viewers[i % viewers.shape[0]]
        fold_event(layout, viewer, items[row], items[row % 100], i % 2, at, row, row % 100, tags[row], amounts, 5000.0, 3.0)


def update_us(schema: FeatureSchema, events: int = 200_000) -> float:
    """Measure the microseconds per event in the fold, over more records than a cache holds, with four tags per video."""
    layout, random = Layout.of(schema.state), np.random.default_rng(0)
    viewers, items = np.zeros((20_000, layout.viewer)), np.zeros((100_000, layout.item))
    tags = random.integers(0, 40, (len(items), 4)).astype(np.int32)
    arguments = random.integers(0, len(items), events), tags, np.ones(len(schema.state.counts))
    updates(layout, viewers, items, *arguments)
    began = time.perf_counter()
    updates(layout, viewers, items, *arguments)
    return 1e6 * (time.perf_counter() - began) / events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    schema = FeatureSchema.load(Path("conf/features/world.yaml"))
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        work = Path(folder)
        for name, impressions in (("small", 5_000), ("log", options.impressions)):
            writer = multiprocessing.get_context("spawn").Process(
                target=write_log, args=(work / name, impressions, options.seed)
            )
            writer.start()
            writer.join()
            if writer.exitcode:
                sys.exit(f"writing the log ended with {writer.exitcode}")
        build(work / "small", work / "compiled", schema)
        start_s, _ = build(work / "small", work / "warm", schema)
        seconds, cpu_s = build(work / "log", work / "out", schema)
        parts = [path for part in ("columns", "watches") for path in (work / "out" / part).iterdir()]
        written_bytes = sum(path.stat().st_size for path in parts)
    figures = {
        "impressions": options.impressions,
        "impressions_per_s": round(options.impressions / seconds),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "start_s": round(start_s, 2),
        "cpu_s": round(cpu_s, 2),
        "ns_per_impression": round(1e9 * (seconds - start_s) / options.impressions),
        "column_bytes_per_impression": round(written_bytes / options.impressions),
        "update_us": round(update_us(schema), 2),
        "viewer_state_bytes": 8 * Layout.of(schema.state).viewer,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

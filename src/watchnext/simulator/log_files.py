"""Write a simulated log as files, streamed: users.parquet, videos.parquet, impressions/date=YYYY-MM-DD/part-0.parquet."""

import shutil
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from watchnext.simulator.log_stream import DayLog
from watchnext.simulator.world import World

# Dictionaries save space for repeated values only; delta encoding fits ids and times.
DICTIONARIES = ["day", "surface", "policy", "position"]
ENCODINGS = dict.fromkeys(("request_id", "time_ms", "received_ms"), "DELTA_BINARY_PACKED")


def write_world(world: World, folder: Path, *, threads: int, quiet: bool = False) -> int:
    """Write the three tables to `folder`, replacing existing ones; returns the number of impressions.

    The same world gives the same bytes for any number of `threads`. Files appear once all are complete.
    """
    partial = Path(folder) / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    written, before = 0, None
    with ThreadPoolExecutor(1) as writer:  # writes one day while the next is drawn
        users = writer.submit(_write, partial / "users.parquet", world.user_tables())
        videos = writer.submit(_write, partial / "videos.parquet", world.video_tables())
        for day in world.days_of_log(threads=threads, quiet=quiet):
            written += _rows(before)
            before = writer.submit(_write_day, world, day, partial)
            del day  # while the next is drawn, only the writer holds it
        written += _rows(before)
        users.result(), videos.result()
    _replace(partial, Path(folder))
    return written


def _rows(written: Future | None) -> int:
    return 0 if written is None else written.result()


def _write_day(world: World, day: DayLog, folder: Path) -> int:
    return _write(folder / "impressions" / f"date={day.date}" / "part-0.parquet", world.tables_of(day), DICTIONARIES, ENCODINGS)


def _write(
    path: Path, groups: Iterable[pa.Table], dictionaries: list[str] | bool = True, encodings: dict[str, str] | None = None
) -> int:
    """Write one row group per table; returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, rows = None, 0
    for group in groups:
        if writer is None:  # with the stored Arrow schema, polars would read categories
            options = {"use_dictionary": dictionaries, "column_encoding": encodings, "store_schema": False}
            writer = pq.ParquetWriter(path, group.schema, compression="zstd", write_statistics=False, **options)
        writer.write_table(group, row_group_size=max(group.num_rows, 1))
        rows += group.num_rows
    if writer is not None:
        writer.close()
    return rows


def _replace(partial: Path, folder: Path) -> None:
    """Replace older files, in either layout, by the complete ones."""
    for table in ("impressions", "users", "videos"):
        (folder / f"{table}.parquet").unlink(missing_ok=True)
        shutil.rmtree(folder / table, ignore_errors=True)
    for path in sorted(partial.iterdir()):
        path.rename(folder / path.name)
    partial.rmdir()

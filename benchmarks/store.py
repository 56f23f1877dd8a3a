"""Size of the store and cost of its events, by number of viewers: `python -m benchmarks.store --viewers 300 3000 30000`.

On `releases/current`, over a fresh durable store in a temporary folder. New viewers come until there are as many as each of
`--viewers` names; each watches one video. `store_bytes` are the blocks of the store's files on disk at that moment,
`event_cpu_us` the processor time of one event, of calls with `--events` events each. Then the viewers of the smallest size
watch `--watches` videos more: `event_bytes` is by how much an event of a known viewer lets the store grow, with its journal
entry and its idempotency key. The last line is one JSON object.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from watchnext.cli import exits_on
from watchnext.serving.release.release import Release, ReleaseError, current
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event

NEW_VIEWER = "benchmark-"  # no id of a log begins so
SEED = 0


def used_bytes(folder: Path) -> int:
    """Return the bytes that the files below `folder` occupy on disk; files with holes count their blocks alone."""
    return 512 * sum(path.stat().st_blocks for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def new_viewers(release: Release, first: int, last: int) -> list[int | str]:
    """Return ids that the release does not know, of its kind."""
    strings = release.user_ids.ids.dtype.kind == "S"
    return [f"{NEW_VIEWER}{number}" if strings else 2**40 + number for number in range(first, last)]


def watches(release: Release, viewers: Sequence[int | str], times: int, start: int) -> Iterator[Event]:
    """Yield the two events of `times` watches of each viewer. `start` keeps the keys of several calls apart."""
    random, videos = np.random.default_rng(SEED + start), len(release.catalogue)
    for viewer in viewers:
        for time_of in range(times):
            key, at = f"{start}/{viewer}/{time_of}", release.as_of_ms + 1 + 10 * (start + time_of)
            about = {"user_id": viewer, "video_id": release.video_ids.value(int(random.integers(videos))), "request_id": key}
            yield Event(kind="shown", known_at=at, **about)
            yield Event(kind="outcome", known_at=at + 5, watch_ms=20_000, click=True, **about)


def posted(store: Store, events: Iterator[Event], size: int) -> tuple[int, float]:
    """Post the events in calls of `size`. Returns their number and the processor time in s."""
    number = seconds = 0
    every = list(events)
    for first in range(0, len(every), size):
        part = every[first : first + size]
        began = time.process_time()
        store.apply(part)
        seconds += time.process_time() - began
        number += len(part)
    return number, seconds


def measure(release: Release, folder: Path, options: argparse.Namespace) -> dict:
    """Let viewers come, and known ones go on. Returns the figures."""
    store, sizes = Store.open(folder, release), sorted(options.viewers)
    store.warm()
    known = store.viewer_ids(2)
    posted(store, watches(release, known, 5, 2), options.events)  # compile
    empty, there, curve = used_bytes(folder), 0, []
    for size in sizes:
        number, seconds = posted(store, watches(release, new_viewers(release, there, size), 1, 0), options.events)
        there = size
        curve.append(
            {"viewers": size, "store_bytes": used_bytes(folder) - empty, "event_cpu_us": round(1e6 * seconds / number, 2)}
        )
    before = used_bytes(folder)
    number, seconds = posted(store, watches(release, new_viewers(release, 0, sizes[0]), options.watches, 1), options.events)
    grown = used_bytes(folder) - before
    store.close()
    return {
        "curve": curve,
        "event_bytes": round(grown / number, 1),
        "known_event_cpu_us": round(1e6 * seconds / number, 2),
    }


@exits_on(ReleaseError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, nargs="+", default=[300, 3_000, 30_000])
    parser.add_argument("--watches", type=int, default=30)
    parser.add_argument("--events", type=int, default=200, help="of a call")
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    options = parser.parse_args()
    release = Release.load(current(options.releases))
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        figures = measure(release, Path(folder) / "store", options)
    print(json.dumps({"release": release.id, "videos": len(release.catalogue), **figures}))


if __name__ == "__main__":
    main()

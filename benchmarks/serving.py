"""Cost of one request, and sizes of state and release: `python -m benchmarks.serving --requests 500`.

In process, on `releases/current`, over a fresh durable store in a temporary folder, one request after another, without HTTP.
The last line is one JSON object: times in ms per request and us per event, sizes in bytes. `load_s` and `open_s` are the two
parts of a server's start: the release is checked and loaded, then a new store is built and everything is warmed up.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from watchnext.cli import exits_on
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served_log import ServedLog
from watchnext.serving.release.release import Release, ReleaseError, current
from watchnext.serving.store.journal import Event
from watchnext.serving.store.store import Store
from watchnext.types import Request


def events_of(answer: Answer) -> list[Event]:
    """Events for a slate shown and watched completely."""
    common = {"user_id": answer.request.user_id, "request_id": answer.request.request_id}
    shown_ms = answer.request.as_of_ms
    shown = [Event(kind="shown", video_id=video, known_at=shown_ms, **common) for video in answer.ids]
    watched = [
        Event(kind="outcome", video_id=video, known_at=shown_ms + 1000, watch_ms=20_000, click=True, **common)
        for video in answer.ids
    ]
    return shown + watched


def measure(release: Release, folder: Path, *, requests: int, k: int) -> dict:
    """Recommend, count and log for `requests` known viewers in turn."""
    began = time.perf_counter()
    store = Store.open(folder / "store", release)
    served = ServedLog(folder / "served", max_bytes=1 << 30, flush_rows=requests)
    recommender = Recommender(release, store)
    recommender.warm()
    open_s = time.perf_counter() - began
    wall, cpu, write, sizes, stages = [], [], [], [], []
    users = store.viewer_ids(requests)
    for i in range(requests):
        request = Request(f"{i:032d}", users[i % len(users)], k, release.as_of_ms + 1 + 2000 * i)
        began, worked = time.perf_counter(), time.process_time()
        answer = recommender.recommend(request)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
        stages.append(answer.timings_ms)
        events = events_of(answer)
        began = time.perf_counter()
        store.apply(events)
        write.append((time.perf_counter() - began) / max(len(events), 1))
        sizes += [len(event.to_bytes()) for event in events]
        served.append(answer)
    served.close()
    store.close()
    logged = sum(path.stat().st_size for path in (folder / "served").rglob("*.parquet"))
    return {
        "p50_ms": 1e3 * np.median(wall),
        "p99_ms": 1e3 * np.percentile(wall, 99),
        "cpu_ms": 1e3 * np.mean(cpu),
        "stages_p50_ms": {name: np.median([each[name] for each in stages]) for name in stages[0]},
        "durable_event_us": 1e6 * np.median(write),
        "journal_event_bytes": np.mean(sizes),
        "served_answer_bytes": logged / requests,
        "open_s": open_s,
    }


def sizes(release: Release) -> dict:
    """Measure bytes of a viewer's state, a video's state, and of a video in the release."""
    parts = ("catalogue", "videos", "index")
    folder = {part: sum(path.stat().st_size for path in (release.folder / part).rglob("*.*")) for part in parts}
    return {
        "viewer_state_bytes": 8 * release.layout.viewer,
        "video_state_bytes": 8 * release.layout.item,
        "release_bytes_per_video": {part: size / len(release.catalogue) for part, size in folder.items()},
    }


@exits_on(ReleaseError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    options = parser.parse_args()
    began = time.perf_counter()
    release = Release.load(current(options.releases))
    load_s = time.perf_counter() - began
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        figures = measure(release, Path(folder), requests=options.requests, k=options.k) | sizes(release) | {"load_s": load_s}
    run = {"release": release.id, "videos": len(release.catalogue), "requests": options.requests}
    print(json.dumps(run | rounded(figures)))


def rounded(nested: dict) -> dict:
    return {name: rounded(value) if isinstance(value, dict) else round(float(value), 3) for name, value in nested.items()}


if __name__ == "__main__":
    main()

"""Cost of one request, and sizes of state and release: `python -m benchmarks.serving --requests 500`.

In process, on `releases/current`, over a fresh durable store in a temporary folder, one request after another,
without HTTP. The last line is one JSON object: times in ms per request and us per event, sizes in bytes. `load_s` and `open_s`
are the two parts of a server's start: the release is checked and loaded, then a new store is built and everything is warmed up.

With `--videos 1000000 --viewers 1000000`, on a release of a simulated world of this size, which is built once into
outputs/benchmark-VIDEOSxVIEWERSxDAYS.

With `--seconds 20`, over HTTP: the real `bentoml serve`, or with `--shell uvicorn` the same app without BentoML's shell, on
`releases/current` with a fresh store, driven by this process on the same machine. Each of these loads lasts that long: slates
at `--rate` (p50_ms, p99_ms, stages_ms); slates, and posts of 20 events, as fast as `--connections` carry them (capacity_rps,
events_per_s); precomputed slates at `--precomputed-rate`; and slates at `--rate` beside `--posts` posts a second
(beside_p99_ms, events_p99_ms). Times count from the moment at which a request was due. `stages_ms` are means: the funnel's and
`outside` (HTTP, waiting, JSON) sum to the mean of the times; `commit` is the time until impressions, which are gathered for 50
ms, are on disk; no slate waits for it. `fsync_ms` is one write and fdatasync of a page on the same disk, `ready_s` the start of
the server. `refused` counts answers other than 200.

With WATCHNEXT_STORE=redis://host:port/db, on the store in that Redis instead of a fresh one; its database should be empty.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.http.load import Answers, Calls, at_capacity, at_rate
from benchmarks.http.server import SHELLS, Server, serving, store_of
from benchmarks.whole.pipeline import build_release

from watchnext.cli import exits_on
from watchnext.serving.funnel.ahead.batch import Batch, answers_of, slates_of
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.release.release import Release, ReleaseError, current
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
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
    store = Store.open(store_of(folder), release)
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


# ---- a release of a given size ----------------------------------------------------------------------------------------------


# A network costs as much to serve after a short training as after a long one, and so does a viewer's state of a short log; the
# vectors of such towers lie loosely, so that an index finds fewer of the nearest at the same cost.
SHORT = (
    "data.loader.impressions_per_user_day=1.0",
    "+data.split.warmup_days=1",
    "index=ivf_sq8",
    "index.guard.floor=0.5",
    "selection.requests=50",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=20",
    "+trainer.limit_val_batches=2",
    "+trainer.limit_test_batches=2",
)
SHORT_RANKER = "ranker model.module.teacher.module.members.trees.module.rounds=20"


def simulated(videos: int, viewers: int, days: int, words: list[str]) -> Path:
    """Return the releases of a simulated world of this size; simulate and train once, and reuse it afterwards."""
    outputs = Path("outputs") / f"benchmark-{videos}x{viewers}x{days}"
    releases = outputs / "releases"
    if not (releases / "current").exists():
        folders = {"outputs": outputs, "releases": releases, "store": outputs / "store"}
        sizes = {"loader.users": viewers, "loader.videos": videos, "loader.days": days}
        overrides = [f"data.{key}={value}" for key, value in (folders | sizes).items()]
        build_release("world", "world", outputs, [*overrides, *SHORT, *words], ranker=SHORT_RANKER)
    return releases


# ---- over HTTP -----------------------------------------------------------------------------------------------------------

ASKED = 4  # times that a viewer's precomputed slate is asked for: what was shown is seen, and the slate is five times as deep
POSTED = 20  # events a post


def slates(users: list, k: int) -> Calls:
    draw = random.Random(0)
    while True:
        yield "/v1/recommend", {"user_id": draw.choice(users), "k": k}


def precomputed_slates(users: list, k: int) -> Calls:
    """Ask for the viewers in turn."""
    for user in itertools.cycle(users):
        yield "/v1/recommend", {"user_id": user, "k": k, "mode": "precomputed"}


def posts(users: list, videos: list, name: str) -> Calls:
    draw = random.Random(0)
    for post in itertools.count():
        ids = [{"user_id": draw.choice(users), "video_id": draw.choice(videos)} for _ in range(POSTED)]
        about = {"type": "outcome", "watch_ms": 5_000, "click": True}
        yield "/v1/events", {"events": [about | each | {"key": f"{name}/{post}/{i}"} for i, each in enumerate(ids)]}


def fsync_ms(folder: Path, times: int = 100) -> float:
    """Return the median time of a page's write and fdatasync."""
    taken, page = [], os.urandom(4096)
    with (folder / "page").open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            os.pwrite(file.fileno(), page, 0)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return 1e3 * float(np.median(taken))


def stages_ms(server: Server, before: dict, answers: Answers) -> dict[str, float]:
    """Return the mean time of each stage since `before`; `outside` is the rest of the mean of the answers."""
    after = server.stage_seconds()
    since = {stage: np.subtract(after[stage], before.get(stage, (0.0, 0.0))) for stage in after}
    stages = {stage: 1e3 * seconds / times for stage, (seconds, times) in since.items() if times}
    commit = stages.pop("commit", np.nan)
    return {**stages, "outside": np.mean(answers.ms) - sum(stages.values()), "commit": commit}


async def loads(server: Server, users: list, ahead: list, videos: list, options: argparse.Namespace) -> dict:
    """Batch one load after another and return the figures."""
    port, seconds, k = server.port, options.seconds, options.k
    carried = {"connections": options.connections, "seconds": seconds}
    await at_capacity(port, slates(users, k), connections=2, seconds=min(seconds, 2))  # warm
    before = server.stage_seconds()
    steady = await at_rate(port, slates(users, k), per_s=options.rate, seconds=seconds)
    stages = stages_ms(server, before, steady)
    most = await at_capacity(port, slates(users, k), **carried)
    ready = await at_rate(port, precomputed_slates(ahead, k), per_s=options.precomputed_rate, seconds=seconds)
    events = await at_capacity(port, posts(users, videos, "most"), **carried)
    beside, posted = await asyncio.gather(
        at_rate(port, slates(users, k), per_s=options.rate, seconds=seconds),
        at_rate(port, posts(users, videos, "beside"), per_s=options.posts, seconds=seconds),
    )
    return {
        "p50_ms": steady.percentile(50),
        "p99_ms": steady.percentile(99),
        "capacity_rps": most.good / most.seconds,
        "precomputed_p50_ms": ready.percentile(50),
        "precomputed_p99_ms": ready.percentile(99),
        "events_per_s": POSTED * events.good / events.seconds,
        "beside_p99_ms": beside.percentile(99),
        "events_p50_ms": posted.percentile(50),
        "events_p99_ms": posted.percentile(99),
        "stages_ms": stages,
        "refused": {
            "slates": len(steady.status) - steady.good,
            "precomputed": len(ready.status) - ready.good,
            "beside": len(beside.status) - beside.good,
            "events": len(posted.status) - posted.good,
        },
    }


def measure_http(release: Release, folder: Path, options: argparse.Namespace) -> dict:
    """Precompute some slates, start the server, and drive it."""
    users = [release.user_ids.value(row) for row in range(len(release.user_ids.ids))]
    videos = [release.video_ids.value(row) for row in range(len(release.catalogue))]
    ahead = users[: int(options.precomputed_rate * options.seconds / ASKED) + 1]
    store = Store.open(store_of(folder), release)
    # Deeper than asked for: a slate stays valid while its first videos are watched.
    run = Batch(release.id, store.slates.store, 5 * options.k, len(users), release.as_of_ms)
    store.slates.put(slates_of(answers_of(Recommender(release, store), run, ahead)))
    store.close()
    floor = fsync_ms(folder)
    with serving(options.releases, folder, options.shell) as server:
        figures = asyncio.run(loads(server, users, ahead, videos, options))
        return figures | {"fsync_ms": floor, "rss_mb": server.rss_mb(), "ready_s": server.ready_s}


@exits_on(ReleaseError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--releases", type=Path, default=Path("releases"))
    parser.add_argument("--seconds", type=float, help="of each load over HTTP; without it, in process")
    parser.add_argument("--shell", choices=SHELLS, default="bentoml", help="that serves the app over HTTP")
    parser.add_argument("--rate", type=float, default=40.0, help="slates a second")
    parser.add_argument("--precomputed-rate", type=float, default=200.0, help="precomputed slates a second")
    parser.add_argument("--posts", type=float, default=50.0, help="posts of 20 events a second")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--videos", type=int, help="of a simulated world that is served instead of --releases")
    parser.add_argument("--viewers", type=int, default=1_600)
    parser.add_argument("--days", type=int, default=4)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of every stage that builds that world's release")
    options = parser.parse_args()
    if options.videos:
        options.releases = simulated(options.videos, options.viewers, options.days, options.overrides)
    began = time.perf_counter()
    release = Release.load(current(options.releases))
    load_s = time.perf_counter() - began
    with TemporaryDirectory(prefix="watchnext-benchmark-") as folder:
        if options.seconds:
            run = {"shell": options.shell, "seconds": options.seconds, "rate": options.rate}
            figures = measure_http(release, Path(folder), options)
        else:
            run, figures = (
                {"requests": options.requests},
                measure(release, Path(folder), requests=options.requests, k=options.k),
            )
            figures |= sizes(release) | {"load_s": load_s}
    run = {"release": release.id, "videos": len(release.catalogue), **run}
    print(json.dumps(run | rounded(figures)))


def rounded(nested: dict) -> dict:
    return {name: rounded(value) if isinstance(value, dict) else round(float(value), 3) for name, value in nested.items()}


if __name__ == "__main__":
    main()

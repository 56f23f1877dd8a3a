"""The walks of docs/design.md are those of the code: every file is reached, and no call climbs back but those named here."""

import re
import sys
import threading
from pathlib import Path

import pytest
from test_app import Api

import watchnext
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.http.access.gate import Access
from watchnext.serving.http.app import Limits, create_app

ROOT = f"{Path(watchnext.__file__).parent}/"
DESIGN = (Path(__file__).resolve().parents[3] / "docs" / "design.md").read_text()
# What a thread runs between the app and the handlers: its pool, and the choice of the release that answers.
BETWEEN = {"serving/http/worker_pool.py", "serving/http/swap/serving.py"}
COMPILED = {"features/state/fold.py"}  # machine code, which no profiler sees


def walk(title: str) -> list[str]:
    """The files of a walk, in the order of its table."""
    table = DESIGN.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| \d \| `([^`]+)`", table, re.MULTILINE)


def package_file(frame) -> str | None:
    file = frame.f_code.co_filename
    return file.removeprefix(ROOT) if file.startswith(ROOT) else None


def callers(frame) -> list[str]:
    """The files of the package that are being executed above a frame, the nearest first."""
    files = []
    while (frame := frame.f_back) is not None:
        files += [file] if (file := package_file(frame)) else []
    return files


def calls_of(api, path: str, body: dict) -> list[tuple[list[str], str]]:
    """Calls between files of the package, in time order: `callers` and called."""
    calls, recording = [], threading.Event()

    def profile(frame, event, _):
        if event != "call" or not recording.is_set() or (called := package_file(frame)) is None:
            return
        if [called] != (above := callers(frame))[:1]:
            calls.append((above, called))

    before = sys.getprofile()
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        recording.set()
        assert api("POST", path, body=body).status_code == 200
    finally:
        recording.clear()
        sys.setprofile(before)
        threading.setprofile(None)
    return calls


@pytest.fixture
def api(release, store, tmp_path):
    recommender, log = Recommender(release, store), ServedLog(tmp_path / "served", max_bytes=1 << 20, flush_rows=500)
    recommender.warm()
    now = iter(range(release.as_of_ms + 1, release.as_of_ms + 99))
    app = create_app(
        recommender=recommender,
        store=store,
        served_log=log,
        clock=now.__next__,
        limits=Limits(timeout_s=60),
        access=Access(),
        drift=Path("no report"),
    )
    yield Api(app)
    app.state.close()
    log.close()


WALKS = [("A request", "/v1/recommend", 7), ("A request", "/v1/rank", 7), ("An event", "/v1/events", 7)]
# The engine hands every commit, its own and those of other servers, to the stores that keep records in memory.
HANDED_BACK = {"A request": [], "An event": [("serving/store/engines/environment.py", "serving/store/store.py")]}


@pytest.mark.parametrize(("title", "path", "most"), WALKS)
def test_a_walk_reaches_its_files_and_never_climbs_back(title, path, most, api, release):
    video = release.video_ids.value(3)
    outcome = {"type": "outcome", "user_id": 105, "video_id": video, "watch_ms": 5_000, "key": "k"}
    bodies = {"recommend": {"user_id": 105}, "rank": {"user_id": 105, "video_ids": [video]}, "events": {"events": [outcome]}}
    calls = calls_of(api, path, bodies[path.rpartition("/")[2]])
    files = walk(title)
    step = {file: number for number, file in enumerate(files)}
    assert 4 < len(files) <= most
    assert set(files) - COMPILED <= {called for _, called in calls}
    into = [(above, called) for above, called in calls if called in files[1:] and set(above) - BETWEEN]
    # A file beside the walk acts for the step that called it.
    steps_into = {(next((file for file in above if file in step), None), called) for above, called in into}
    climbs = [(caller, called) for caller, called in steps_into if caller is None or step[caller] > step[called]]
    assert climbs == HANDED_BACK[title]
    if path != "/v1/events":  # a stage is done before the next one begins; a transaction goes through its files per event
        steps = [step[called] for _, called in into]
        assert steps == sorted(steps)

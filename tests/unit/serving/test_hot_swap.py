"""Releases swapped under a real server that answers: none of its requests fails, no answer mixes two releases or
shows what its release forbids."""

import itertools
import os
import random
import re
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from api import ids
from bento_server import ROOT, SHELLS, Server
from test_hard_rules import MOST, POLICY, Truth

import small_release
from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.serving.release.release import Release, publish
from watchnext.serving.store.store import Store

K = 8
SEED = 5
NOT_FAILED = {"ranker_late", "sources_late", "not_precomputed"}  # slow under load, or no batch has run


class Releases:
    """A folder with the releases of `make_releases`, and others that cannot serve."""

    def __init__(self, root: Path, feature_stage, once) -> None:
        self.root = root
        with pytest.MonkeyPatch.context() as patched:  # mature videos for some ages and regions, one a slate for others
            patched.setitem(small_release.RERANKING["rules"], "safety", {"highest": "mature", "policy": POLICY, "most": MOST})
            parts, as_of_ms = small_release.make_releases(root, feature_stage, once)
            self._not_reproduced(*parts, as_of_ms)
            for name in ("odd", "short"):
                small_release.make_release(*parts, root, id=name)
        self.truth = Truth(parts[0][1].users, parts[0][1].videos)  # `fewer` has some of the same videos
        (root / "odd" / "manifest.json").write_text('{"digest": "0", "files": ["../../etc"]}')
        os.truncate(root / "short" / "graphs" / "ranker.bin", 10)
        self.bad = ("not-reproduced", "flipped", "odd", "short", "first-renamed", "nothing", "../elsewhere")
        shutil.copytree(root / "first", root / "first-renamed")
        shutil.copytree(root / "same", root.parent / "elsewhere")
        loaded = {name: Release.load(root / name) for name in ("first", "same", "fewer")}
        self.ids = {name: {*each.video_ids.values(np.arange(len(each.catalogue)))} for name, each in loaded.items()}
        self.point("first")

    def _not_reproduced(self, built, exported, as_of_ms: int) -> None:
        staging = small_release.stage_release(built, exported, self.root)
        arrays = {name: values.copy() for name, values in load_arrays(staging / "sample" / "0").items()}
        save_arrays(staging / "sample" / "0", arrays | {"output_ranker": arrays["output_ranker"] + 0.2})
        manifest = {"data": "tiny", "regime": "streaming", "as_of_ms": as_of_ms, "clock": "release", "towers": "tiny"}
        publish(staging, self.root, manifest | {"id": "not-reproduced"})

    def point(self, name: str) -> None:
        """Move the link as `switch` does, without its checks."""
        aside = self.root / ".aside"
        os.symlink(name, aside)
        os.replace(aside, self.root / "current")


@pytest.fixture
def releases(tmp_path, feature_stage, once) -> Releases:
    return Releases(tmp_path / "releases", feature_stage, once)


@pytest.fixture(params=SHELLS)
def server(request, releases, tmp_path):
    server = Server(tmp_path, releases=releases.root, shell=request.param)
    try:
        server.ready()
        yield server
    finally:
        server.end()


class Load:
    """Clients that ask for slates and post outcomes until `stop`; each answer is checked.

    A busy machine may be late with any request: that is shed or degraded by name, and tried again.
    """

    def __init__(self, server: Server, releases: Releases) -> None:
        self._server, self._releases, self._gone = server, releases, min(releases.ids["fewer"])
        assert httpx.delete(f"{server.url}/v1/videos/{self._gone}", timeout=20).status_code == 200  # shown never again
        releases.truth.withdrawn.add(self._gone)
        self._done, self._pool = threading.Event(), ThreadPoolExecutor(3)
        self.slates, self.mature, self.acknowledged = Counter(), 0, []
        self._running = [self._pool.submit(self._ask, worker) for worker in range(2)] + [self._pool.submit(self._post)]

    def _answered(self, client: httpx.Client, method: str, path: str, body: dict | None = None) -> dict:
        while True:
            answer = client.request(method, path, json=body)
            if answer.status_code != 503 or answer.json()["error"]["code"] not in ("too_slow", "overloaded"):
                assert answer.status_code == 200, answer.text
                return answer.json()

    def _ask(self, worker: int) -> None:
        draw = random.Random(SEED + worker)
        with httpx.Client(base_url=self._server.url, timeout=20) as client:
            while not self._done.is_set():
                mode = draw.choice(["online", "precomputed", "not_personalised"])
                body = {"user_id": draw.randrange(100, 130), "k": K, "mode": mode, "region": draw.choice([None, "fr", "de"])}
                slate = self._answered(client, "POST", "/v1/recommend", body)
                assert {each["code"] for each in slate["degraded_why"]} <= NOT_FAILED
                shown, viewer = ids(slate), body["user_id"] if mode != "not_personalised" else None
                assert {*shown} <= self._releases.ids[slate["release"]]
                self.mature += self._releases.truth.require(shown, viewer, body["region"])
                self._answered(client, "GET", f"/v1/viewers/{body['user_id']}/history")
                self.slates[slate["release"]] += 1

    def _post(self) -> None:
        draw, known = random.Random(SEED + 100), sorted(self._releases.ids["fewer"])
        with httpx.Client(base_url=self._server.url, timeout=20) as client:
            for number in itertools.count():
                if self._done.is_set():
                    return
                about = {"type": "outcome", "watch_ms": 5_000, "click": True}
                events = [about | {"user_id": draw.randrange(100, 130), "video_id": draw.choice(known)} for _ in range(4)]
                keyed = {"events": [event | {"key": f"{number}/{i}"} for i, event in enumerate(events)]}
                first, again = (self._answered(client, "POST", "/v1/events", keyed) for _ in range(2))
                assert first["accepted"] + first["duplicates"] == again["duplicates"] == 4
                self.acknowledged += [event["key"] for event in keyed["events"]]

    def stop(self) -> None:
        self._done.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()


def ready(server: Server) -> dict:
    return httpx.get(f"{server.url}/readyz", timeout=20).json()


def until(server: Server, holds, within_s: float = 120.0) -> dict:
    began = time.monotonic()
    while not holds(state := ready(server)):
        assert time.monotonic() - began < within_s, (state, server.log.read_text())
        time.sleep(0.05)
    return state


def swapped(server: Server, releases: Releases, swaps: list[str]) -> Counter:
    """Point the link at each of `swaps` under load; what is bad is refused and named."""
    serves, load, refused = "first", Load(server, releases), 0
    for name in swaps:
        releases.point(name)
        if name in releases.bad:
            refused += 1
            state = until(server, lambda state, name=name: (state["refused"] or {}).get("release") == name)
            assert state["release"] == serves
            assert Path(name).name in state["refused"]["reason"]
            assert "watchnext_release_refused 1.0" in httpx.get(f"{server.url}/metrics").text
        else:
            assert until(server, lambda state, name=name: state["release"] == name)["refused"] is None
            serves = name
    load.stop()
    assert load.mature > 0
    assert server.log.read_text().count("is refused, ") >= min(refused, 1)
    assert server.stop() == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()
    with closing(Store.open(server.log.parent / "store", Release.load(releases.root / serves))) as store:
        outcomes = [event.key for event in store.journal() if event.kind == "outcome"]
        assert Counter(outcomes) == Counter(load.acknowledged)
    return load.slates


def mixed(count: int, releases: Releases) -> list[str]:
    """`count` swaps, half of them bad; no good one names what serves already."""
    draw, swaps, serves = random.Random(SEED), [], "first"
    for number in range(count):
        if number % 2:
            swaps.append(draw.choice([name for name in releases.bad if name != (swaps[-2] if number > 1 else "")]))
        else:
            swaps.append(serves := draw.choice([name for name in releases.ids if name != serves]))
    return swaps


def test_ten_swaps_under_load_lose_nothing_and_mix_nothing(server, releases):
    print(f"seed {SEED}")
    slates = swapped(server, releases, mixed(10, releases))
    assert len(slates) >= 2


@pytest.mark.full
def test_a_hundred_swaps_under_load(server, releases):
    print(f"seed {SEED}")
    assert len(swapped(server, releases, mixed(100, releases))) == 3


def admin(server: Server, method: str, path: str, body: dict | None = None) -> httpx.Response:
    return httpx.request(method, f"{server.url}/v1/admin/{path}", json=body, timeout=60)


def test_promote_and_roll_back_by_the_admin_routes(server, releases):
    promoted = admin(server, "POST", "promote", {"release": "same"})
    assert promoted.json() == {"serves": "same", "before": "first", "loading": None}
    assert os.readlink(releases.root / "current") == "same"
    for path in ("healthz", "livez", "readyz"):
        assert httpx.get(f"{server.url}/{path}").json()["release"] == "same"

    refused = admin(server, "POST", "promote", {"release": "flipped"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "release_refused")
    assert "videos/video_values.npy is damaged" in refused.json()["error"]["message"]
    for name in ("../elsewhere", "current", "nothing"):
        assert "is no release of" in admin(server, "POST", "promote", {"release": name}).json()["error"]["message"]
    assert os.readlink(releases.root / "current") == "same"

    listed = admin(server, "GET", "releases").json()
    assert (listed["serves"], listed["before"], listed["current"]) == ("same", "first", "same")
    assert {each["release"] for each in listed["releases"] if each["serves"]} == {"same"}
    assert {each["release"]: bool(each["damaged"]) for each in listed["releases"]}["odd"]
    assert [each["release"] for each in listed["refused"]] == ["flipped", "../elsewhere", "current", "nothing"]

    assert admin(server, "POST", "rollback", {}).json() == {"serves": "first", "before": None, "loading": None}
    assert os.readlink(releases.root / "current") == "first"
    assert "no release served before first" in admin(server, "POST", "rollback", {}).json()["error"]["message"]
    assert httpx.post(f"{server.url}/v1/admin/rollback").status_code in (415, 422)  # as a page of another site would

    declared = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    routes = {(method.upper(), path) for path, methods in declared.items() for method in methods if "/admin/" in path}
    text = (ROOT / "docs" / "operations.md").read_text()
    assert {*re.findall(r"^\| `(GET|POST)` `(/v1/admin/\S+)` \|", text, re.MULTILINE)} == routes

    stats = admin(server, "GET", "stats").json()
    assert (stats["release"], stats["journal_start"], stats["waiting_events"]) == ("first", 0, 0)
    assert stats["memory_bytes"] > 50_000_000
    assert stats["tables"]["videos"]["entries"] > 0


def test_a_restart_serves_what_was_verified_last_where_current_is_bad(releases, tmp_path):
    def started() -> Server:
        server = Server(tmp_path, releases=releases.root)
        server.ready()
        return server

    server = started()
    try:
        for name in ("fewer", "flipped"):
            assert admin(server, "POST", "promote", {"release": name}).status_code == (200 if name == "fewer" else 409)
        releases.point("flipped")
        until(server, lambda state: state["refused"] and "damaged" in state["refused"]["reason"])
        worker = max(server.family(), key=lambda process: process.memory_info().rss)
        worker.kill()
        psutil.wait_procs([worker], timeout=20)
        state = until(server, lambda state: state.get("refused"))
        assert (state["release"], state["refused"]["release"]) == ("fewer", "flipped")
        assert server.stop() == 0
        server = started()  # the whole server, too
        assert until(server, lambda state: state["refused"])["release"] == "fewer"
        releases.point("first")  # of another catalogue than the store is now
        until(server, lambda state: state["release"] == "first" and not state["refused"])
    finally:
        server.end()

"""Two real servers, each with a folder of its own, follow the promotions at one URL."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.unit.serving.bento_server import Server

import small_release
from watchnext.serving.release.manifest import digest_of, read_manifest
from watchnext.serving.release.only_one import moving
from watchnext.serving.release.release_url import ReleaseUrl


@pytest.fixture
def built(tmp_path, feature_stage, once) -> Path:
    small_release.make_releases(tmp_path / "built", feature_stage, once)
    return tmp_path / "built"


@pytest.fixture
def url(tmp_path, built) -> ReleaseUrl:
    url = ReleaseUrl(f"file://{tmp_path}/shared")
    promote(url, built / "first")
    return url


@pytest.fixture
def start(url, tmp_path) -> Iterator[Callable[[str], Server]]:
    started = []

    def start(shell: str) -> Server:
        folder = tmp_path / shell
        folder.mkdir()
        variables = {"WATCHNEXT_RELEASES_URL": url.url}
        started.append(Server(folder, releases=folder / "releases", shell=shell, variables=variables))
        return started[-1]

    yield start
    for server in started:
        server.end()


def promote(url: ReleaseUrl, folder: Path) -> None:
    url.upload(folder)
    url.point(folder)


def serves(name: str) -> Callable[[dict], bool]:
    return lambda state: state["release"] == name and state["refused"] is None


def until(server: Server, holds: Callable[[dict], object]) -> dict:
    end = time.monotonic() + 120
    while not holds(state := httpx.get(f"{server.url}/readyz", timeout=20).json()):
        assert time.monotonic() < end, (state, server.log.read_text())
        time.sleep(0.2)
    return state


def test_servers_take_what_is_promoted_and_refuse_what_is_torn(start, url, built, tmp_path):
    servers = start("bentoml"), start("uvicorn")
    for server in servers:
        server.ready()
        until(server, serves("first"))
    promote(url, built / "fewer")
    for server in servers:
        until(server, serves("fewer"))

    # An upload that was cut short: refused by the name of the file, until it is whole and promoted again.
    url.upload(built / "same")
    torn = tmp_path / "shared" / digest_of(read_manifest(built / "same"))
    with open(torn / "graphs" / "ranker.bin", "r+b") as file:
        file.truncate(100)
    url.point(built / "same")
    for server in servers:
        state = until(server, lambda state: state["refused"])
        assert state["release"] == "fewer"
        assert state["refused"]["release"] == "same"
        assert f"{torn.name}/graphs/ranker.bin is damaged or cut short" in state["refused"]["reason"]
    shutil.rmtree(torn)
    promote(url, built / "same")
    for server in servers:
        until(server, serves("same"))

    # The URL is gone: both go on, say so, and follow it again. A promotion by a server is pushed to all.
    (tmp_path / "shared").rename(tmp_path / "away")
    for server in servers:
        state = until(server, lambda state: state["refused"])
        assert (state["release"], state["refused"]["release"]) == ("same", url.url)
        slate = httpx.post(f"{server.url}/v1/recommend", json={"user_id": 101, "k": 5}, timeout=20).json()
        assert len(slate["items"]) == 5
    # A rollback waits for no URL, and the other server is told when it answers again.
    (tmp_path / "shared").write_text("no folder")
    answer = httpx.post(f"{servers[1].url}/v1/admin/rollback", json={}, timeout=90)
    assert answer.status_code in (200, 202), answer.text  # the latter after a minute of loading
    state = until(servers[1], lambda state: state["refused"] and "other servers do not know" in state["refused"]["reason"])
    assert state["release"] == "fewer"
    assert httpx.get(f"{servers[0].url}/readyz", timeout=20).json()["release"] == "same"
    (tmp_path / "shared").unlink()
    (tmp_path / "away").rename(tmp_path / "shared")
    for server in servers:
        until(server, serves("fewer"))
    # While a command decides which release serves, an admin route does not.
    with moving(tmp_path / "uvicorn" / "releases"):
        answer = httpx.post(f"{servers[1].url}/v1/admin/promote", json={"release": "same"}, timeout=90)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "release_refused")
    assert f"process {os.getpid()} decides which release" in answer.json()["error"]["message"]
    answer = httpx.post(f"{servers[0].url}/v1/admin/promote", json={"release": "first"}, timeout=90)
    assert answer.status_code in (200, 202), answer.text
    for server in servers:
        until(server, serves("first"))
    assert [server.stop() for server in servers] == [0, 0]

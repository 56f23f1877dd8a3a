"""The server as people start it, under either shell: at the root, over the tiny release."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import closing

import httpx
import polars as pl
import psutil
import pytest
import yaml
from bento_server import ROOT, SHELLS, Server, free_port

from watchnext.serving.http.settings import Settings, SettingsError
from watchnext.serving.store.store import Store

ABSENT = (
    "torch",
    "pandas",
    "sklearn",
    "mlflow",
    "pytorch_lightning",
    "evidently",
    "hydra",
    "xgboost",
    "watchnext.features.dataset.labels",
)


@pytest.fixture(params=SHELLS)
def shell(request) -> str:
    return request.param


@pytest.fixture
def start(release, tmp_path, shell):
    """Starts servers over one store, and ends what a test left running."""
    started = []

    def start(clock: str = "", port: int | None = None) -> Server:
        started.append(Server(tmp_path, releases=release.folder.parent, clock=clock, port=port, shell=shell))
        return started[-1]

    yield start
    for server in started:
        server.end()


def post(server: Server, path: str, body: dict) -> dict:
    answer = httpx.post(f"{server.url}{path}", json=body, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()


def exchanged(server: Server, head: str, chunk: bytes, chunks: int) -> tuple[bytes, int]:
    """Send `head` and then up to `chunks` times `chunk` on a bare connection; returns the answer and how many were taken."""
    sent, answer = 0, b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(head.replace("\n", "\r\n").encode())
            while sent < chunks:
                connection.sendall(chunk)
                sent += 1
        except OSError:  # the server has hung up
            pass
        try:
            while part := connection.recv(65536):
                answer += part
        except OSError:
            pass
    return answer, sent


def shown_ids(server: Server, viewer: int) -> list[str]:
    return [item["video_id"] for item in post(server, "/v1/recommend", {"user_id": viewer, "k": 10})["items"]]


def require_that_a_swipe_stays_away(server: Server) -> str:
    """A new viewer leaves a video, which the client showed on its own, after 400 ms. It comes no more, nor does a slate's."""
    stranger, viewer = 888_888, 999_999
    swiped = shown_ids(server, stranger)[0]  # what a new viewer gets first
    event = {"type": "outcome", "user_id": viewer, "video_id": swiped, "watch_ms": 400, "key": "swipe"}
    assert post(server, "/v1/events", {"events": [event]})["accepted"] == 1
    slates = [shown_ids(server, viewer) for _ in range(3)]
    shown = [video for slate in slates for video in slate]
    assert swiped not in shown
    assert len(set(shown)) == len(shown) == 30
    return swiped


def test_a_day_of_a_server(start, release, tmp_path):
    """Start, answer, learn, survive abuse, stop; start again and remember."""
    server = start()
    server.ready()
    viewer = release.user_ids.value(0)
    first = post(server, "/v1/recommend", {"user_id": viewer, "k": 10})
    assert first["release"] == release.id
    assert 0 <= first["as_of_ms"] - release.as_of_ms < 600_000
    video = first["items"][0]["video_id"]
    event = {"type": "outcome", "user_id": viewer, "video_id": video, "watch_ms": 61_500, "click": True, "key": "k1"}
    assert post(server, "/v1/events", {"events": [event]}) == {"accepted": 1, "duplicates": 0, "unknown": 0}
    second = post(server, "/v1/recommend", {"user_id": viewer, "k": 100})
    assert video not in [item["video_id"] for item in second["items"]]
    swiped = require_that_a_swipe_stays_away(server)

    worker = max(server.family(), key=lambda process: process.memory_info().rss)
    before = worker.memory_info().rss
    head = "POST /v1/events HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
    answer, _ = exchanged(server, f"{head}Content-Length: 64000000\n\n", b"x" * 1_000_000, 64)
    assert b" 413 " in answer or not answer  # a client that goes on sending may see the line cut before it reads
    answer, sent = exchanged(server, f"{head}Transfer-Encoding: chunked\n\n", b"80000\r\n" + b"x" * 0x80000 + b"\r\n", 128)
    assert sent < 64, "a body without a length was taken to its end"
    assert worker.memory_info().rss - before < 32_000_000
    assert httpx.get(f"{server.url}/metrics").text.count("# TYPE watchnext_requests_total") == 1
    assert httpx.get(f"{server.url}/nothing").json()["error"]["code"] == "http_404"
    assert httpx.get(f"{server.url}/").headers["content-security-policy"].startswith("default-src 'none'")

    family = server.family()
    assert server.stop() == 0, server.log.read_text()
    assert "uvicorn.access" not in server.log.read_text()  # no line for an answer
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    with socket.socket() as port:
        port.bind(("127.0.0.1", server.port))
    served = pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").collect()
    assert served["request_id"].to_list()[:2] == [first["request_id"], second["request_id"]]

    again = start()
    again.ready()
    third = post(again, "/v1/recommend", {"user_id": viewer, "k": 100})
    assert video not in [item["video_id"] for item in third["items"]]
    assert third["as_of_ms"] > second["as_of_ms"]
    assert swiped not in shown_ids(again, 999_999)
    assert again.stop(signal.SIGTERM) == 0
    with closing(Store.open(tmp_path / "store", release)) as store:
        shown = [one.request_id for one in store.journal() if one.kind == "shown" and one.user_id == viewer]
    assert shown == [slate["request_id"] for slate in (first, second, third) for _ in slate["items"]]


def refusal(server: Server) -> str:
    """The output of a server that could not start: no traceback, status 1, no port."""
    assert server.process.wait(60) == 1
    said = server.log.read_text()
    assert "Traceback" not in said
    with socket.socket() as port:
        assert port.connect_ex(("127.0.0.1", server.port)) != 0
    return said


def test_no_release_ends_at_once_with_the_command_to_run(tmp_path, shell):
    server = Server(tmp_path, releases=tmp_path / "none", shell=shell)
    assert f"no release serves in {tmp_path / 'none'}: run `dvc repro`" in refusal(server)


def test_a_wrong_clock_is_named(start):
    assert "WATCHNEXT_CLOCK is 'sundial', expected 'release' or 'wall'" in refusal(start("sundial"))


def test_a_damaged_release_is_named(release, tmp_path):
    shutil.copytree(release.folder.parent, tmp_path / "releases", symlinks=True)
    with (tmp_path / "releases" / release.id / "graphs" / "ranker.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4)
    with pytest.raises(Exception, match=r"ranker\.bin is damaged.*run `dvc repro release`"):
        variables(tmp_path).check()


def variables(folder) -> Settings:
    return Settings(releases=folder / "releases", store=folder / "store")


def test_a_store_in_use_or_of_another_catalogue_is_named(release, tmp_path):
    (tmp_path / "releases").symlink_to(release.folder.parent)
    variables(tmp_path).check()
    store = Store.open(tmp_path / "store", release)
    with pytest.raises(Exception, match=r"is open in process \d+; stop that server first"):
        variables(tmp_path).check()
    with store._engine.write() as txn:
        txn.put("meta", b"sealed_state", b"another")
    store.close()
    with pytest.raises(Exception, match=f"holds state another, but release {release.id} needs .*build-store"):
        variables(tmp_path).check()


def test_variables_default_to_the_repository_and_name_a_wrong_one(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("WATCHNEXT_SERVED=elsewhere")
    monkeypatch.chdir(tmp_path)
    for name, value in {"WATCHNEXT_STORE": "", "WATCHNEXT_RELEASES": "made", "SERVED": "no", "STORE": "no"}.items():
        monkeypatch.setenv(name, value)
    given = Settings.from_environment()
    assert [str(path) for path in (given.releases, given.store, given.served)] == ["made", "store", "outputs/served"]
    assert given.clock is None
    monkeypatch.setenv("WATCHNEXT_CLOCK", "now")
    with pytest.raises(SettingsError, match=r"WATCHNEXT_CLOCK is 'now', expected 'release' or 'wall'; change it, or unset it"):
        Settings.from_environment()
    monkeypatch.delenv("WATCHNEXT_CLOCK")
    monkeypatch.setenv("WATCHNEXT_VIEWERS_KEPT", "none")
    with pytest.raises(SettingsError, match=r"WATCHNEXT_VIEWERS_KEPT is 'none', expected a whole number above 0"):
        Settings.from_environment()


WORKERS = {
    "bentoml": """
from watchnext.serving.http.service import Watchnext
Watchnext.inner.check()
Watchnext().close()
""",
    "uvicorn": """
import runpy, threading, urllib.request, os, signal, time
def stop():
    while True:
        try:
            urllib.request.urlopen("http://127.0.0.1:PORT/readyz")
            return os.kill(os.getpid(), signal.SIGTERM)
        except OSError:
            time.sleep(0.05)
threading.Thread(target=stop).start()
sys.argv = ["serving", "serve", "--port", "PORT"]
try:
    runpy.run_module("watchnext.serving", run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert ended.code == 0, ended.code
""",
}


def test_the_serving_process_imports_nothing_of_training(release, tmp_path, shell):
    """Everything that a worker loads, in a fresh interpreter."""
    program = f"""
import json, os, sys
os.environ |= {{"WATCHNEXT_RELEASES": {str(release.folder.parent)!r}, "WATCHNEXT_STORE": {str(tmp_path / "store")!r},
               "WATCHNEXT_SERVED": {str(tmp_path / "served")!r}}}
{WORKERS[shell].replace("PORT", str(free_port()))}
print(json.dumps([name for name in {ABSENT!r} if name in sys.modules]))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1]) == []


def test_a_bento_needs_what_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bento = yaml.safe_load((ROOT / "bentofile.yaml").read_text())
    assert sorted(bento["python"]["packages"]) == sorted(project["dependencies"])


def test_a_taken_port_is_named_before_anything_is_opened(start, tmp_path, shell):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        second = start(port=port)
        assert second.process.wait(60) == 1
    said = second.log.read_text()
    assert "Traceback" not in said
    assert f"port {port} of 127.0.0.1 is taken" in said
    assert f"{' '.join(SHELLS[shell][1:])} --port {port + 1}".removeprefix("watchnext") in said
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("damage", ["a part", "all of it"])
def test_a_release_that_broke_under_a_server_ends_it_when_its_worker_starts_again(release, tmp_path, damage):
    shutil.copytree(release.folder.parent, tmp_path / "releases", symlinks=True)
    server = Server(tmp_path, releases=tmp_path / "releases")
    try:
        server.ready()
        if damage == "a part":
            with (tmp_path / "releases" / release.id / "graphs" / "ranker.bin").open("r+b") as file:
                file.seek(100)
                file.write(b"\xff" * 4)
            says = "ranker.bin is damaged"
        else:
            (tmp_path / "releases" / release.id).rename(tmp_path / "gone")
            says = f"names {release.id}, which is gone"
        family = server.family()
        max(family, key=lambda process: process.memory_info().rss).kill()
        assert server.process.wait(60) == 1
        said = server.log.read_text()
        assert next(line for line in said.splitlines() if says in line).startswith("the server ends: ")
        assert said.count(says) == 1
        assert "Traceback" not in said
        assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
        with socket.socket() as port:
            assert port.connect_ex(("127.0.0.1", server.port)) != 0
    finally:
        server.end()

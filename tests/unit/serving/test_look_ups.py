"""Look-ups are answered at their connection as the app answers them, and everything else reaches the app."""

import logging
import re
import socket
import time
from contextlib import contextmanager

import httpx
import orjson
import pytest
from api import Ticking, app_over, written
from sockets import answer, serving

from batches import precompute
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog, answers_in
from watchnext.serving.http.access.gate import Access
from watchnext.serving.http.access.keys import Keys, new_key
from watchnext.serving.http.app import Limits
from watchnext.serving.store.tables.journal import Event

VIEWER, OTHER = 105, 124
ASKED = {"user_id": VIEWER, "k": 5, "mode": "precomputed"}
LOOKED_AT = ASKED | {"preview": True}  # the same slate each time, as nothing is recorded
CHANGING = {"date", "x-request-id"}


class Calls:
    """The real app under uvicorn, its served log, and how often the app was reached."""

    def __init__(self, app, log: ServedLog, port: int, reached: list) -> None:
        self.app, self.log, self.reached = app, log, reached
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def __call__(self, body: dict | bytes = ASKED, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.http.post("/v1/recommend", content=content, headers={"content-type": "application/json"} | headers)


@pytest.fixture
def make(release, store, tmp_path):
    recommender, log = Recommender(release, store), ServedLog(tmp_path / "served", max_bytes=1 << 24, flush_rows=1)
    precompute(recommender, [VIEWER, OTHER], k=60, as_of_ms=release.as_of_ms)

    @contextmanager
    def make(*, at_once: bool = True, **access):
        app, reached = app_over(recommender, store, log, access=Access(**access), timeout_s=20.0), []

        async def counted(scope, receive, send):
            reached.append(scope["path"])
            await app(scope, receive, send)

        with serving(Limits(), counted, look_ups=app.state.look_ups if at_once else None) as (port, _):
            calls = Calls(app, log, port, reached)
            with calls.http:
                yield calls
        app.state.close()

    yield make
    log.close()


@pytest.fixture
def calls(make):
    with make() as calls:
        yield calls


@pytest.fixture
def routed(make):
    with make(at_once=False) as calls:
        yield calls


def test_a_look_up_is_the_apps_answer_without_the_app(calls, routed):
    direct, by_app = calls(LOOKED_AT), routed(LOOKED_AT)
    assert (calls.reached, len(routed.reached)) == ([], 1)
    assert (direct.status_code, by_app.status_code) == (200, 200)
    assert [name for name, _ in direct.headers.raw] == [name for name, _ in by_app.headers.raw]
    heads = [{name: value for name, value in each.headers.items() if name not in CHANGING} for each in (direct, by_app)]
    assert heads[0] == heads[1]
    slates = [each.json() for each in (direct, by_app)]
    assert [each.pop("request_id") for each in slates] == [each.headers["x-request-id"] for each in (direct, by_app)]
    assert slates[0] == slates[1]
    assert (slates[0]["mode"], len(slates[0]["items"])) == ("precomputed", 5)


def test_requests_in_a_row_and_sent_ahead_are_answered_in_order(calls):
    bodies = [orjson.dumps(LOOKED_AT | {"k": k}) for k in (3, 4)]
    head = "POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n"
    ahead = b"".join(head.format(len(body), "").encode() + body for body in bodies)
    last = head.format(len(bodies[0]), "Connection: close\r\n").encode() + bodies[0]
    got = answer(calls.http.base_url.port, ahead, last)
    assert re.findall(rb'"slate":(\d+)', got) == [b"3", b"4", b"3"]
    assert calls.reached == ["/v1/recommend"]  # the one that ends the connection


@pytest.mark.parametrize(("held_s", "pause_s", "reached"), [(60.0, 0.05, 0), (0.01, 0.5, 1)])
def test_a_body_behind_its_head_is_waited_for_and_a_late_one_is_the_apps(calls, monkeypatch, held_s, pause_s, reached):
    monkeypatch.setattr("watchnext.serving.http.shell.connections.HELD_S", held_s)
    body = orjson.dumps(LOOKED_AT)
    head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", calls.http.base_url.port), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + body[:9])
        time.sleep(pause_s)
        connection.sendall(body[9:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert len(calls.reached) == reached


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (LOOKED_AT | {"mode": "online"}, {}),
        (LOOKED_AT | {"mode": "auto", "k": 100}, {}),
        (LOOKED_AT | {"user_id": 999}, {}),
        (LOOKED_AT | {"user_id": "x"}, {}),
        (LOOKED_AT | {"k": 0}, {}),
        (LOOKED_AT | {"x": 1}, {}),
        (LOOKED_AT | {"page_token": "aaaa"}, {}),
        (LOOKED_AT | {"region": "de"}, {}),
        (b'{"mode": "precomputed", "k": NaN}', {}),
        (b'{"mode": "precomputed"', {}),
        (LOOKED_AT, {"content-type": "text/plain"}),
        (LOOKED_AT, {"host": "elsewhere"}),
        (LOOKED_AT, {"origin": "https://page.example"}),
        (LOOKED_AT, {"expect": "100-continue"}),
        (LOOKED_AT, {"x-forwarded-for": "203.0.113.7"}),  # of another machine, which without keys is refused
    ],
)
def test_all_else_reaches_the_app_and_is_answered_by_it(calls, routed, body, headers):
    direct, by_app = calls(body, **headers), routed(body, **headers)
    assert calls.reached == routed.reached == ["/v1/recommend"]
    assert direct.status_code == by_app.status_code
    if by_app.status_code != 200:
        assert direct.json() == by_app.json()
    else:  # its videos are drawn by the request
        assert direct.json()["mode"] == by_app.json()["mode"]


def test_a_slate_that_is_missing_is_looked_for_once(calls, routed, monkeypatch):
    looked_for = []
    monkeypatch.setattr("watchnext.serving.http.api.handlers.precomputed", lambda _, request: looked_for.append(request))
    for mode in ("auto", "precomputed"):
        for server in (calls, routed):
            assert server(LOOKED_AT | {"mode": mode}).json()["mode"] == "online"
    assert len(looked_for) == 4


def test_a_look_up_is_shown_logged_traced_counted_and_in_the_log_of_answers(calls, store, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="watchnext.answers"):
        slate = calls().json()
    written(calls)
    rows = store.catalogue.ids.rows([item["video_id"] for item in slate["items"]])
    assert store.seen(VIEWER).holds(rows).all()
    assert calls.http.get(f"/v1/trace/{slate['request_id']}").json()["mode"] == "precomputed"
    metrics = calls.http.get("/metrics").text
    assert 'watchnext_requests_total{route="/v1/recommend",status="200"} 1.0' in metrics
    assert "watchnext_slate_videos_total 5.0" in metrics
    lines = [record.answer for record in caplog.records if record.name == "watchnext.answers"]  # other routes may be logged too
    [line] = (each for each in lines if each["route"] == "/v1/recommend")
    assert line | {"ms": 0.0} == {"route": "/v1/recommend", "method": "POST", "status": 200, "ms": 0.0, "key": None}
    following = calls().json()
    assert not {item["video_id"] for item in slate["items"]} & {item["video_id"] for item in following["items"]}
    calls.log.close()
    assert answers_in(tmp_path / "served")["request_id"].to_list() == [slate["request_id"], following["request_id"]]


def test_a_withdrawn_video_and_a_watched_one_are_in_no_look_up(calls, store, release):
    clock = Ticking(release.as_of_ms)
    withdrawn, watched, *_ = [item["video_id"] for item in calls(LOOKED_AT).json()["items"]]
    store.apply(
        [
            Event(kind="withdrawn", user_id="", video_id=withdrawn, known_at=clock()),
            Event(kind="outcome", user_id=VIEWER, video_id=watched, known_at=clock(), watch_ms=9_000),
        ]
    )
    left = {item["video_id"] for item in calls(LOOKED_AT | {"k": 20}).json()["items"]}
    assert len(left) == 20
    assert not {withdrawn, watched} & left
    assert withdrawn not in {item["video_id"] for item in calls(LOOKED_AT | {"user_id": OTHER, "k": 40}).json()["items"]}
    assert calls.reached == []


def test_a_request_counts_once_for_the_rate_of_its_key(make, tmp_path):
    file, (key, line) = tmp_path / "keys", new_key("shop", ["read"])
    file.touch(0o600)
    file.write_text(line)
    with make(keys=Keys(file), rate_per_s=0.5) as calls:  # one a time, and no more for two seconds
        assert calls(LOOKED_AT).status_code == 401
        assert calls(LOOKED_AT | {"user_id": 999}, authorization=f"Bearer {key}").status_code == 200  # by the app
        assert calls(LOOKED_AT, authorization=f"Bearer {key}").status_code == 429
    with make(keys=Keys(file), rate_per_s=0.5) as calls:
        assert calls(LOOKED_AT, authorization=f"Bearer {key}").status_code == 200
        assert calls.reached == []
        assert calls(LOOKED_AT, authorization=f"Bearer {key}").status_code == 429


def test_with_keys_a_look_up_through_a_proxy_is_answered_at_once(make, tmp_path):
    file, (key, line) = tmp_path / "keys", new_key("shop", ["read"])
    file.touch(0o600)
    file.write_text(line)
    with make(keys=Keys(file)) as calls:
        forwarded = {"x-forwarded-for": "203.0.113.7", "authorization": f"Bearer {key}"}
        assert (calls(LOOKED_AT, **forwarded).status_code, calls.reached) == (200, [])


@pytest.mark.parametrize(("missing", "status"), [("Host: localhost", b"400"), ("Content-Type: application/json", b"415")])
def test_a_field_behind_the_body_is_no_header(calls, missing, status):
    fields, body = ["Host: localhost", "Content-Type: application/json", "Transfer-Encoding: chunked"], orjson.dumps(LOOKED_AT)
    fields.remove(missing)
    head = "\r\n".join(["POST /v1/recommend HTTP/1.1", *fields, "", ""])
    sent = head.encode() + b"%x\r\n%b\r\n0\r\n%b\r\n\r\n" % (len(body), body, missing.encode())
    got = answer(calls.http.base_url.port, sent, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert got.split()[1] == status
    assert calls.reached

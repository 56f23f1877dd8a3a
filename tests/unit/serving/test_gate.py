"""Who is answered: hosts, addresses, keys, scopes and rates, over the real app."""

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from typing import get_args

import httpx
import pytest
from api import app_over
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.http.access.gate import Access, is_loopback
from watchnext.serving.http.access.keys import Keys, new_key
from watchnext.serving.http.access.scopes import ADMIN, PUBLIC, SCOPES, rule_of, scope_of
from watchnext.serving.http.api.errors import VALUES_MOST
from watchnext.serving.http.api.schemas import UNKNOWN_MOST
from watchnext.serving.http.settings import Settings, SettingsError


@pytest.fixture
def make(release, store, tmp_path):
    """Make an app with an Access of these fields."""
    made, served = [], ServedLog(tmp_path / "served", max_bytes=1 << 20, flush_rows=500)

    def make(**access) -> FastAPI:
        made.append(app_over(Recommender(release, store), store, served, access=Access(**access), timeout_s=20.0))
        return made[-1]

    yield make
    for app in made:
        app.state.close()
    served.close()


@pytest.fixture
def keyed(tmp_path) -> tuple[Keys, dict[str, str]]:
    """The keys of a file with one of each scope, and the keys by scope."""
    file, made = tmp_path / "keys", {scope: new_key(scope, [scope]) for scope in SCOPES}
    file.touch(0o600)
    file.write_text("\n".join(line for _, line in made.values()))
    return Keys(file), {scope: key for scope, (key, _) in made.items()}


def call(app, method, path, *, host="localhost", client="127.0.0.1", key=None, **more) -> httpx.Response:
    headers = {**more.pop("headers", {}), "host": host} | ({"authorization": f"Bearer {key}"} if key else {})

    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.request(method, path, headers=headers, **more)

    return asyncio.run(answer())


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


def routes(app) -> Iterator[tuple[str, str]]:
    """Every pair of a method and a path template; of what is mounted, the methods are missing and the test fails."""
    for route in iter_route_contexts(app.routes):
        yield from ((method, route.path) for method in route.methods)


def test_every_route_has_a_rule(make):
    assert [pair for pair in routes(make()) if rule_of(*pair) is None] == []


def test_every_route_without_a_key_is_public_or_refused(make, keyed):
    app = make(keys=keyed[0])
    for method, path in routes(app):
        answer = call(app, method, path)
        assert (answer.status_code == 401) == (scope_of(method, path) != PUBLIC), (method, path)
        assert answer.status_code != 401 or answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/recommend", "read"),
        ("POST", "/v1/recommend:batch", "read"),
        ("GET", "/v1/trending", "read"),
        ("GET", "/metrics", "read"),
        ("POST", "/v1/events", "write"),
        ("GET", "/v1/videos/7", "read"),
        ("DELETE", "/v1/videos/7", "write"),
        ("GET", "/v1/viewers", "admin"),
        ("DELETE", "/v1/viewers/a/b", "admin"),
        ("POST", "/v1/admin/promote", "admin"),
        ("GET", "/v1/viewersx", "admin"),
        ("GET", "/unheard", "admin"),
        ("GET", "/v1/recommendx", "admin"),
        ("GET", "//v1/trending", "admin"),
        ("GET", "/livez", "public"),
        ("GET", "/", "public"),
    ],
)
def test_scopes(method, path, scope):
    assert scope_of(method, path) == scope


def test_a_key_opens_what_its_scopes_name_and_nothing_else(make, keyed):
    keys, by_scope = keyed
    app = make(keys=keys)
    assert call(app, "GET", "/v1/trending", key=by_scope["read"], client="10.0.0.9").status_code == 200
    assert call(app, "GET", "/v1/viewers", key=by_scope["admin"], client="10.0.0.9").status_code == 200
    refused = call(app, "GET", "/v1/viewers", key=by_scope["read"])
    assert (refused.status_code, code(refused)) == (403, "scope")
    assert "key read has the scopes read, expected admin" in refused.text
    assert call(app, "POST", "/v1/events", key=by_scope["read"], json={}).status_code == 403
    assert call(app, "POST", "/v1/events", key=by_scope["write"], json={}).status_code == 422
    assert call(app, "GET", "/v1/trending", key=by_scope["admin"]).status_code == 403
    assert call(app, "GET", "/nothing", key=by_scope[ADMIN]).status_code == 404
    for wrong in ("Basic eDp5", "Bearer", "Bearer ", by_scope["read"], "Bearer " + by_scope["read"] + "x"):
        assert call(app, "GET", "/v1/trending", headers={"authorization": wrong}).status_code == 401


def test_without_keys_this_machine_is_answered_and_no_other(make):
    app = make()
    for path in ("/v1/trending", "/livez", "/"):
        assert call(app, "GET", path, client="::1").status_code == 200
        refused = call(app, "GET", path, client="10.0.0.9")
        assert (refused.status_code, code(refused)) == (403, "no_keys")
        assert "access.keys NAME" in refused.text


@pytest.mark.parametrize("path", ["/v1/viewers", "/v1/viewers/105/history"])
def test_without_keys_viewers_are_listed_in_a_demo_alone(make, path):
    refused = call(make(), "GET", path)
    assert (refused.status_code, code(refused)) == (403, "no_keys")
    assert "WATCHNEXT_DEMO=1" in refused.text
    assert call(make(demo=True), "GET", path).status_code == 200
    assert call(make(), "GET", f"{path}%0a").status_code == 404  # which routers take for the path itself


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]:80", "localhost@x"]
)
def test_another_host_is_refused_by_name(make, host):
    app = make()
    answer = call(app, "GET", "/v1/trending", host=host)
    assert (answer.status_code, code(answer)) == (400, "host")
    assert call(app, "GET", "/livez", host=host).status_code == 200  # of a cluster that asks by address


def test_hosts_are_compared_without_port_and_case(make):
    app = make(hosts=("api.example", "[::1]"))
    for host in ("API.example", "api.example:8443", "[::1]:3000", "[::1]"):
        assert call(app, "GET", "/v1/trending", host=host).status_code == 200
    assert call(app, "GET", "/v1/trending", host="localhost").status_code == 400
    assert call(make(hosts=("*",)), "GET", "/v1/trending", host="anything").status_code == 200


def test_a_key_above_its_rate_waits(make, keyed):
    keys, by_scope = keyed
    app = make(keys=keys, rate_per_s=0.01)
    assert call(app, "GET", "/v1/trending", key=by_scope["read"]).status_code == 200
    late = call(app, "GET", "/v1/trending", key=by_scope["read"])
    assert (late.status_code, code(late)) == (429, "rate")
    assert 90 <= int(late.headers["retry-after"]) <= 100
    assert call(app, "GET", "/v1/viewers", key=by_scope["admin"]).status_code == 200
    assert call(app, "GET", "/livez").status_code == 200


def test_pages_of_other_sites_call_only_where_they_are_named(make, keyed):
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    preflight |= {"access-control-request-headers": "authorization,content-type"}
    allowed = make(keys=keyed[0], origins=("https://shop.example",))
    answer = call(allowed, "OPTIONS", "/v1/recommend", headers=preflight)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    refused = call(allowed, "GET", "/v1/trending", headers={"origin": "https://shop.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://shop.example")
    other = call(allowed, "OPTIONS", "/v1/recommend", headers={**preflight, "origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    assert "access-control-allow-origin" not in call(make(), "OPTIONS", "/v1/recommend", headers=preflight).headers


@pytest.mark.parametrize(
    ("address", "ours"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("", False), ("host", False)],
)  # fmt: skip
def test_addresses_of_this_machine(address, ours):
    assert is_loopback(address) == ours


def test_settings_of_access(tmp_path, monkeypatch):
    key, line = new_key("app", ["read"])
    (tmp_path / "keys").touch(0o600)
    (tmp_path / "keys").write_text(line)
    for name, value in {"HOSTS": "API.example, localhost", "ORIGINS": "https://a.example", "RATE": "2.5"}.items():
        monkeypatch.setenv(f"WATCHNEXT_{name}", value)
    open_to_all = Settings.from_environment()
    access = open_to_all.access(clock="wall")
    assert (access.hosts, access.origins, access.rate_per_s) == (("api.example", "localhost"), ("https://a.example",), 2.5)
    assert (access.keys, access.demo, open_to_all.access(clock="release").demo) == (None, False, True)
    with pytest.raises(SettingsError, match=r"listen on 0\.0\.0\.0 without keys, .*set WATCHNEXT_KEYS=FILE"):
        open_to_all.check_address("0.0.0.0")
    open_to_all.check_address("127.0.0.1")
    monkeypatch.setenv("WATCHNEXT_DEMO", "0")
    assert Settings.from_environment().access(clock="release").demo is False
    monkeypatch.setenv("WATCHNEXT_ORIGINS", "*")
    with pytest.raises(SettingsError, match=r"WATCHNEXT_ORIGINS is '\*'"):
        Settings.from_environment().access(clock="wall")
    monkeypatch.setenv("WATCHNEXT_KEYS", str(tmp_path / "keys"))
    given = Settings.from_environment()
    assert given.access(clock="wall").keys.find(key).name == "app"
    given.check_address("0.0.0.0")
    (tmp_path / "keys").chmod(0o666)
    with pytest.raises(SettingsError, match=r"WATCHNEXT_KEYS: key file .* can be written by others"):
        given.check()
    monkeypatch.setenv("WATCHNEXT_DEMO", "maybe")
    with pytest.raises(SettingsError, match="WATCHNEXT_DEMO is 'maybe', expected 1 or 0"):
        Settings.from_environment()
    monkeypatch.setenv("WATCHNEXT_DEMO", "1")
    for wrong in ("-1", "inf", "fast"):
        monkeypatch.setenv("WATCHNEXT_RATE", wrong)
        with pytest.raises(SettingsError, match=f"WATCHNEXT_RATE is '{wrong}', expected a number above 0"):
            Settings.from_environment()


def bodies(app) -> dict[str, type[BaseModel]]:
    fields = {route.path: route.body_field for route in iter_route_contexts(app.routes) if getattr(route, "body_field", None)}
    return {path: field.field_info.annotation for path, field in fields.items()}


def models_in(annotation) -> Iterator[type[BaseModel]]:
    """The models in the type of a field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from models_in(each)


def nested(model: type[BaseModel], values: Sequence) -> Iterator[dict]:
    """Bodies with one of `values` in a field of many, and of one, of the models in a body's fields."""
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            kind = {"type": get_args(inner.model_fields["type"].annotation)[0]} if "type" in inner.model_fields else {}
            for each, value in itertools.product(inner.model_fields.keys() - kind.keys(), values):
                yield {name: [kind | {each: value}] * 24}
                yield {name: kind | {each: value}}


def test_no_body_makes_more_errors_than_the_event_loop_can_write(make):
    """Each error costs microseconds, in which nothing else is answered: 90,000 of them took 0.2 s."""
    few = {f"x{i}": None for i in range(UNKNOWN_MOST)}
    many = {f"x{i}": [] for i in range(VALUES_MOST)}
    found = bodies(make())
    assert {"/v1/recommend", "/v1/rank", "/v1/events"} <= found.keys()
    for path, model in found.items():
        is_batch = path == "/v1/recommend:batch"  # each of its requests is validated at its turn, as one of /v1/recommend
        for body in (
            many,
            *({name: value} for name in model.model_fields for value in (many, [few] * 1000, [many], [None] * 2000)),
            *(() if is_batch else nested(model, (many, [few] * 1000, [many], [None] * 2000))),
        ):
            if is_batch and body == {"requests": [many]}:
                continue
            with pytest.raises(ValidationError) as refused:
                model.model_validate(body)
            assert refused.value.error_count() < 2000, (path, str(body)[:80])


def test_a_body_of_too_many_values_is_refused_before_it_is_parsed(make):
    body = b'{"user_id": 1, "exclude": [' + b"[]," * VALUES_MOST + b"[]]}"
    answer = call(make(), "POST", "/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, code(answer)) == (413, "http_413")
    assert "expected at most 50000" in answer.text

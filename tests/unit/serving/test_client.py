"""The client has a method for every route, with the route's fields, and works against the real app."""

import asyncio
import inspect
from contextlib import closing

import httpx
import pytest
from test_connections import serving

import watchnext
from watchnext.client import ApiError, AsyncClient, Client
from watchnext.serving.http.app import Limits
from watchnext.serving.http.openapi.document import operations
from watchnext.serving.http.swap.admin import admin_routes


def fields(method, operation, schemas) -> dict[str, bool]:
    """Name > required, of all that a route takes. The fields of a change are one argument, as null is a value there."""
    taken = {each["name"]: each["required"] for each in operation.get("parameters", ())}
    if method == "PATCH":
        return taken | {"changes": True}
    if body := operation.get("requestBody"):
        model = schemas[body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]]
        taken |= {name: name in model.get("required", ()) for name in model["properties"]}
    return taken


def test_every_route_has_a_method_with_its_fields(api, tmp_path):
    switch = None  # no route is called
    api.app.include_router(admin_routes(switch, api.app.state.serving, tmp_path, asyncio.to_thread, dict))
    document, sent = api("GET", "/openapi.json").json(), []
    assert sum("/v1/admin/" in path for _, path, _ in operations(document)) == 6

    class Recorder(Client):
        def _send(self, method, path, *, body=None, params=None):
            sent.append((method, path, {*(body or {}), *(params or {})}))

    for method, path, operation in operations(document):
        name = operation["operationId"].partition("_v1_")[0]
        taken = fields(method, operation, document["components"]["schemas"])
        parameters = dict(inspect.signature(getattr(Client, name)).parameters)
        del parameters["self"]
        assert parameters.keys() == taken.keys(), f"client.{name} against {method} {path}"
        assert {each for each, given in parameters.items() if given.default is given.empty} == {
            e for e, need in taken.items() if need
        }
        with closing(Recorder()) as client:
            getattr(client, name)(**{each: {"events": [], "changes": {"changes": None}}.get(each, "x") for each in taken})
        in_path = {each for each in taken if f"{{{each}}}" in path}
        assert sent[-1] == (method, path.format_map(dict.fromkeys(in_path, "x")), taken.keys() - in_path)


def test_the_async_client_walks_through_a_session(api, viewer):
    async def walk() -> None:
        async with AsyncClient("http://localhost", transport=httpx.ASGITransport(api.app)) as client:
            slate = await client.recommend(viewer, k=5, surface="home", explain=True)
            video = slate["items"][0]["video_id"]
            event = {"user_id": viewer, "video_id": video, "watch_ms": 9000, "click": True}
            assert (await client.events([event, event]))["accepted"] == 2  # each has a key of its own
            assert (await client.events([{**event, "key": "k"}, {**event, "key": "k"}]))["duplicates"] == 1
            shown = {"type": "shown", "user_id": viewer, "video_id": video, "request_id": "of another recommender"}
            assert (await client.events([shown]))["accepted"] == 1  # it has no key
            assert (await client.trace(slate["request_id"]))["request_id"] == slate["request_id"]
            assert (await client.rank([video], viewer))["items"][0]["video_id"] == video
            assert (await client.similar(video, k=3))["items"]
            answers = (await client.recommend_batch([{"user_id": viewer}, {"k": 0}]))["answers"]
            assert [each["status"] for each in answers] == [200, 422]
            assert (await client.retrieve(viewer, k=3))["items"]
            assert (await client.trending(limit=3))["items"]
            assert (await client.video(video))["video_id"] == video
            assert (await client.videos(str(video)))["items"]
            assert (await client.history(viewer, limit=1))["history"][0]["video_id"] == video
            assert (await client.viewers(limit=2))["viewers"]
            assert (await client.add_videos([{"video_id": "new", "tags": ["t1"]}]))["created"] == 1
            assert (await client.change_video("new", {"title": "A", "tags": None}))["video"]["title"] == "A"
            assert (await client.withdraw_video("new"))["available"] is False
            assert (await client.parameters())["release"] == slate["release"]
            with pytest.raises(ApiError, match=r"422 invalid: body\.k is 0") as refused:
                await client.recommend(viewer, k=0)
            assert (refused.value.status, refused.value.details[0]["where"]) == (422, "body.k")
            with pytest.raises(ApiError, match="422 unknown_video"):
                await client.events([{**event, "video_id": "none"}])

    asyncio.run(walk())


def test_the_client_is_reached_from_the_package():
    assert (watchnext.Client, watchnext.AsyncClient) == (Client, AsyncClient)
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = watchnext.Clint


def test_a_busy_server_is_asked_again_with_the_same_keys():
    seen = []

    async def busy(scope, receive, send):
        seen.append((await receive())["body"])
        status, wait, body = (503, b"0", b'{"error":{"code":"store"}}') if len(seen) < 3 else (200, b"", b'{"accepted":1}')
        headers = [(b"retry-after", wait), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    event = {"user_id": 1, "video_id": 2}
    with serving(Limits(), app=busy) as (port, _):
        with Client(f"http://127.0.0.1:{port}") as client:
            assert client.events([event]) == {"accepted": 1}
        assert len(seen) == 3
        assert len({*seen}) == 1
        seen.clear()
        with Client(f"http://127.0.0.1:{port}", retries=1) as client, pytest.raises(ApiError, match="503 store"):
            client.events([event])


def test_a_key_is_sent():
    sent = []
    transport = httpx.MockTransport(lambda request: sent.append(request) or httpx.Response(200, json={}))
    Client("http://localhost", key="wn_x", transport=transport).parameters()
    assert sent[0].headers["authorization"] == "Bearer wn_x"

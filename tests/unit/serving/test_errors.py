"""An error names the field and its value, never the whole body around it."""

import asyncio
import re

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from watchnext.serving.http.api.errors import EXCEPTION_HANDLERS, JsonRoute
from watchnext.serving.http.api.schemas import EventsRequest, RecommendRequest


@pytest.fixture(scope="module")
def app() -> FastAPI:
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/recommend")
    async def recommend(body: RecommendRequest) -> None: ...

    @routes.post("/events")
    async def events(body: EventsRequest) -> None: ...

    @routes.get("/broken")
    async def broken() -> None:
        raise RuntimeError("no such thing")

    made = FastAPI(exception_handlers=EXCEPTION_HANDLERS)
    made.include_router(routes)
    return made


def refused(app: FastAPI, path: str, body: object) -> dict:
    async def answer() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.post(path, json=body)

    got = asyncio.run(answer())
    assert got.status_code == 422
    return got.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/events", {"events": [{"type": "outcome", "user_id": 1}]}, "body.events.0.video_id is missing: Field required"),
        ("/recommend", {"user_id": None}, "body.user_id is None: Input should be a valid string"),
        ("/recommend", {"user_id": 2**63}, f"body.user_id is {2**63}: Input should be less than or equal to {2**63 - 1}"),
        ("/recommend", {"user_id": 1, "context": {"number": []}}, "body.context.number is []: Input should be a valid string"),
        ("/recommend", {"user_id": 1, "number": 2}, "body.number is 2: Extra inputs are not permitted"),
        (
            "/recommend",
            {"user_id": 1, "mode": "onlin"},
            "body.mode is 'onlin': Input should be 'online', 'auto', 'precomputed' or 'not_personalised'",
        ),
    ],
)  # fmt: skip
def test_the_field_is_named_and_not_what_is_around_it(app, path, body, message):
    assert refused(app, path, body)["message"] == message


@pytest.mark.parametrize("body", [{"user_id": "x" * 10_000}, {"user_id": {"a" * 10_000: ["b" * 10_000]}}, {"y" * 10_000: 1},
                                  {"user_id": 1, "context": {"x" * 10_000: 1}}])  # fmt: skip
def test_a_long_value_is_cut(app, body):
    error = refused(app, "/recommend", body)
    assert len(error["message"]) < 700
    assert all(len(text) < 250 for one in error["details"] for text in (one["where"], one["value"]))


def test_the_first_of_many_items_are_shown(app):
    message = refused(app, "/recommend", {"user_id": 1, "exclude": [1] * 1001})["message"]
    assert message == "body.exclude is [1, 1, 1, 1, 1, 1, ...]: List should have at most 1000 items after validation, not 1001"


def test_an_internal_error_names_the_request_in_answer_and_log(app, caplog):
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/broken")

    got = asyncio.run(answer())
    found = re.fullmatch(r"internal error; see the server log \(request id (\w{32})\)", got.json()["error"]["message"])
    assert (got.status_code, got.json()["error"]["code"]) == (500, "failed")
    assert f"GET '/broken' (request id {found[1]}): RuntimeError('no such thing')" in caplog.text

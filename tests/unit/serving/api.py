"""Call an app in process, without a network."""

import asyncio
from pathlib import Path

import httpx

from watchnext.serving.http.access.gate import Access
from watchnext.serving.http.app import Limits, create_app


class Ticking:
    """A clock that is a second later at every look."""

    def __init__(self, start_ms: int) -> None:
        self.now = start_ms

    def __call__(self) -> int:
        self.now += 1000
        return self.now


class Api:
    """Calls an app without a network."""

    def __init__(self, app) -> None:
        self.app = app

    def __call__(self, method: str, path: str, *, body=None, content=None, headers=None) -> httpx.Response:
        return asyncio.run(self.send([(method, path, body, content, headers)]))[0]

    async def send(self, calls) -> list[httpx.Response]:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(
                *(
                    client.request(method, path, json=body, content=content, headers=headers)
                    for method, path, body, content, headers in calls
                )
            )

    def slate(self, user_id, k=10, **fields) -> dict:
        answer = self("POST", "/v1/recommend", body={"user_id": user_id, "k": k, **fields})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def outcome(self, user_id, video_id, key, **outcome) -> httpx.Response:
        event = {"type": "outcome", "user_id": user_id, "video_id": video_id, "key": key, **outcome}
        return self("POST", "/v1/events", body={"events": [event]})


def asked(api, **body) -> dict:
    answer = api("POST", "/v1/recommend", body={"k": 10, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(slate) -> list:
    return [item["video_id"] for item in slate["items"]]


def written(api) -> None:
    """Wait until the impressions of all slates are on disk."""
    api.app.state.commits.submit([]).result()


def app_over(recommender, store, served, *, access=None, drift=Path("no report"), **limits):
    """Make the app; without `access`, as for a demo."""
    return create_app(
        recommender=recommender,
        store=store,
        served_log=served,
        clock=Ticking(recommender.release.as_of_ms),
        limits=Limits(**limits),
        access=access or Access(demo=True),
        drift=drift,
    )

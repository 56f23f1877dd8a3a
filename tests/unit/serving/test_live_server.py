"""The life of a posted video over a real server: shown, watched, withdrawn everywhere, and so after a restart."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from bento_server import Server

STRANGER = 734_281_569
VIDEO = {"video_id": "new/one", "creator_id": "c3", "duration_ms": 30_000, "tags": ["tag1"], "vector": [0.5] * 16}


class Client:
    def __init__(self, calls: httpx.Client) -> None:
        self.calls = calls

    def __call__(self, method: str, path: str, body: dict | None = None) -> dict:
        answer = self.calls.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def everywhere(self, seed: str) -> list[str]:
        """Ids of the videos in every kind of answer."""
        listed = [
            self("POST", "/v1/recommend", {"user_id": STRANGER, "k": 100, "region": "de", "mode": mode})["items"]
            for mode in ("online", "precomputed", "not_personalised")
        ]
        listed.append(self("POST", "/v1/rank", {"user_id": STRANGER, "video_ids": [VIDEO["video_id"]]})["items"])
        listed.append(self("POST", "/v1/similar", {"seed_video_id": seed, "k": 100, "region": "de"})["items"])
        listed.append(self("GET", "/v1/trending?limit=100&region=de")["items"])
        return [item["video_id"] for items in listed for item in items]


@contextmanager
def served(folder, release) -> Iterator[Client]:
    server = Server(folder, releases=release.folder.parent, shell="uvicorn")
    try:
        server.ready()
        with httpx.Client(base_url=server.url, timeout=30) as calls:
            yield Client(calls)
        server.stop()
    finally:
        server.end()


def test_the_life_of_a_posted_video(release, tmp_path):
    with served(tmp_path, release) as call:
        assert call("POST", "/v1/videos", {"videos": [VIDEO]}) == {"release": release.id, "created": 1, "changed": 0}
        slate = call("POST", "/v1/recommend", {"user_id": STRANGER, "k": 100, "region": "de"})["items"]
        sources = {item["video_id"]: item["sources"] for item in slate}[VIDEO["video_id"]]
        assert {"fresh", "two_tower"} & {*sources}
        event = {"type": "outcome", "user_id": 101, "video_id": VIDEO["video_id"], "watch_ms": 9_000, "long_view": True}
        assert call("POST", "/v1/events", {"events": [{**event, "key": "k1"}]})["accepted"] == 1
        assert call("GET", "/v1/viewers/101/history")["history"][0]["creator_id"] == "c3"
        seed = next(item["video_id"] for item in slate if item["video_id"] != VIDEO["video_id"])
        assert call.everywhere(seed).count(VIDEO["video_id"]) >= 3
        call("DELETE", f"/v1/videos/{VIDEO['video_id']}")
        assert VIDEO["video_id"] not in call.everywhere(seed)
    with served(tmp_path, release) as call:
        assert VIDEO["video_id"] not in call.everywhere(seed)
        assert call("PATCH", f"/v1/videos/{VIDEO['video_id']}", {"available": True})["video"]["tags"] == ["tag1"]
        assert VIDEO["video_id"] in call.everywhere(seed)
        assert call("POST", "/v1/videos", {"videos": [VIDEO]})["changed"] == 1

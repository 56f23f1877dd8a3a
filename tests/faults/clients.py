"""Clients of a real server that may be killed, swapped or overloaded: what they are answered is right, or is asked again."""

import itertools
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
from tests.unit.serving.bento_server import Server

from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store

K = 8
MODES = ("online", "precomputed", "auto", "not_personalised")
RETRIED = ("too_slow", "overloaded", "connections", "store")


class Clients:
    """Threads that ask for slates and post outcomes, each with a key and until it is acknowledged.

    `withdraw` takes a video down: no later answer may hold it.
    """

    def __init__(self, server: Server, release: Release, seed: int, *, askers: int = 2, posters: int = 2) -> None:
        self._server, self._release, self._seed = server, release, seed
        self._done, self._pool = threading.Event(), ThreadPoolExecutor(askers + posters)
        self.acknowledged, self.slates, self.retried, self.gone = [], 0, 0, None
        self._running = [self._pool.submit(self._ask, number) for number in range(askers)]
        self._running += [self._pool.submit(self._post, number) for number in range(posters)]

    def answered(self, client: httpx.Client, method: str, path: str, body: dict | None = None) -> dict:
        """Return the answer, once there is one."""
        while True:
            try:
                answer = client.request(method, path, json=body)
            except httpx.TransportError:  # it was killed, or starts
                assert not self._done.is_set() or self._server.process.poll() is None, "the server ended"
                time.sleep(0.02)
            else:
                if answer.status_code == 200:
                    return answer.json()
                assert answer.status_code == 503, answer.text
                assert answer.json()["error"]["code"] in RETRIED, answer.text
            self.retried += 1

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self._server.url, timeout=20)

    def withdraw(self, video_id: str) -> None:
        with self.client() as client:
            assert self.answered(client, "DELETE", f"/v1/videos/{video_id}")["available"] is False
        self.gone = video_id

    def _ask(self, number: int) -> None:
        draw = random.Random(f"{self._seed}/ask/{number}")
        with self.client() as client:
            while not self._done.is_set():
                body = {"user_id": draw.randrange(100, 140), "k": K, "mode": draw.choice(MODES)}
                gone = self.gone
                slate = self.answered(client, "POST", "/v1/recommend", body)
                assert gone is None or gone not in [item["video_id"] for item in slate["items"]], "a withdrawn video is shown"
                self.slates += 1

    def _post(self, number: int) -> None:
        draw, videos = random.Random(f"{self._seed}/post/{number}"), self._release.video_ids
        with self.client() as client:
            for call in itertools.count():
                if self._done.is_set():
                    return
                about = {"type": "outcome", "watch_ms": 5_000, "user_id": draw.randrange(100, 140)}
                keys = [f"{number}/{call}/{i}" for i in range(draw.randint(1, 10))]
                events = [about | {"video_id": videos.value(draw.randrange(60)), "key": key} for key in keys]
                answer = self.answered(client, "POST", "/v1/events", {"events": events})
                assert answer["accepted"] + answer["duplicates"] == len(events), answer
                self.acknowledged += keys

    def stop(self) -> None:
        self._done.set()
        for each in self._running:
            each.result()
        self._pool.shutdown()

    def require_kept(self, store: Path) -> None:
        """Fail unless the store holds each acknowledged event once, and no other."""
        with closing(Store.open(store, self._release)) as opened:
            kept = Counter(event.key for event in opened.journal() if event.kind == "outcome")
            assert kept == Counter(self.acknowledged)
            if self.gone is not None:
                assert opened.unavailable[opened.catalogue.ids.rows([self.gone])[0]]

"""The feed of events from a log to a server, where calls fail, messages are refused, or nothing fits."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import orjson
import pytest
from tests.redis_server import RedisServer

from watchnext.client import ApiError, Client
from watchnext.serving.events import refused_messages, retrying
from watchnext.serving.events.event_log import LogMessage
from watchnext.serving.events.feed import EventFeed
from watchnext.serving.events.publisher import JournalBehindError, Publisher
from watchnext.serving.events.redis_log import RedisStream
from watchnext.serving.events.refused_messages import RefusedMessages
from watchnext.serving.events.retrying import Retrying
from watchnext.serving.store.store import Store


class AppTransport(httpx.BaseTransport):
    """To the app in this process; what `failures` holds comes first, one a call. It fails at every call with `poison` in it."""

    def __init__(self, api) -> None:
        self.api, self.failures, self.calls, self.poison = api, [], 0, None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure, json={"error": {"code": "of the test", "message": "no"}})
        if self.poison and self.poison in request.read():
            return httpx.Response(500, json={"error": {"code": "failed", "message": "internal error"}})
        headers = {"content-type": "application/json"}
        answer = self.api(request.method, request.url.path, content=request.read(), headers=headers)
        return httpx.Response(answer.status_code, content=answer.content)


class UntilEmpty(RedisStream):
    """A stream whose reader is to stop when all is read."""

    stop: threading.Event

    def read(self, most: int, wait_s: float) -> list[LogMessage]:
        if not (messages := super().read(most, 0.01)):
            self.stop.set()
        return messages


@pytest.fixture
def redis(tmp_path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def transport(api) -> AppTransport:
    return AppTransport(api)


@pytest.fixture
def feed(redis, transport, tmp_path, monkeypatch):
    """Messages > the lines of those that were refused, after all of the stream is read."""
    monkeypatch.setattr(retrying, "FIRST_S", 0.01)
    path = tmp_path / "refused.jsonl"

    def feed(*messages: object, since: int | None = None) -> list[dict]:
        with redis.client() as client:
            for each in messages:
                client.xadd("events", {"event": each if isinstance(each, bytes) else orjson.dumps(each)})
        with closing(UntilEmpty(f"{redis.url()}/events", "one")) as log, Client(transport=transport, retries=0) as client:
            log.stop = threading.Event()
            if since is not None:
                log.seek(since)
            EventFeed(log, client, RefusedMessages(path), Retrying(log.stop)).run()
        return [orjson.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []

    return feed


def watch(release, key: str, **fields: object) -> dict:
    return {"user_id": release.user_ids.value(0), "video_id": release.video_ids.value(0), "key": key, **fields}


def keys(store) -> list[str]:
    return [event.key for event in store.journal()]


def test_a_call_that_fails_for_a_while_is_tried_again(feed, transport, store, release):
    transport.failures = [503, 429, httpx.ConnectError("no"), 500, httpx.ReadTimeout("no")]
    assert feed(watch(release, "a"), watch(release, "b")) == []
    assert keys(store) == ["a", "b"]
    assert transport.calls == 6


def test_a_server_that_refuses_the_call_ends_the_feed_and_nothing_is_lost(feed, transport, store, release):
    transport.failures = [401]
    with pytest.raises(ApiError, match="401"):
        feed(watch(release, "a"))
    assert feed() == []
    assert keys(store) == ["a"]


def test_the_messages_around_a_refused_one_count(feed, store, release):
    messages = [watch(release, str(i)) for i in range(20)]
    messages[3]["watch_ms"], messages[11]["type"] = -1, "seen"
    messages[12] = {"type": "shown", **watch(release, "12")}  # of no request
    messages[13] = {"user_id": messages[13]["user_id"]}
    messages[14] = b"\xff"
    refused = feed(*messages)
    assert [line["message"] for line in refused if line["message"] == "\ufffd"]
    by_message = {line["message"]: line["reason"] for line in refused}
    assert len(refused) == len(by_message) == 5
    for at, reason in ((3, "watch_ms is -1"), (11, "'seen'"), (12, "request_id is missing"), (13, "video_id is missing")):
        assert reason in by_message[orjson.dumps(messages[at]).decode()]
    assert keys(store) == [str(i) for i in range(20) if i not in (3, 11, 12, 13, 14)]


def test_every_unknown_video_of_a_call_is_named_and_the_others_count_once(feed, store, release):
    messages = [watch(release, str(i), video_id=f"unknown {i}") for i in range(50)]
    messages[7] = messages[30] = watch(release, "a")
    refused = feed(*messages)
    assert [orjson.loads(line["message"])["key"] for line in refused] == [str(i) for i in range(50) if i not in (7, 30)]
    assert "video_id is 'unknown 0': expected a video of release" in refused[0]["reason"]
    assert keys(store) == ["a"]


def test_a_message_at_which_the_server_fails_holds_up_no_other(feed, transport, store, release, caplog):
    transport.poison = b"poisonous"
    messages = [watch(release, str(i), surface="poisonous" if i in (4, 17) else "home") for i in range(20)]
    refused = feed(*messages)
    assert [orjson.loads(line["message"])["key"] for line in refused] == ["4", "17"]
    assert {line["reason"] for line in refused} == {"internal error"}
    assert sorted(keys(store), key=int) == [str(i) for i in range(20) if i not in (4, 17)]
    assert "refused: internal error; number 2 in " in caplog.text


def test_a_full_disk_holds_up_the_feed_and_loses_no_refused_message(feed, store, release, monkeypatch, caplog):
    full, synced = [OSError(errno.ENOSPC, "No space left on device")] * 2, os.fsync

    def fsync(file: int) -> None:
        if full:
            raise full.pop()
        synced(file)

    monkeypatch.setattr(refused_messages.os, "fsync", fsync)
    refused = feed(watch(release, "a"), b"no JSON", watch(release, "b"))
    assert [line["message"] for line in refused][-1] == "no JSON"
    assert not full
    assert keys(store) == ["a", "b"]
    assert "No space left on device; tried again in" in caplog.text


def test_an_unknown_video_that_the_answer_names_in_part_is_found(feed, store, release):
    cut = "\a" * 64  # as Python writes it, it is longer than a value in an error
    refused = feed(watch(release, "a"), watch(release, "b", video_id=cut), watch(release, "c"))
    assert [orjson.loads(line["message"])["key"] for line in refused] == ["b"]
    assert keys(store) == ["a", "c"]


def test_a_message_without_a_key_counts_once_and_an_old_one_is_refused(feed, store, release):
    event = {name: value for name, value in watch(release, "").items() if name != "key"}
    refused = feed(event, event, {**event, "at_ms": 1_000})
    assert len({*keys(store)}) == len(keys(store)) == 2
    assert [line["reason"].split(":")[0] for line in refused] == ["body.events.0.at_ms is 1000"]
    feed(since=0)
    assert len(keys(store)) == 2


def test_the_file_of_refused_messages_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(refused_messages, "MOST_BYTES", 10_000)
    refused = RefusedMessages(tmp_path / "new" / "refused.jsonl")
    for number in range(30):
        refused.add("events", LogMessage(str(number), number, b"x" * 100_000), "for the test")
    files: list[Path] = sorted(refused.path.parent.iterdir())
    assert [file.name for file in files] == ["refused.before.jsonl", "refused.jsonl"]
    assert all(file.stat().st_size < 10_000 + 5_000 for file in files)
    assert orjson.loads(files[1].read_bytes().splitlines()[-1])["position"] == "29"


def test_a_journal_that_ends_before_what_the_log_has_is_refused(redis, release, tmp_path):
    Store.open(tmp_path / "store", release, durable=False).close()
    with closing(RedisStream(f"{redis.url()}/copies", "one")) as log:
        log.append([(10, b"{}")])
        with pytest.raises(JournalBehindError, match=r"has event 10 .* ends before 0: it is another store"):
            Publisher(tmp_path / "store", log, Retrying(threading.Event())).run()

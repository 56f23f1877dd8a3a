"""Every log of events: Redis Streams on a redis-server of this test, Kafka on the broker that a variable names.

WATCHNEXT_TEST_KAFKA is HOST:PORT of a broker that makes a topic when it is first asked for.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import pytest
from tests.redis_server import RedisServer
from tests.unit.serving.bento_server import free_port

from watchnext.serving.events.event_log import EventLog, EventLogError, LogMessage, opened_log

Opens = Callable[..., EventLog]


@pytest.fixture(scope="module")
def redis(tmp_path_factory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def kafka_address() -> str:
    pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed; run pip install 'watchnext[kafka]'")
    if not (address := os.environ.get("WATCHNEXT_TEST_KAFKA")):
        pytest.skip("WATCHNEXT_TEST_KAFKA is not set, expected HOST:PORT of a broker")
    return address


def make_topic(address: str, name: str) -> None:
    """Ask for a topic until it is there."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": address, "allow.auto.create.topics": True})
    while producer.list_topics(name, 30).topics[name].error:
        time.sleep(0.1)


@pytest.fixture(params=["redis", "kafka"])
def url(request) -> str:
    """The URL of a log that is empty."""
    name = f"events-{uuid.uuid4().hex}"
    if request.param == "kafka":
        address = kafka_address()
        make_topic(address, name)
        return f"kafka://{address}/{name}"
    return f"{request.getfixturevalue('redis').url()}/{name}"


@pytest.fixture
def opens(url) -> Iterator[Opens]:
    """Open the log once more, for the group `one` or another."""
    opened = []

    def opens(group: str = "one") -> EventLog:
        opened.append(opened_log(url, group))
        return opened[-1]

    yield opens
    for log in opened:
        log.close()


def read(log: EventLog, count: int, most: int = 100) -> list[LogMessage]:
    """The next `count` messages, which are there."""
    messages: list[LogMessage] = []
    for _ in range(100):
        if len(messages) >= count:
            break
        messages += log.read(min(most, count - len(messages)), 0.3)
    return messages


def bodies(messages: Sequence[LogMessage]) -> list[bytes]:
    return [message.body for message in messages]


def numbered(*numbers: int) -> list[tuple[int, bytes]]:
    return [(number, b"message %d" % number) for number in numbers]


def test_messages_are_read_as_they_were_appended(opens):
    writer, reader = opens(), opens()
    writer.append(numbered(0, 1, 2))
    writer.append(numbered(3, 7))
    messages = read(reader, 5, most=2)
    assert bodies(messages) == [body for _, body in numbered(0, 1, 2, 3, 7)]
    assert len({message.position for message in messages}) == 5
    assert all(message.time_ms > 1_700_000_000_000 for message in messages)
    assert list(reader.read(10, 0.01)) == []


def test_a_reader_begins_behind_the_last_commit_of_its_group(opens):
    opens().append(numbered(0, 1, 2, 3))
    first = opens()
    read(first, 2)
    first.commit()
    read(first, 1)  # and dies
    assert bodies(read(opens(), 2)) == [b"message 2", b"message 3"]
    assert bodies(read(opens("another"), 1)) == [b"message 0"]


def test_what_was_read_is_read_again_from_a_time_or_a_position(opens):
    opens().append(numbered(0, 1, 2))
    log = opens()
    messages = read(log, 3)
    log.commit()
    log.seek(messages[1].position)
    assert read(log, 2) == messages[1:]
    log.seek(0)
    assert read(log, 3) == messages
    log.seek(messages[0].time_ms)
    assert read(log, 3) == messages
    log.seek(messages[-1].time_ms + 3_600_000)
    assert list(log.read(10, 0.3)) == []
    log.append(numbered(3))
    log.seek(messages[2].position)
    log.commit()
    assert bodies(read(opens(), 2)) == [b"message 2", b"message 3"]
    with pytest.raises(EventLogError, match="'elsewhere', expected"):
        log.seek("elsewhere")


def test_the_log_says_what_a_group_appended_last(opens):
    assert opens().appended() is None
    opens().append(numbered(0, 5))
    assert opens().appended() == 5
    assert opens("another").appended() is None
    opens("another").append(numbered(2))
    opens().append(numbered(6))
    assert (opens().appended(), opens("another").appended()) == (6, 2)


@pytest.mark.parametrize("scheme", ["redis", "kafka"])
def test_a_log_that_does_not_answer_is_named(scheme, monkeypatch):
    if scheme == "kafka":
        pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed; run pip install 'watchnext[kafka]'")
        monkeypatch.setattr("watchnext.serving.events.kafka_log.ANSWER_S", 0.5)
    address = f"127.0.0.1:{free_port()}/0/events"
    setting = "client.id" if scheme == "kafka" else "client_name"
    with closing(opened_log(f"{scheme}://user:secret@{address}?{setting}=secret", "one")) as log:
        for refused in (lambda: log.read(1, 0.01), log.appended, lambda: log.append(numbered(0))):
            with pytest.raises(EventLogError, match=f"{scheme}://{address}") as refusal:
                refused()
            assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["redis://host", "redis://host/0", "redis://host/events", "amqp://host/events", "events"])
def test_a_url_of_no_log_is_refused(url):
    with pytest.raises(EventLogError, match="expected redis://HOST:PORT/DATABASE/STREAM or kafka://HOST:PORT/TOPIC"):
        opened_log(url, "one")


def test_a_setting_that_redis_does_not_have_is_refused():
    with pytest.raises(EventLogError, match=r"'redis://host/0/events' with a setting .* 'nonsense'"):
        opened_log("redis://host/0/events?nonsense=secret", "one")


def test_kafka_without_its_client_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "watchnext.serving.events.kafka_log", raising=False)
    with pytest.raises(EventLogError, match=r"run `pip install 'watchnext\[kafka\]'`"):
        opened_log("kafka://127.0.0.1:9092/events", "one")


def test_two_writers_of_one_group_append_nothing_twice(redis):
    """In Redis, where a transaction checks it: the second has not heard of the first."""
    url = f"{redis.url()}/events-{uuid.uuid4().hex}"
    with closing(opened_log(url, "one")) as one, closing(opened_log(url, "one")) as other:
        one.append(numbered(0, 1))
        with pytest.raises(EventLogError, match="has message 1, so that 1 is not appended again"):
            other.append(numbered(1, 2))
        assert bodies(read(one, 2)) == [b"message 0", b"message 1"]
        assert list(one.read(10, 0.01)) == []

"""A topic of Kafka, or of a broker that speaks its protocol, as a log of events.

This is the only module that imports confluent_kafka. A reader takes all partitions of its topic; the offsets of its group are
committed by the caller alone. What is appended goes to the first partition, as its order is that of the numbers. The number of
the last message is kept beside its offset, as metadata of the offsets of a second group; messages behind it are looked at, as
their writer may have died in between.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from urllib.parse import parse_qsl, urlsplit

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from watchnext.serving.events.event_log import EXPECTED, EventLogError, LogMessage, shown

ANSWER_S = 30.0  # longest wait for an answer of the brokers
PAGE = 1_000  # messages that are looked at together


class KafkaTopic:
    """A topic at `kafka://HOST:PORT[,HOST:PORT]/TOPIC[?SETTING=VALUE&...]`, with settings of librdkafka; see EventLog."""

    def __init__(self, url: str, group: str) -> None:
        parts, self._shown, self._group = urlsplit(url), shown(url), group
        self.name = parts.path.strip("/")
        if not (parts.netloc and self.name):
            raise EventLogError(f"the log is {self._shown!r}, expected {EXPECTED}")
        self._settings = {"bootstrap.servers": parts.netloc, **dict(parse_qsl(parts.query))}
        self._next: dict[int, int] = {}  # partition > offset of the next message
        self._is_assigned = False
        with self._answers():
            self._consumer = self._consumer_of(group)

    def _consumer_of(self, group: str, **settings: object) -> Consumer:
        own = {"enable.auto.commit": False, "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
        return Consumer({**self._settings, "group.id": group, **own, **settings})

    @cached_property
    def _producer(self) -> Producer:
        own = {"acks": "all", "enable.idempotence": True, "delivery.timeout.ms": int(1000 * ANSWER_S)}
        return Producer({**self._settings, **own})

    # ---- read --------------------------------------------------------------------------------------------------------

    def read(self, most: int, wait_s: float) -> list[LogMessage]:
        with self._answers():
            if not self._is_assigned:
                self._assign(self._consumer.committed(self._partitions(OFFSET_BEGINNING), ANSWER_S))
            read = self._consumer.consume(1, wait_s)
            read += self._consumer.consume(most - 1, 0.01) if read and most > 1 else []
            return [self._taken(message) for message in read]

    def _taken(self, message: Message) -> LogMessage:
        if message.error():
            raise KafkaException(message.error())
        partition, offset, (kind, time_ms) = message.partition(), message.offset(), message.timestamp()
        self._next[partition] = offset + 1
        known_ms = int(1000 * time.time()) if kind == TIMESTAMP_NOT_AVAILABLE else time_ms
        return LogMessage(f"{partition}:{offset}", known_ms, message.value() or b"")

    def commit(self) -> None:
        if self._next:
            offsets = [TopicPartition(self.name, partition, offset) for partition, offset in self._next.items()]
            with self._answers():
                _require(self._consumer.commit(offsets=offsets, asynchronous=False))

    def seek(self, to: int | str) -> None:
        with self._answers():
            if isinstance(to, int):
                first = self._partitions(OFFSET_BEGINNING if to <= 0 else to)
                self._assign(first if to <= 0 else self._consumer.offsets_for_times(first, ANSWER_S))
                return
            partition, _, offset = to.partition(":")
            offsets = self._consumer.committed(self._partitions(OFFSET_BEGINNING), ANSWER_S)
            if not (partition.isdecimal() and offset.isdecimal() and int(partition) < len(offsets)):
                expected = f"PARTITION:OFFSET of the {len(offsets)} partitions of {self._shown}, or a time"
                raise EventLogError(f"the position is {to!r}, expected {expected}")
            offsets[int(partition)].offset = int(offset)
            self._assign(offsets)

    def _partitions(self, offset: int) -> list[TopicPartition]:
        topic = self._consumer.list_topics(self.name, ANSWER_S).topics[self.name]
        if topic.error or not topic.partitions:
            raise EventLogError(f"the topic {self._shown} does not exist ({topic.error}); create it")
        return [TopicPartition(self.name, partition, offset) for partition in sorted(topic.partitions)]

    def _assign(self, offsets: Sequence[TopicPartition]) -> None:
        for each in _require(offsets):
            if each.offset < 0 and each.offset != OFFSET_END:  # nothing is committed
                each.offset = OFFSET_BEGINNING
        self._next = {each.partition: each.offset for each in offsets if each.offset >= 0}
        self._consumer.assign(list(offsets))
        self._is_assigned = True

    # ---- append ------------------------------------------------------------------------------------------------------

    def append(self, messages: Sequence[tuple[int, bytes]]) -> None:
        with self._answers():
            try:
                offsets = self._delivered(messages)
            except BaseException:
                self._drop_producer()
                raise
            self._keep_appended(max(offsets) + 1, messages[-1][0])

    def _delivered(self, messages: Sequence[tuple[int, bytes]]) -> list[int]:
        """Return the offsets of messages that all brokers in charge have stored."""
        results: list[tuple[KafkaError | None, int]] = []
        for number, body in messages:
            self._producer.produce(
                self.name,
                body,
                key=f"{self._group}/{number}",
                partition=0,
                on_delivery=lambda error, message: results.append((error, message.offset())),
            )
        self._producer.flush(2 * ANSWER_S)
        failed = [str(error) for error, _ in results if error] or ["no answer"] * (len(results) < len(messages))
        if failed:
            raise EventLogError(f"{self._shown} has not stored all of {len(messages)} messages: {failed[0]}")
        return [offset for _, offset in results]

    def _drop_producer(self) -> None:
        """Let nothing that failed follow later; the next call makes a new producer."""
        self._producer.purge()
        self._producer.flush(ANSWER_S)
        del self._producer

    def _keep_appended(self, offset: int, number: int) -> None:
        consumer = self._consumer_of(f"{self._group}-appended")
        try:
            kept = TopicPartition(self.name, 0, offset, metadata=str(number))
            _require(consumer.commit(offsets=[kept], asynchronous=False))
        finally:
            consumer.close()

    def appended(self) -> int | None:
        with self._answers():
            self._partitions(0)  # which names a topic that is missing
            consumer = self._consumer_of(f"{self._group}-appended", **{"enable.partition.eof": True})
            try:
                kept = _require(consumer.committed([TopicPartition(self.name, 0)], ANSWER_S))[0]
                last = int(kept.metadata) if kept.offset >= 0 else None
                consumer.assign([TopicPartition(self.name, 0, kept.offset if kept.offset >= 0 else OFFSET_BEGINNING)])
                for key in _keys(consumer):
                    group, _, number = key.rpartition("/")
                    last = max(int(number), -1 if last is None else last) if group == self._group else last
                return last
            finally:
                consumer.close()

    def close(self) -> None:
        self._consumer.close()

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except (KafkaException, BufferError) as error:
            raise EventLogError(f"the log {self._shown} does not answer or refuses ({error}); look at its brokers") from error


def _require(partitions: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
    """Raise KafkaException if one of the partitions failed."""
    for each in partitions:
        if each.error:
            raise KafkaException(each.error)
    return partitions


def _keys(consumer: Consumer) -> Iterator[str]:
    """Yield the keys of all messages up to the end of the partition."""
    end = time.monotonic() + ANSWER_S
    while time.monotonic() < end:
        for message in consumer.consume(PAGE, 0.5):
            if (error := message.error()) is None:
                end = time.monotonic() + ANSWER_S
                yield (message.key() or b"").decode(errors="replace")
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise KafkaException(error)
    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

"""A stream of Redis as a log of events.

A message is an entry with the field `event`; its position is the entry's id, which begins with its time. The position of a
group of readers is a key beside the stream, and so is the number of the last message that a group appended: it changes in the
same transaction as the stream, and only from the number that its writer knows, so that no message is appended twice.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError
from redis.retry import Retry

from watchnext.serving.events.event_log import EXPECTED, EventLogError, LogMessage, shown

FIELD = b"event"
ANSWER_S = 5.0  # longest wait for an answer, beyond that for a message
FIRST, LAST_OF_MS = "0-0", 2**64 - 1


class RedisStream:
    """A stream at `redis://HOST:PORT/DATABASE/STREAM`, see EventLog."""

    def __init__(self, url: str, group: str) -> None:
        parts, self._shown = urlsplit(url), shown(url)
        database, _, self.name = parts.path.strip("/").partition("/")
        if not (database.isdecimal() and self.name):
            raise EventLogError(f"the log is {self._shown!r}, expected {EXPECTED}")
        # A command that is sent again after a lost answer could append twice.
        given = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "retry": Retry(NoBackoff(), 0), "protocol": 2}
        try:
            self._client = Redis.from_url(parts._replace(path=f"/{database}").geturl(), **given)
            self._client.connection_pool.make_connection()  # without connecting: settings are looked at here
        except (TypeError, ValueError) as error:
            raise EventLogError(f"the log is {self._shown!r} with a setting that Redis does not have ({error})") from error
        self._read_key, self._appended_key = f"{self.name}:{group}:read", f"{self.name}:{group}:appended"
        self._behind: str | None = None  # position of the last message read

    def read(self, most: int, wait_s: float) -> list[LogMessage]:
        with self._answers():
            if self._behind is None:
                self._behind = (self._client.get(self._read_key) or FIRST.encode()).decode()
            read = self._client.xread({self.name: self._behind}, count=most, block=max(int(1000 * wait_s), 1))
        messages = [_message(key.decode(), fields) for _, entries in read or () for key, fields in entries]
        if messages:
            self._behind = messages[-1].position
        return messages

    def commit(self) -> None:
        if self._behind is not None:
            with self._answers():
                self._client.set(self._read_key, self._behind)

    def seek(self, to: int | str) -> None:
        if isinstance(to, str) and not re.fullmatch(r"\d+-\d+", to):
            raise EventLogError(f"the position is {to!r}, expected one of {self._shown} like 1767225600000-0, or a time")
        ms, number = map(int, to.split("-")) if isinstance(to, str) else (to, 0)
        before = (ms, number - 1) if number else (ms - 1, LAST_OF_MS)
        self._behind = "{}-{}".format(*before) if ms > 0 else FIRST

    def append(self, messages: Sequence[tuple[int, bytes]]) -> None:
        with self._answers(), self._client.pipeline(transaction=True) as pipe:
            pipe.watch(self._appended_key)
            if (last := _number(pipe.get(self._appended_key))) is not None and messages[0][0] <= last:
                raise EventLogError(f"{self._shown} has message {last}, so that {messages[0][0]} is not appended again")
            pipe.multi()
            for number, body in messages:
                pipe.xadd(self.name, {FIELD: body, b"number": number})
            pipe.set(self._appended_key, messages[-1][0])
            try:
                pipe.execute()
            except WatchError as error:
                raise EventLogError(f"another process appends to {self._shown} for the same group; end one of them") from error

    def appended(self) -> int | None:
        with self._answers():
            return _number(self._client.get(self._appended_key))

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def _answers(self) -> Iterator[None]:
        try:
            yield
        except RedisError as error:
            raise EventLogError(f"the log {self._shown} does not answer or refuses ({error}); look at its Redis") from error


def _message(key: str, fields: dict[bytes, bytes]) -> LogMessage:
    return LogMessage(key, int(key.partition("-")[0]), fields.get(FIELD, b""))


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)

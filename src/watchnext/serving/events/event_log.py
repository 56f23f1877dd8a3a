"""A log of messages that a broker keeps in their order: read them, and go on where the last reader was; append more."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

WAIT_S = 1.0  # longest wait for a message, after which a reader looks whether it is to end
KAFKA = "pip install 'watchnext[kafka]'"
EXPECTED = "redis://HOST:PORT/DATABASE/STREAM or kafka://HOST:PORT/TOPIC"


class EventLogError(RuntimeError):
    """A log that cannot be opened, read or written; the message names it."""


class LogMessage(NamedTuple):
    """One message: its position in the log, the time at which the broker got it (ms UTC), and its bytes."""

    position: str
    time_ms: int
    body: bytes


class EventLog(Protocol):
    """A log at a broker. One thread calls it. Every method raises EventLogError, after which it may be called again.

    name  of the stream or topic, the same whatever the address of the broker
    """

    name: str

    def read(self, most: int, wait_s: float) -> Sequence[LogMessage]:
        """Return the next messages, at most `most`; none if there is none for `wait_s` seconds. The first are those behind the
        last commit of the group."""

    def commit(self) -> None:
        """Let readers of the group begin behind all that `read` has returned; kept by the broker when this returns."""

    def seek(self, to: int | str) -> None:
        """Go on reading at the first message of a time (ms UTC) or later, or at the message of a position."""

    def append(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """Append messages, each with a number above all before; the broker has stored them when this returns.

        After an error the broker may have some of them: `appended` says which.
        """

    def appended(self) -> int | None:
        """Return the number of the last message that the group appended, None without one."""

    def close(self) -> None:
        """Close the connections."""


def opened_log(url: str, group: str) -> EventLog:
    """Open the log at `url` for a group, whose positions the broker keeps. Raises EventLogError for a URL that is none."""
    scheme = urlsplit(url).scheme
    if scheme in ("redis", "rediss"):
        from watchnext.serving.events.redis_log import RedisStream

        return RedisStream(url, group)
    if scheme == "kafka":
        try:
            from watchnext.serving.events.kafka_log import KafkaTopic
        except ModuleNotFoundError as error:
            raise EventLogError(f"{shown(url)} needs confluent-kafka, which is not installed; run `{KAFKA}`") from error
        return KafkaTopic(url, group)
    raise EventLogError(f"the log is {shown(url)!r}, expected {EXPECTED}")


def shown(url: str) -> str:
    """Return a URL without user, password and settings, which may be secret."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

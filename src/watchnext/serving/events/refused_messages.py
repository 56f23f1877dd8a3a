"""Messages that a server refused, with the reason, in a file that stays small."""

import os
from pathlib import Path

import orjson

from watchnext.serving.events.event_log import LogMessage

MOST_BYTES = 16 << 20  # of a file; the one before is kept too
MESSAGE_BYTES = 4_096  # of a message that is kept; the log has the rest


class RefusedMessages:
    """A line of JSON a message: log, position, reason, message. A full file becomes the one before, which is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, log: str, message: LogMessage, reason: str) -> None:
        """Keep a message; it is on disk when this returns."""
        text = message.body[:MESSAGE_BYTES].decode(errors="replace")
        line = {"log": log, "position": message.position, "time_ms": message.time_ms, "reason": reason, "message": text}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > MOST_BYTES:
            self.path.replace(self.path.with_suffix(".before.jsonl"))
        with self.path.open("ab") as file:
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())

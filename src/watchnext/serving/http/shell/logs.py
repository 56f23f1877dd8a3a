"""Write the logs as text, or as one JSON object a line with the id of the request, as WATCHNEXT_LOG says."""

import logging
import sys
from typing import Literal

import orjson

from watchnext.serving.http.access.middleware import ACCESS, request_id

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """Render a record: time, level, logger, message, request_id, an answer's fields, and a traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": record.created, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= {"request_id": request_id()} | getattr(record, "answer", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(kind: Literal["text", "json"]) -> None:
    """Let every logger of this process write to stderr; as JSON also a line for each answer."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if kind == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    ACCESS.setLevel(logging.INFO if kind == "json" else logging.WARNING)
    # BentoML's shell leaves uvicorn's own line for each answer on; without a handler, uvicorn does not make it.
    logging.getLogger("uvicorn.access").propagate = False

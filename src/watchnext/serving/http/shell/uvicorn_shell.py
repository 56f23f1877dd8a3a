"""`python -m watchnext.serving serve`: the app of `bentoml serve` in one process on uvicorn, without BentoML."""

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn

from watchnext.serving.http.settings import Settings
from watchnext.serving.http.shell.connections import BoundedProtocol
from watchnext.serving.http.shell.logs import configure
from watchnext.serving.http.shell.served_app import HOST, PORT, START_ERRORS, ServedApp, bound

COMMAND = "python -m watchnext.serving serve"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# What uvicorn itself bounds; the rest is in `Limits`.
CONNECTIONS = {"backlog": 2048, "timeout_keep_alive": 5, "timeout_graceful_shutdown": 30}


def serve(words: Sequence[str]) -> None:
    """Serve releases/current until SIGTERM or Ctrl-C, without BentoML: --host, --port.

    The port opens once everything is loaded. Exits with 1 and one line where the server cannot start.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description=serve.__doc__.splitlines()[0])
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args(words)
    for number in SIGNALS:
        signal.signal(number, _stop)  # also process 1 of a container ends by it
    try:
        settings = Settings.from_environment()
        configure(settings.log)
        settings.check_address(options.host)
        with bound(options.host, options.port, COMMAND) as port:
            served = ServedApp(settings)
            try:
                uvicorn.Server(_configured(served.app)).run(sockets=[port])
            finally:
                for number in SIGNALS:
                    signal.signal(number, signal.SIG_IGN)  # a second one must not end the writing of what was acknowledged
                served.close()
    except START_ERRORS as error:
        sys.exit(str(error))


def _configured(app) -> uvicorn.Config:
    quiet = {"log_config": None, "access_log": False, "server_header": False, "lifespan": "off"}
    return uvicorn.Config(app, http=BoundedProtocol, **quiet, **CONNECTIONS)


def _stop(signum: int, frame: FrameType | None) -> None:
    """End with status 0. uvicorn sends a signal again when it has drained."""
    raise SystemExit(0)

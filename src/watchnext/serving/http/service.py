"""The BentoML door: loads the current release and serves the app; `watchnext.serving.http.settings` says what sets it."""

import os

# Before bentoml is imported. Tracing was most of a request's cost, and the metrics here belong to one process: with the
# folder that BentoML sets for many, prometheus_client would write them to files, which another server on this machine wipes.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import gc
import signal
import socket
import sys
import traceback
from types import FrameType

import bentoml
import click
from starlette.types import ASGIApp, Receive, Scope, Send

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served_log import ServedLog
from watchnext.serving.http.app import Settings, create_app
from watchnext.serving.http.clock import Clock
from watchnext.serving.http.settings import VariableError, Variables
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.store import Store, StoreError

SERVED_BYTES = 1 << 30
SERVED_ROWS = 500
BUDGET_MS = 500.0  # later than this, a slate goes out in retrieval order


HOST, PORT = "127.0.0.1", 3000
SUPERVISOR = "_WATCHNEXT_SUPERVISOR"  # the process that starts workers, in their environment
REFUSED = (VariableError, ReleaseError, StoreError)


def require_free_port() -> None:
    """Raise VariableError where another program holds the port that `bentoml serve` was told, or the one of the service."""
    context = click.get_current_context(silent=True)
    told = context.params if context else {}
    host, port = told.get("host") or HOST, told.get("port") or PORT
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: what was closed just now is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise VariableError(
                f"port {port} of {host} is taken or not allowed ({error.strerror}); stop what listens there, "
                f"or take another one: `bentoml serve --port {port + 1}`"
            ) from error


def end_server(error: Exception) -> None:
    """Say why a worker cannot start, and end the server: its supervisor would start the worker again for ever, with the port
    open. Raises `error` where there is no supervisor."""
    supervisor = int(os.environ.get(SUPERVISOR, 0))
    if supervisor != os.getppid():
        raise error
    said = [str(error)] if isinstance(error, REFUSED) else traceback.format_exception(error)
    print("the server ends:", "".join(said), file=sys.stderr, flush=True)
    os.kill(supervisor, signal.SIGUSR1)
    os._exit(1)


def give_up(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


class Door:
    """What is mounted when the module is imported; it leads somewhere once a release is loaded."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


door = Door()


@bentoml.service(
    http={"host": HOST, "port": PORT},
    workers=1,  # the store has one writer, and its arrays live in this process
    traffic={"timeout": 30},  # the app sheds load and gives up long before
    metrics={"enabled": False},  # BentoML's are labelled by raw path; the app has its own at /metrics
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(door, path="/")
class Watchnext:
    @bentoml.on_deployment
    def check() -> None:
        """Refuse in one line what could not serve; once, before a port is opened and a worker is started."""
        try:
            require_free_port()
            Variables.of(os.environ).check()
        except REFUSED as error:
            raise SystemExit(str(error)) from None
        os.environ[SUPERVISOR] = str(os.getpid())
        signal.signal(signal.SIGUSR1, give_up)  # BentoML's supervisor uses other signals, and ends with 0 by them

    def __init__(self) -> None:
        try:
            self._open()
        except Exception as error:
            end_server(error)

    def _open(self) -> None:
        variables = Variables.of(os.environ)
        release = Release.load(current(variables.releases))
        store = self._store = Store.open(variables.store, release)
        served = self._served = ServedLog(variables.served, max_bytes=SERVED_BYTES, flush_rows=SERVED_ROWS)
        recommender = Recommender(release, store, budget_ms=BUDGET_MS)
        recommender.warm()
        starts_at = max(release.as_of_ms, store.last_known_at + 1)
        clock = Clock(starts_at if (variables.clock or release.clock) == "release" else None)
        door.app = self._app = create_app(recommender=recommender, store=store, served=served, clock=clock, settings=Settings())
        # A full collection would stop the worker for 60 to 160 ms; what is loaded now stays anyway.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        self._app.state.close()
        self._served.close()
        self._store.close()

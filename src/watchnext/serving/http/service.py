"""Serve the app of the current release with BentoML; `settings.py` lists the environment variables."""

import os

# These must be set before bentoml is imported. Tracing took most of a request's time. The metrics belong to one process: with
# the folder that BentoML sets for several, prometheus_client would write files that another server on this machine deletes.
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
from watchnext.serving.http.app import Limits, create_app
from watchnext.serving.http.clock import Clock
from watchnext.serving.http.settings import Settings, SettingsError
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.store import Bounds, Store, StoreError

SERVED_LOG_BYTES = 1 << 30
SERVED_LOG_ROWS = 500
BUDGET_MS = 500.0  # a slate that takes longer is answered in retrieval order
HOST, PORT = "127.0.0.1", 3000
SUPERVISOR = "_WATCHNEXT_SUPERVISOR"  # environment variable of the workers: id of the process that starts them
START_ERRORS = (SettingsError, ReleaseError, StoreError)


def require_free_port() -> None:
    """Raise SettingsError where the port of `bentoml serve --port`, or else the default one, cannot be opened."""
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    host, port = options.get("host") or HOST, options.get("port") or PORT
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port that was just closed is free
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SettingsError(
                f"port {port} of {host} is taken or not allowed ({error.strerror}); stop the program that listens there, "
                f"or use another port: `bentoml serve --port {port + 1}`"
            ) from error


def end_server(error: Exception) -> None:
    """Print why a worker cannot start, and end the server: its supervisor would restart the worker for ever with the port open.

    Raises `error` where there is no supervisor.
    """
    supervisor = int(os.environ.get(SUPERVISOR, 0))
    if supervisor != os.getppid():
        raise error
    lines = [str(error)] if isinstance(error, START_ERRORS) else traceback.format_exception(error)
    print("the server ends:", "".join(lines), file=sys.stderr, flush=True)
    os.kill(supervisor, signal.SIGUSR1)
    os._exit(1)


def give_up(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(1)


class AppProxy:
    """Forward to the app: BentoML mounts this when the module is imported, and the app exists once a release is loaded."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


proxy = AppProxy()


@bentoml.service(
    http={"host": HOST, "port": PORT},
    workers=1,  # the store has one writer, and its arrays are in this process
    traffic={"timeout": 30},  # the app rejects and times out requests long before
    metrics={"enabled": False},  # BentoML's are labelled by raw path; the app has its own at /metrics
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(proxy, path="/")
class Watchnext:
    @bentoml.on_deployment
    def check() -> None:
        """Exit with one line where the server cannot start; runs once, before a port is opened or a worker started."""
        try:
            require_free_port()
            Settings.from_environment().check()
        except START_ERRORS as error:
            raise SystemExit(str(error)) from None
        os.environ[SUPERVISOR] = str(os.getpid())
        signal.signal(signal.SIGUSR1, give_up)  # other signals end BentoML's supervisor with status 0

    def __init__(self) -> None:
        try:
            self._open()
        except Exception as error:
            end_server(error)

    def _open(self) -> None:
        settings = Settings.from_environment()
        release = Release.load(current(settings.releases))
        bounds = Bounds(viewers=settings.viewers_kept, journal_bytes=settings.journal_bytes)
        store = self._store = Store.open(settings.store, release, bounds=bounds)
        served_log = self._served_log = ServedLog(settings.served, max_bytes=SERVED_LOG_BYTES, flush_rows=SERVED_LOG_ROWS)
        recommender = Recommender(release, store, budget_ms=BUDGET_MS)
        recommender.warm()
        starts_at = max(release.as_of_ms, store.last_known_at + 1)
        clock = Clock(starts_at if (settings.clock or release.clock) == "release" else None)
        proxy.app = self._app = create_app(
            recommender=recommender, store=store, served_log=served_log, clock=clock, limits=Limits()
        )
        # A full garbage collection would stop the worker for 60 to 160 ms; everything loaded so far stays anyway.
        gc.collect()
        gc.freeze()

    async def __is_ready__(self) -> bool:
        """Let BentoML's own /readyz answer 503 after a failed write."""
        return self._store.failed is None

    @bentoml.on_shutdown
    def close(self) -> None:
        self._app.state.close()
        self._served_log.close()
        self._store.close()

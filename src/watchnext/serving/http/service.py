"""Serve the app of the current release with BentoML; `settings.py` lists the environment variables."""

import os

# These must be set before bentoml is imported. Tracing took most of a request's time. The metrics belong to one process: with
# the folder that BentoML sets for several, prometheus_client would write files that another server on this machine deletes.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import signal
import sys
import traceback
from types import FrameType

import bentoml
import click
import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send

from watchnext.serving.http.settings import Settings
from watchnext.serving.http.shell import connections
from watchnext.serving.http.shell.logs import configure
from watchnext.serving.http.shell.served_app import HOST, PORT, START_ERRORS, ServedApp, bound

SUPERVISOR = "_WATCHNEXT_SUPERVISOR"  # environment variable of the workers: id of the process that starts them


def check_address(settings: Settings) -> None:
    """Raise SettingsError where the address of `bentoml serve`, or else the default one, must or can not be opened."""
    context = click.get_current_context(silent=True)
    options = context.params if context else {}
    host, port = options.get("host") or HOST, options.get("port") or PORT
    settings.check_address(host)
    bound(host, port, "bentoml serve").close()


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
# BentoML's worker leaves the choice of a protocol to uvicorn, which finds it here.
uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{connections.__name__}:{connections.BoundedProtocol.__name__}"


class AppOnly:
    """Answer every request with the app: BentoML's own routes before it know neither keys nor the release."""

    def __init__(self, app: ASGIApp) -> None:
        self._bento = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._bento if scope["type"] == "lifespan" else proxy)(scope, receive, send)


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
            settings = Settings.from_environment()
            check_address(settings)
            settings.check()
        except START_ERRORS as error:
            raise SystemExit(str(error)) from None
        os.environ[SUPERVISOR] = str(os.getpid())
        signal.signal(signal.SIGUSR1, give_up)  # other signals end BentoML's supervisor with status 0

    def __init__(self) -> None:
        try:
            settings = Settings.from_environment()
            configure(settings.log)
            self._served = ServedApp(settings)
        except Exception as error:
            end_server(error)
        proxy.app = self._served.app

    @bentoml.on_shutdown
    def close(self) -> None:
        self._served.close()


Watchnext.add_asgi_middleware(AppOnly)

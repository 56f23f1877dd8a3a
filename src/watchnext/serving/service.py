"""The BentoML door: loads the current release and serves the app; `watchnext.serving.variables` says what sets it."""

import os

# Before bentoml is imported. Tracing was most of a request's cost, and the metrics here belong to one process: with the
# folder that BentoML sets for many, prometheus_client would write them to files, which another server on this machine wipes.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import gc

import bentoml
from starlette.types import ASGIApp, Receive, Scope, Send

from watchnext.serving.app import Settings, create_app
from watchnext.serving.clock import Clock
from watchnext.serving.manifest import ReleaseError
from watchnext.serving.recommender import Recommender
from watchnext.serving.release import Release, current
from watchnext.serving.served import ServedLog
from watchnext.serving.store import Store, StoreError
from watchnext.serving.variables import VariableError, Variables

SERVED_BYTES = 1 << 30
SERVED_ROWS = 500
BUDGET_MS = 500.0  # later than this, a slate goes out in retrieval order


class Door:
    """What is mounted when the module is imported; it leads somewhere once a release is loaded."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


door = Door()


@bentoml.service(
    http={"host": "127.0.0.1", "port": 3000},
    workers=1,  # the store has one writer, and its arrays live in this process
    traffic={"timeout": 30},  # the app sheds load and gives up long before
    metrics={"enabled": False},  # BentoML's are labelled by raw path; the app has its own at /metrics
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(door, path="/")
class Watchnext:
    @bentoml.on_deployment
    def check() -> None:
        """Once, before a port is opened: an error in `__init__` would restart the worker for ever, with the port open."""
        try:
            Variables.of(os.environ).check()
        except (VariableError, ReleaseError, StoreError) as error:
            raise SystemExit(str(error)) from None

    def __init__(self) -> None:
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

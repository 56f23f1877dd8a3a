"""The BentoML door: loads the current release and serves the app. Only WATCHNEXT_* variables set it.

WATCHNEXT_RELEASES (releases)   WATCHNEXT_STORE (store)   WATCHNEXT_SERVED (outputs/served)
WATCHNEXT_CLOCK    release (time starts where the release's state ends) or wall; unset, the release says
"""

import os

# Before bentoml is imported. Tracing was most of a request's cost, and the metrics here belong to one process: with the
# folder that BentoML sets for many, prometheus_client would write them to files, which another server on this machine wipes.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("OTEL_SDK_DISABLED", "true")
os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

import gc
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bentoml
from starlette.types import Receive, Scope, Send

from watchnext.serving.app import Settings, create_app
from watchnext.serving.environment import StoreError
from watchnext.serving.manifest import ReleaseError
from watchnext.serving.recommender import Recommender
from watchnext.serving.release import CLOCKS, Release, current
from watchnext.serving.served import ServedLog
from watchnext.serving.store import Store

SERVED_BYTES = 1 << 30
SERVED_ROWS = 500
BUDGET_MS = 500.0  # later than this, a slate goes out in retrieval order
FOLDERS = {"releases": "releases", "store": "store", "served": "outputs/served"}


class VariableError(ValueError):
    """A WATCHNEXT_* variable that cannot be obeyed."""


@dataclass(frozen=True, kw_only=True)
class Variables:
    releases: Path
    store: Path
    served: Path
    clock: str | None

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Variables":
        clock = variables.get("WATCHNEXT_CLOCK") or None
        if clock not in (None, *CLOCKS):
            raise VariableError(f"WATCHNEXT_CLOCK is {clock!r}, expected {' or '.join(CLOCKS)}; set it so, or unset it")
        folders = {name: Path(variables.get(f"WATCHNEXT_{name.upper()}") or path) for name, path in FOLDERS.items()}
        return cls(clock=clock, **folders)


class Clock:
    """Milliseconds, each call later than the one before: an event is known strictly before the next request's time.

    `start_ms` None is the wall clock. Above a thousand calls a second it runs ahead, and waits when calls are fewer.
    """

    def __init__(self, start_ms: int | None = None) -> None:
        self._lock = threading.Lock()
        self._last = -1
        self._offset_ms = None if start_ms is None else start_ms - self._monotonic_ms()

    @staticmethod
    def _monotonic_ms() -> int:
        return time.monotonic_ns() // 1_000_000

    def __call__(self) -> int:
        now = time.time_ns() // 1_000_000 if self._offset_ms is None else self._monotonic_ms() + self._offset_ms
        with self._lock:
            self._last = max(now, self._last + 1)
            return self._last


class Door:
    """Mounted when the module is imported; opens once a release is loaded."""

    app = None

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
            from watchnext.serving.environment import Environment, locked; l = locked("/tmp/w/c2/run/store"); e = Environment("/tmp/w/c2/run/store/current", durable=True, map_bytes=16 << 30); print(e.get("meta", b"state")); e.close(); l.close()
        except (VariableError, ReleaseError, StoreError) as error:
            raise SystemExit(str(error)) from None


    def __init__(self) -> None:
        variables = Variables.of(os.environ)
        release, self._store = _open(variables)
        self._served = ServedLog(variables.served, max_bytes=SERVED_BYTES, flush_rows=SERVED_ROWS)
        starts_at = max(release.as_of_ms, self._store.last_known_at + 1)
        clock = Clock(starts_at if (variables.clock or release.clock) == "release" else None)
        recommender = Recommender(release, self._store, budget_ms=BUDGET_MS)
        recommender.warm()
        self._app = create_app(
            recommender=recommender, store=self._store, served=self._served, clock=clock, settings=Settings()
        )
        door.app = self._app
        # A full collection would stop the worker for 60 to 160 ms; what is loaded now stays anyway.
        gc.collect()
        gc.freeze()

    @bentoml.on_shutdown
    def close(self) -> None:
        self._app.state.close()
        self._served.close()
        self._store.close()


def _open(variables: Variables) -> tuple[Release, Store]:
    release = Release.load(current(variables.releases))
    return release, Store.open(variables.store, release)

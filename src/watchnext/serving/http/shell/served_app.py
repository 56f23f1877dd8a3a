"""Open everything that a server needs, build its app, close everything: the same under BentoML and without it."""

import gc
import socket

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
START_ERRORS = (SettingsError, ReleaseError, StoreError)


class ServedApp:
    """The app of the current release with its store and served log. Raises one of START_ERRORS where it cannot be opened.

    `app` is the ASGI app, ready to answer.
    """

    def __init__(self, settings: Settings) -> None:
        release = Release.load(current(settings.releases))
        kept = {"viewers": settings.viewers_kept, "live_videos": settings.live_videos}
        bounds = Bounds(**kept, journal_bytes=settings.journal_bytes)
        store = self._store = Store.open(settings.store, release, bounds=bounds)
        self._served_log = ServedLog(settings.served, max_bytes=SERVED_LOG_BYTES, flush_rows=SERVED_LOG_ROWS)
        recommender = Recommender(release, store, budget_ms=BUDGET_MS)
        recommender.warm()
        starts_at = max(release.as_of_ms, store.last_known_at + 1)
        kind = settings.clock or release.clock
        clock = Clock(starts_at if kind == "release" else None)
        recommender.refresh(clock())
        self.app = create_app(
            recommender=recommender,
            store=store,
            served_log=self._served_log,
            clock=clock,
            limits=Limits(),
            access=settings.access(clock=kind),
            drift=settings.drift,
        )
        # A full garbage collection would stop the worker for 60 to 160 ms; everything loaded so far stays anyway.
        gc.collect()
        gc.freeze()

    def close(self) -> None:
        """Wait for running requests, and until every event and answer is on disk."""
        self.app.state.close()
        self._served_log.close()
        self._store.close()


def bound(host: str, port: int, command: str) -> socket.socket:
    """Return a socket that holds the port and does not listen yet. Raises SettingsError where it is taken.

    `command` starts the server, and is printed with another port.
    """
    holder = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port that was just closed is free
    try:
        holder.bind((host, port))
    except OSError as error:
        holder.close()
        raise SettingsError(
            f"port {port} of {host} is taken or not allowed ({error.strerror}); stop the program that listens there, "
            f"or use another port: `{command} --port {port + 1}`"
        ) from error
    return holder

"""Open everything that a server needs, build its app, close everything: the same under BentoML and without it."""

import gc
import socket
import sys
from functools import partial
from pathlib import Path

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.http.app import Limits, create_app
from watchnext.serving.http.canary.guards import Guards
from watchnext.serving.http.clock import Clock
from watchnext.serving.http.settings import Settings, SettingsError
from watchnext.serving.http.shell.connections import BoundedProtocol
from watchnext.serving.http.swap.admin import admin_routes
from watchnext.serving.http.swap.canary_control import CanaryControl
from watchnext.serving.http.swap.release_fetcher import ReleaseFetcher
from watchnext.serving.http.swap.release_switch import ReleaseSwitch, warmed
from watchnext.serving.http.swap.served_releases import ServedReleases, checked, first_that_opens
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release_url import ReleaseUrl, fetched
from watchnext.serving.store.engines.engine import StoreError
from watchnext.serving.store.hand_over import StoreSuccession
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.retention import Bounds

SERVED_LOG_BYTES = 1 << 30
SERVED_LOG_ROWS = 500
BUDGET_MS = 500.0  # a slate that takes longer is answered in retrieval order
SWITCH_S = 0.0005  # a request lends the interpreter to the writer at each call that needs none, and waits this long for it
HOST, PORT = "127.0.0.1", 3000
START_ERRORS = (SettingsError, ReleaseError, StoreError)


class ServedApp:
    """The app of the current release with its store and served log. Raises one of START_ERRORS where it cannot be opened.

    `app` is the ASGI app, ready to answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings, served = settings, ServedReleases(settings.served_releases)
        url = ReleaseUrl(settings.releases_url) if settings.releases_url else None
        if url:
            fetched(url, settings.releases)
        recommender = first_that_opens(settings.releases, served, self._opened)
        release, store = recommender.release, recommender.store
        self._served_log = ServedLog(settings.served, max_bytes=SERVED_LOG_BYTES, flush_rows=SERVED_LOG_ROWS)
        starts_at = max(release.as_of_ms, store.last_known_at + 1)
        kind = settings.clock or release.clock
        clock, limits = Clock(starts_at if kind == "release" else None), Limits()
        recommender.refresh(clock())
        self.app = create_app(
            recommender=recommender,
            store=store,
            served_log=self._served_log,
            clock=clock,
            limits=limits,
            access=settings.access(clock=kind),
            drift=settings.drift,
        )
        # The shells make connections from the class.
        BoundedProtocol.shedding, BoundedProtocol.look_ups = self.app.state.shedding, self.app.state.look_ups
        served.record(release.id)
        self._switch = self._followed(clock, limits, served, url)
        self._fetcher = ReleaseFetcher(url, settings.releases, self._switch.refuse) if url else None
        sys.setswitchinterval(SWITCH_S)
        # A full garbage collection would stop the worker for 60 to 160 ms; everything loaded so far stays anyway.
        gc.collect()
        gc.freeze()
        self._switch.start()
        if self._fetcher:
            self._fetcher.start()

    def _opened(self, folder: Path) -> Recommender:
        release, settings = checked(folder), self._settings
        kept = {"viewers": settings.viewers_kept, "live_videos": settings.live_videos}
        bounds = Bounds(**kept, journal_bytes=settings.journal_bytes)
        store = Store.open(settings.store, release, bounds=bounds)
        try:
            return warmed(release, store, budget_ms=BUDGET_MS)
        except ReleaseError:
            store.close()
            raise

    def _followed(self, clock: Clock, limits: Limits, served: ServedReleases, url: ReleaseUrl | None) -> ReleaseSwitch:
        """Make the switch that follows `current`, and the admin routes that move it."""
        state, root, settings = self.app.state, self._settings.releases, self._settings
        shared = {"serving": state.serving, "commits": state.commits, "pool": state.pool, "clock": clock}
        shared |= {"succession": StoreSuccession(settings.store), "grace_s": limits.timeout_s}
        canaries = CanaryControl(
            root,
            metrics=state.metrics,
            report=settings.canary_report,
            warmed=partial(warmed, budget_ms=BUDGET_MS),
            shadow_cpu=settings.shadow_cpu,
            guards=Guards(),
            **shared,
        )
        switch = ReleaseSwitch(root, served=served, canaries=canaries, budget_ms=BUDGET_MS, url=url, **shared)
        run = partial(state.pool.run, timeout_s=limits.timeout_s)
        self.app.include_router(admin_routes(switch, state.serving, root, run, self._waiting))
        return switch

    def _waiting(self) -> dict[str, int]:
        state = self.app.state
        waiting = {"waiting_events": state.commits.waiting, "waiting_requests": state.pool.in_use}
        return waiting | {"waiting_answers": self._served_log.waiting}

    def close(self) -> None:
        """Wait for running requests, and until every event and answer is on disk."""
        if self._fetcher:
            self._fetcher.close()
        self._switch.close()
        self.app.state.close()
        self._served_log.close()
        self.app.state.serving.store.close()


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

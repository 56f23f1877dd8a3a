"""Follow `releases/canary.json`: load the challenger, let it answer, watch its guards, and end it."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from watchnext.files import replaced
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.http.canary.canary import Canary
from watchnext.serving.http.canary.follower import StoreFollower
from watchnext.serving.http.canary.guards import Guards
from watchnext.serving.http.clock import Clock
from watchnext.serving.http.swap.served_releases import checked_beside
from watchnext.serving.http.swap.serving import Serving
from watchnext.serving.http.worker_pool import WorkerPool
from watchnext.serving.release.canary_plan import FILE, CanaryPlan, end_plan, read_plan, require_challenger, write_plan
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.only_one import HeldError
from watchnext.serving.release.release import Release
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.hand_over import StoreSuccession
from watchnext.serving.store.store import Store

log = logging.getLogger(__name__)
REPORT_S = 10.0
SETTLE_S = 1.0  # the answer to a changed video waits this long at most for the challenger's store


class CanaryControl:
    """Try one challenger at a time. The thread of the switch calls everything but `end`, which any thread may.

    report    file of the counts, which outlives the canary
    warmed    makes a recommender that has answered once
    grace_s   time after which every request that arrived before the end has an answer
    """

    def __init__(
        self,
        root: Path,
        *,
        serving: Serving,
        commits: GroupCommit,
        metrics: ServerMetrics,
        pool: WorkerPool,
        clock: Clock,
        succession: StoreSuccession,
        report: Path,
        warmed: Callable[[Release, Store], Recommender],
        shadow_cpu: float,
        grace_s: float,
        guards: Guards,
    ) -> None:
        self._root, self._serving, self._commits, self._metrics = Path(root), serving, commits, metrics
        self._pool, self._clock, self._succession, self._report = pool, clock, succession, Path(report)
        self._warmed, self._shadow_cpu, self._grace_s, self._guards = warmed, shadow_cpu, grace_s, guards
        self._lock, self._wanted = threading.Lock(), None
        self._file: tuple | None = None  # identity of the plan's file when it was followed last
        self._ended: list[Canary] = []  # with requests that arrived before their end
        self._report_due = 0.0

    # ---- what is wanted ----------------------------------------------------------------------------------------------

    def moved(self) -> tuple[str, Callable[[], None], Future] | None:
        """Return the task of following the plan where its file was replaced since it was followed last."""
        if (identity := _identity(self._root / FILE)) == self._file:
            return None
        self._file, plan = identity, read_plan(self._root)
        if plan is None or plan.ended:
            with self._lock:
                self._wanted = None
            self._detach((plan and plan.ended) or f"{FILE} is gone, or cannot be read")
            return None
        return plan.release, partial(self._follow, plan), Future()

    def _follow(self, plan: CanaryPlan) -> None:
        try:
            self._start(plan)
        except Exception as error:
            self.end(f"refused: {error}", release=plan.release)
            raise

    def begin(self, plan: CanaryPlan) -> None:
        """Try a release, and then write the plan for all servers of the folder. Raises ReleaseError and StoreError."""
        self._start(plan)
        try:
            with self._lock:
                if self._wanted is plan:
                    write_plan(self._root, plan)
        except (OSError, HeldError) as error:  # a full disk: a canary that no restart and no other server knows must not go on
            self.end(f"{self._root / FILE} cannot be written: {error}", release=plan.release)
            raise

    def end(self, reason: str, *, release: str | None = None) -> bool:
        """Let the champion answer everyone at once, on this server; others follow the file. Returns False without a canary.

        With `release`, the plan of another release, which was written meanwhile, stays: this server follows it next.
        """
        with self._lock:
            was_wanted, self._wanted = self._wanted is not None, None
            try:
                was_wanted |= end_plan(self._root, reason, release=release) is not None
            except (OSError, ReleaseError, HeldError) as error:  # a full disk, or a damaged file: here it ends all the same
                log.error("%s cannot be replaced, other servers go on with the canary: %s", self._root / FILE, error)
        return self._detach(reason) or was_wanted

    # ---- the challenger ----------------------------------------------------------------------------------------------

    def _start(self, plan: CanaryPlan) -> None:
        if (running := self._serving.canary) is not None and running.plan.release == plan.release:
            running.plan = self._wanted = plan
            return
        folder = require_challenger(self._root, plan)
        if not os.access(self._root, os.W_OK):
            raise ReleaseError(f"{self._root} is read-only, expected a folder where a canary that must end can be marked so")
        self._detach(f"{plan.release} is tried instead")
        self.clean()
        with self._lock:
            self._wanted = plan
        log.info("loading the release %s as challenger of %s", plan.release, self._serving.release_id)
        store, champion = self._serving.store, self._serving.recommender.release
        release = checked_beside(folder, champion)
        _require_same_requests(release, champion)
        successor = self._succession.prepare(store, release, champion.state_fingerprint)
        try:
            canary = self._loaded(plan, release, successor)
            with self._lock:
                if self._wanted is not plan:
                    canary.close()
                    raise ReleaseError(f"the canary of {plan.release} was rolled back while it was loaded")
                self._serving.canary = canary
        except BaseException:
            store.known_beside = None
            self._succession.drop(store, successor)
            raise
        log.info("the release %s answers %g of the viewers and scores %g of the others", plan.release, plan.share, plan.shadow)

    def _loaded(self, plan: CanaryPlan, release: Release, successor: Store) -> Canary:
        serving, store, follower = self._serving, self._serving.store, None
        has_own = release.state_fingerprint != serving.recommender.release.state_fingerprint
        recommender = self._warmed(release, successor)
        self._clock.advance_to(release.as_of_ms)
        recommender.refresh(max(self._clock(), release.as_of_ms))
        settled = (lambda: follower.has(store.position, SETTLE_S)) if has_own else None
        handlers, videos = serving.make(recommender=recommender, store=successor, settled=settled)
        if has_own:
            store.known_beside = successor.catalogue.ids
            follower = StoreFollower(store, partial(self._succession.follow, store, successor))
        return Canary(
            plan,
            champion=serving.handlers,
            serving=serving.recommender,
            recommender=recommender,
            handlers=handlers,
            videos=videos,
            commits=self._commits,
            metrics=self._metrics,
            follower=follower,
            shadow_cpu=self._shadow_cpu,
            guards=self._guards,
        )

    def take(self, name: str) -> Canary | None:
        """Take the challenger out where it is the release `name`, which is to serve; else end a canary. The champion answers
        everyone meanwhile."""
        if (canary := self._serving.canary) is None:
            return None
        if canary.plan.release != name:
            self.end(f"{name} is promoted", release=canary.plan.release)
            self.clean()
            return None
        with self._lock:
            self._wanted = self._serving.canary = None
        self._write(canary, ended="promoted")
        canary.close()
        self._serving.store.known_beside = None
        return canary

    def watch(self) -> None:
        """End a canary of which a guard is broken, and write the counts of one that goes on."""
        if (canary := self._serving.canary) is not None:
            if reason := self._broken(canary):
                log.error("the canary of %s is rolled back: %s", canary.plan.release, reason)
                self.end(f"rolled back: {reason}", release=canary.plan.release)
            elif time.monotonic() >= self._report_due:
                self._write(canary, ended=None)
        self.clean()

    @staticmethod
    def _broken(canary: Canary) -> str | None:
        try:
            return canary.broken()
        except Exception as error:  # what cannot be judged must not go on
            log.exception("the guards of a canary failed")
            return f"its guards failed: {type(error).__name__}: {error}"

    def _detach(self, reason: str) -> bool:
        with self._lock:
            canary, self._serving.canary = self._serving.canary, None
            if canary is not None:
                self._ended.append(canary)
        if canary is not None:
            log.warning(
                "the canary of %s ended, %s answers everyone: %s", canary.plan.release, self._serving.release_id, reason
            )
            self._write(canary, ended=reason)
        return canary is not None

    def clean(self) -> None:
        """Close the challengers that ended, once no request reads them."""
        while self._ended:
            time.sleep(self._grace_s)
            self._pool.drain()
            canary = self._ended.pop()
            canary.close()
            self._serving.store.known_beside = None
            self._succession.drop(self._serving.store, canary.store)

    def close(self) -> None:
        """Stop the threads of the challenger; the plan stays, and the next server goes on with it."""
        if (canary := self._serving.canary) is not None:
            self._write(canary, ended=None)
            self._ended.append(canary)
            self._serving.canary, self._grace_s = None, 0.0
        self.clean()

    def _write(self, canary: Canary, *, ended: str | None) -> None:
        self._report_due = time.monotonic() + REPORT_S
        try:
            self._report.parent.mkdir(parents=True, exist_ok=True)
            replaced(self._report, json.dumps(canary.report() | {"ended": ended}, indent=1))
        except OSError as error:
            log.warning("%s cannot be written: %s", self._report, error)


def _require_same_requests(release: Release, champion: Release) -> None:
    """Raise ReleaseError for a challenger that other requests are made for."""
    for name, of in (
        ("context features", lambda each: sorted(feature.name for feature in each.pipeline.schema.columns("context"))),
        ("strings as ids of videos", lambda each: each.video_ids.are_strings),
        ("strings as ids of viewers", lambda each: each.user_ids.are_strings if len(each.user_ids.ids) else None),
    ):
        if (own := of(release)) != (expected := of(champion)) and None not in (own, expected):
            raise ReleaseError(
                f"{release.id} has {name}: {own}, but {champion.id} has {expected}; viewers of both send the same requests, so "
                "promote it instead of trying it"
            )


def _identity(path: Path) -> tuple | None:
    """Return what differs when a file is replaced."""
    try:
        found = os.stat(path)
        return found.st_ino, found.st_mtime_ns
    except OSError:
        return None

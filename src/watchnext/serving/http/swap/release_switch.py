"""Follow `releases/current` in a running server: load a new release aside, check it, switch, and refuse by name what is bad."""

import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from watchnext.files import link
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.clock import Clock
from watchnext.serving.http.swap.canary_control import CanaryControl
from watchnext.serving.http.swap.served_releases import ServedReleases, checked_beside
from watchnext.serving.http.swap.serving import Refusal, Serving
from watchnext.serving.http.worker_pool import WorkerPool
from watchnext.serving.release.canary_plan import CanaryPlan
from watchnext.serving.release.manifest import REPAIR, ReleaseError
from watchnext.serving.release.only_one import ROLLBACK_S, moving
from watchnext.serving.release.release import Release, current, release_in, verdict_of
from watchnext.serving.release.release_url import ReleaseUrl
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.hand_over import StoreSuccession
from watchnext.serving.store.store import Store

log = logging.getLogger(__name__)
POLL_S = 1.0
TELL_S = 5.0
REFUSALS_KEPT = 20


class ReleaseRefusedError(RuntimeError):
    """A release that does not serve, with the reason."""


class ReleaseSwitch:
    """Let one release after another serve. One thread does it all, so that two never load at once.

    root      folder of the releases
    canaries  try a challenger beside the release that serves
    budget_ms as in `Recommender`
    grace_s   time after which every request that arrived before a switch has an answer
    url       where promotions and rollbacks are pushed to for other servers, None: they share the folder, or there are none
    refused   the last releases that were refused, by name
    """

    def __init__(
        self,
        root: Path,
        *,
        serving: Serving,
        commits: GroupCommit,
        pool: WorkerPool,
        clock: Clock,
        served: ServedReleases,
        succession: StoreSuccession,
        canaries: CanaryControl,
        budget_ms: float,
        grace_s: float,
        url: ReleaseUrl | None = None,
    ) -> None:
        self._canaries, self._url = canaries, url
        self._root, self._serving, self._commits, self._pool, self._clock = Path(root), serving, commits, pool, clock
        self._served, self._succession, self._budget_ms, self._grace_s = served, succession, budget_ms, grace_s
        self.refused: dict[str, Refusal] = {}
        self._link: tuple | None = None  # the link when it was followed last
        self._retired: Store | None = None  # with requests that arrived before the last switch
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release-switch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; a release that is being loaded does not serve any more. A second call does nothing."""
        self._stopping.set()
        self._succession.stop()
        self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join()
        self._canaries.close()

    @property
    def before(self) -> str | None:
        """The release that served before this one."""
        return self._served.before

    def promote(self, name: str) -> Future[None]:
        """Let the release `name` serve, and point `current` at it. The future raises ReleaseRefusedError."""
        task = name, partial(self._promote, name), Future()
        if self._url is None:
            self._tasks.put(task)
        else:
            threading.Thread(target=self._upload_first, args=(self._url, task), name="release-upload", daemon=True).start()
        return task[2]

    def begin_canary(self, plan: CanaryPlan) -> Future[None]:
        """Try a release on a share of viewers. The future raises ReleaseRefusedError."""
        return self._asked(plan.release, partial(self._canaries.begin, plan))

    def rollback(self) -> Future[None]:
        """End a canary at once; without one, let the release serve that did before. The future raises ReleaseRefusedError."""
        if self._canaries.end("rolled back by an administrator"):
            done: Future = Future()
            done.set_result(None)
            return done
        return self._asked(self.before or "the one before", self._rollback)

    def _asked(self, name: str, act: Callable[[], None]) -> Future[None]:
        future: Future = Future()
        self._tasks.put((name, act, future))
        return future

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                task = self._tasks.get(timeout=POLL_S)
            except queue.Empty:
                task = self._moved_link() or self._canaries.moved()
            if task:
                self._do(*task)
                self._retire()
            self._canaries.watch()

    def _moved_link(self) -> tuple | None:
        """Return the task of following `current` where it was moved, or made anew, since it was followed last."""
        if (link_now := _identity(self._root / "current")) == self._link:
            return None
        self._link = link_now
        return link_now[0] if link_now else "current", self._follow, Future()

    def _do(self, name: str, act: Callable[[], None], future: Future) -> None:
        try:
            act()
        except Exception as error:
            if self._stopping.is_set():
                reason = "the server is stopping"
            else:
                reason = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
                self.refuse(name, reason)
            future.set_exception(ReleaseRefusedError(reason))
        else:
            self._serving.refused = None
            future.set_result(None)

    def refuse(self, name: str, reason: str | None) -> None:
        """State why a release that was to serve does not; None where what was in its way is gone."""
        if reason is None:
            self._serving.refused = None
            return
        log.error("the release %s is refused, %s goes on serving: %s", name, self._serving.release_id, reason)
        self._serving.refused = self._refusal(name, reason)

    def _refusal(self, name: str, reason: str) -> Refusal:
        """Return a refusal, which is listed from now on."""
        refusal = Refusal(release=name, reason=reason, at=datetime.now(UTC).isoformat(timespec="seconds"))
        self.refused.pop(name, None)
        self.refused = dict([*self.refused.items(), (name, refusal)][-REFUSALS_KEPT:])
        return refusal

    # ---- which release -----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        folder = current(self._root)
        self._switch(folder, back=folder.name == self.before)  # a rollback by the command, which moves the link

    def _promote(self, name: str) -> None:
        self._point(self._promotable(name))

    def _promotable(self, name: str) -> Path:
        folder = release_in(self._root, name)
        if lost := verdict_of(folder):
            raise ReleaseError(
                f"the slate of {name} lost to the baseline {', '.join(lost)}; to let it serve all the same, run "
                f"`python -m watchnext.lifecycle promote release={name} force=true`"
            )
        return folder

    def _rollback(self) -> None:
        if self.before is None:
            raise ReleaseError(f"no release served before {self._serving.release_id}; promote one by its id")
        self._point(release_in(self._root, self.before), back=True)

    def _point(self, folder: Path, *, back: bool = False) -> None:
        """Switch, and then move the link, so that it never names a release that cannot serve."""
        if not os.access(self._root, os.W_OK):
            raise ReleaseError(f"{self._root} is read-only; point its link `current` at {folder.name} where it can be written")
        with moving(self._root, wait_s=ROLLBACK_S if back else 0.0):
            self._switch(folder, back=back)
            link(self._root, "current", folder.name)
            self._link = _identity(self._root / "current")
        if self._url:
            threading.Thread(target=self._tell, args=(self._url, folder, back), name="release-teller", daemon=True).start()

    def _upload_first(self, url: ReleaseUrl, task: tuple) -> None:
        """Upload a release in a thread of its own, which may take minutes, and only then let it serve."""
        name, act, future = task
        try:
            url.upload(self._promotable(name))
        except Exception as error:
            act = partial(_raise, error)
        self._tasks.put((name, act, future))

    def _tell(self, url: ReleaseUrl, folder: Path, back: bool) -> None:
        """Let other servers take what serves here, as soon as the URL answers: a rollback must not wait for it."""
        was_refused = False
        while self._serving.release_id == folder.name and not self._stopping.is_set():
            try:
                if back:  # a promotion was uploaded before
                    url.upload(folder)
                url.point(folder)
            except Exception as error:
                was_refused = True
                log.error("%s serves here alone, the URL is tried again in %g s: %s", folder.name, TELL_S, error)
                self._serving.refused = self._refusal(url.url, f"other servers do not know that {folder.name} serves: {error}")
                self._stopping.wait(TELL_S)
            else:
                if was_refused:
                    self.refuse(url.url, None)
                return

    # ---- the switch --------------------------------------------------------------------------------------------------

    def _switch(self, folder: Path, *, back: bool) -> None:
        if folder.name == self._serving.release_id:
            return
        store, now = self._serving.store, self._serving.recommender.release
        tried = self._canaries.take(folder.name)
        release, successor = (tried.recommender.release, tried.store) if tried else self._prepared(folder)
        try:
            recommender = tried.recommender if tried else warmed(release, successor, budget_ms=self._budget_ms)
            recommender.refresh(max(self._clock(), release.as_of_ms))
            self._commits.hand_over(partial(self._complete, store, successor, recommender, back)).result()
        except BaseException:
            self._succession.drop(store, successor)
            raise
        finally:
            if tried:
                outcome = "promoted" if self._serving.release_id == release.id else "its promotion failed"
                self._canaries.end(outcome, release=release.id)
        log.info("the release %s serves", release.id)
        if release.state_fingerprint == now.state_fingerprint:
            store.close(successor=successor)  # what its last requests read stays open
        else:
            self._retired = store

    def _prepared(self, folder: Path) -> tuple[Release, Store]:
        log.info("loading the release %s beside %s", folder.name, self._serving.release_id)
        now = self._serving.recommender.release
        release = checked_beside(folder, now)
        return release, self._succession.prepare(self._serving.store, release, now.state_fingerprint)

    def _complete(self, store: Store, successor: Store, recommender: Recommender, back: bool) -> Store:
        """Switch store and handlers while no event is committed. A server that dies here starts with either."""
        names = self._served.names
        self._served.record(recommender.release.id, back=back)
        try:
            self._succession.complete(store, successor)
        except BaseException:
            self._served.restore(names)
            raise
        self._clock.advance_to(recommender.release.as_of_ms)
        self._serving.become(recommender=recommender, store=successor)
        return successor

    def _retire(self) -> None:
        """Close a store that no longer serves, once no request reads it."""
        if self._retired is not None:
            self._stopping.wait(self._grace_s)
            self._pool.drain()
            self._retired.close(successor=self._serving.store)
            self._retired = None


def warmed(release: Release, store: Store, *, budget_ms: float) -> Recommender:
    """Return a recommender that has answered once. Raises ReleaseError if a part of it fails."""
    recommender = Recommender(release, store, budget_ms=budget_ms)
    if failed := recommender.warm().degradations:
        raise ReleaseError(f"{release.folder}: {'; '.join(each.text for each in failed)}; run `{REPAIR}`")
    return recommender


def _raise(error: Exception) -> None:
    raise error


def _identity(path: Path) -> tuple | None:
    """Return the target of a link with what differs when the same link is made again."""
    try:
        stat = os.lstat(path)
        return os.readlink(path), stat.st_ino, stat.st_mtime_ns
    except OSError:
        return None

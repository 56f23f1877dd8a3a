"""Answer the viewers of a canary by the challenger, count both arms, and say when a guard is broken."""

import logging
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api.handlers import OWN_IMPRESSIONS_S, STORED, Handlers, parsed_id
from watchnext.serving.http.api.metrics import ServerMetrics
from watchnext.serving.http.api.schemas import RecommendRequest
from watchnext.serving.http.canary.arm_counts import ArmCounts
from watchnext.serving.http.canary.follower import StoreFollower
from watchnext.serving.http.canary.guards import Guards, watch_change
from watchnext.serving.http.canary.shadow import Shadow
from watchnext.serving.http.worker_pool import TooSlowError
from watchnext.serving.release.canary_plan import CHALLENGER, CONTROL, CanaryPlan
from watchnext.serving.store.erasure import Receipt
from watchnext.serving.store.group_commit import GroupCommit
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event, session_id
from watchnext.types import Request

log = logging.getLogger(__name__)
FOLLOWS_S = 0.1  # a request waits this long at most for the challenger's store
CHAMPION = "champion"
WITHDRAWN = "unavailable"  # a rule that a video may break because it was withdrawn while the slate was made


class BrokenRuleError(RuntimeError):
    """An answer that hard rules of the serving release forbid: `rules`."""

    def __init__(self, rules: list[str]) -> None:
        super().__init__(f"the answer breaks {', '.join(rules)}")
        self.rules = rules


class BehindError(RuntimeError):
    """A challenger's store that lacks events which were acknowledged before the request."""


class Canary:
    """A challenger beside the release that serves. Any thread may call it.

    What the challenger cannot answer, the serving release does: an error, an answer that breaks a hard rule of the serving
    release, a store that is behind. Each counts against the challenger.

    recommender, handlers, videos  of the challenger
    follower                       None where both releases have one state, and so one store
    plan                           may be replaced by one with other shares
    """

    def __init__(
        self,
        plan: CanaryPlan,
        *,
        champion: Handlers,
        serving: Recommender,
        recommender: Recommender,
        handlers: Handlers,
        videos: Any,
        commits: GroupCommit,
        metrics: ServerMetrics,
        follower: StoreFollower | None,
        shadow_cpu: float,
        guards: Guards,
    ) -> None:
        self._plan, self._champion, self._serving, self._commits = plan, champion, serving, commits
        self.recommender, self.handlers, self.videos, self.follower = recommender, handlers, videos, follower
        self._metrics, self._guards = metrics, guards
        self._arms = {name: ArmCounts() for name in (CHALLENGER, CHAMPION)}
        ids = serving.catalogue.ids
        self._shadow = Shadow(recommender, ids, name=plan.release, share=plan.shadow, cpu=shadow_cpu, metrics=metrics)

    @property
    def plan(self) -> CanaryPlan:
        return self._plan

    @plan.setter
    def plan(self, plan: CanaryPlan) -> None:
        self._plan, self._shadow.share = plan, plan.shadow

    @property
    def store(self) -> Store:
        return self.recommender.store

    # ---- calls of viewers --------------------------------------------------------------------------------------------

    def _arm_of(self, body: Any) -> str | None:
        """Return the arm of a body's viewer; None for nobody, and for a slate that may have been stored for the champion."""
        viewer = viewer_of(body)
        return None if viewer is None or body.mode in STORED else self._plan.arm_of(viewer)

    def recommend(self, body: RecommendRequest, *, request_id: str, until: float) -> dict:
        """Return a RecommendResponse of the viewer's arm. Raises as `Handlers.recommend`."""
        call, arm = {"request_id": request_id, "until": until}, self._arm_of(body)
        if arm != CHALLENGER:
            return self._by_champion(body, call, is_control=arm == CONTROL)
        try:
            return self._by_challenger(body, call)
        except TooSlowError:
            self._failed(CHALLENGER)
            raise
        except Exception as error:
            slate = self._champion.recommend(body, **call)  # which raises what is wrong with the request
            self._blame(error, request_id)
            self._shown(CHALLENGER, body, slate)
            return slate

    def _by_challenger(self, body: RecommendRequest, call: dict) -> dict:
        began = time.perf_counter()
        self._require_current(viewer_of(body))
        slate = self.handlers.recommend(body, **call, inspect=lambda _: self._require_rules)
        self._answered(CHALLENGER, body, slate, began)
        self._shown(CHALLENGER, body, slate)
        return slate

    def _by_champion(self, body: RecommendRequest, call: dict, *, is_control: bool) -> dict:
        began = time.perf_counter()
        try:
            slate = self._champion.recommend(body, **call, inspect=self._shadow.inspect)
        except TooSlowError:
            self._failed(CHAMPION)
            raise
        self._answered(CHAMPION, body, slate, began)
        if is_control:
            self._shown(CHAMPION, body, slate)
        return slate

    def call(self, name: str, body: Any, *, request_id: str) -> dict:
        """Return the answer of the viewer's arm to `rank` or `retrieve`, which show nothing: a broken rule alone counts."""
        viewer = viewer_of(body)
        if viewer is not None and self._plan.arm_of(viewer) == CHALLENGER:
            try:
                self._require_current(viewer)
                return getattr(self.handlers, name)(body, request_id=request_id, inspect=self._require_each)
            except Exception as error:
                log.info("request %s is answered by the champion: %s", request_id, error)
                self._blame_rules(error)
        return getattr(self._champion, name)(body, request_id=request_id)

    def _require_current(self, viewer: Hashable) -> None:
        """Raise BehindError where the challenger's store lacks events that were acknowledged, or the viewer's last slate."""
        if self.follower is None:
            return
        self._commits.settle(viewer, OWN_IMPRESSIONS_S)
        if not self.follower.has(position := self._serving.store.position, FOLLOWS_S):
            raise BehindError(f"the challenger's store lacks events before {position}")

    def _require_rules(self, answer: Answer) -> None:
        """Raise BrokenRuleError for a slate that the champion's HARD filters forbid."""
        self._require_each(answer.request, answer.ids, one_slate=True)

    def _require_each(self, request: Request, ids: Sequence, *, one_slate: bool = False) -> None:
        """Raise BrokenRuleError for videos that the champion's HARD filters forbid; those it does not know pass."""
        rows = self._serving.catalogue.ids.rows(ids)
        request = replace(request, exclude=(), seed=None)  # which are the challenger's rows
        if broken := self._serving.broken(request, rows[rows >= 0], one_slate=one_slate):
            raise BrokenRuleError(broken)

    # ---- what is counted ---------------------------------------------------------------------------------------------

    def _answered(self, arm: str, body: RecommendRequest, slate: dict, began: float) -> None:
        seconds, short = time.perf_counter() - began, len(slate["items"]) < body.k
        self._arms[arm].answered(ms=1000.0 * seconds, degraded=slate["degraded"], short=short)
        self._metrics.arm(arm, "degraded" if slate["degraded"] else "short" if short else "whole", seconds)

    def _shown(self, arm: str, body: RecommendRequest, slate: dict) -> None:
        if not (body.preview or body.mirror):
            self._arms[arm].shown(viewer_of(body), len(slate["items"]))

    def _failed(self, arm: str) -> None:
        self._arms[arm].failed()
        self._metrics.arm(arm, "error")

    def _blame(self, error: Exception, request_id: str) -> None:
        """Count a request that the challenger could not answer, and the champion did."""
        self._failed(CHALLENGER)
        log.warning("request %s is answered by the champion: %s: %s", request_id, type(error).__name__, error)
        self._blame_rules(error)

    def _blame_rules(self, error: Exception) -> None:
        if isinstance(error, BrokenRuleError):
            self._arms[CHALLENGER].broke([name for name in error.rules if name != WITHDRAWN])

    def heard(self, events: Sequence[Event]) -> None:
        """Count the seconds of outcomes that were accepted."""
        arms = {CHALLENGER: self._arms[CHALLENGER], CONTROL: self._arms[CHAMPION]}
        for event in events:
            if event.kind == "outcome" and (arm := arms.get(self._plan.arm_of(event.user_id))) is not None:
                arm.watched(event.user_id, event.watch_ms / 1000.0)

    def broken(self) -> str | None:
        """Return why the challenger must not go on, None while it may."""
        if self.follower is not None and self.follower.failed:
            return f"the challenger's store does not follow: {self.follower.failed}"
        return self._guards.broken(self._arms[CHALLENGER], self._arms[CHAMPION])

    # ---- everything else ---------------------------------------------------------------------------------------------

    def alone_knows(self, text: str) -> bool:
        """Return True for the id in a path of a video that the challenger knows and the champion does not."""
        ids = self._serving.catalogue.ids, self.recommender.catalogue.ids
        of_champion, of_challenger = (int(each.rows([parsed_id(text, each)])[0]) for each in ids)
        return of_champion < 0 <= of_challenger

    def erase(self, user_id: int | str, now_ms: int) -> list[Receipt]:
        """Erase a viewer, who was erased from the champion's store, from what the challenger owns."""
        for arm in self._arms.values():
            arm.forget(user_id)
        receipts = [Receipt("traces of the challenger", {"answers": self.handlers.forget(user_id)})]
        if self.follower is not None:
            with self.follower.lock:  # so that no event from before the erasure follows
                receipts.append(replace(self.store.erase(user_id, now_ms), place="store of the challenger"))
        return receipts

    def close(self) -> None:
        """Stop scoring and following; the store stays open. A second call does nothing."""
        self._shadow.close()
        if self.follower is not None:
            self.follower.close()

    def summary(self) -> dict:
        """Return a CanaryStatus."""
        return {name: getattr(self._plan, name) for name in ("release", "share", "shadow", "began")}

    def report(self) -> dict:
        """Return all counts, JSON-ready."""
        change = watch_change(self._arms[CHALLENGER], self._arms[CHAMPION], least=self._guards.least_viewers)
        return {
            **self.summary(),
            "serves": self._serving.release.id,
            "arms": {name: arm.summary() for name, arm in self._arms.items()},
            "watch_change": None if change is None else change._asdict(),
            "scored_aside": self._shadow.summary(),
        }


def viewer_of(body: Any) -> int | str | None:
    """Return the id under which a body's viewer or session has its state; None for nobody."""
    if body.user_id is not None:
        return body.user_id
    return session_id(body.session) if body.session else None

"""Admin routes: which releases there are and which serves, promote, roll back, sizes and queues."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StringConstraints

from watchnext.serving.http.api.errors import Json, JsonRoute, problem
from watchnext.serving.http.api.schemas import ErrorResponse, Strict
from watchnext.serving.http.swap.release_switch import ReleaseRefusedError, ReleaseSwitch
from watchnext.serving.http.swap.serving import Serving
from watchnext.serving.release.canary_plan import MOST_SHARE, new_plan, read_plan
from watchnext.serving.release.manifest import ReleaseError, read_manifest
from watchnext.serving.release.release import releases_in

WAIT_S = 60.0  # a release that takes longer to load is answered with 202, and goes on loading
SHOWN = ("data", "regime", "as_of_ms", "clock")


class PromoteRequest(Strict):
    release: Annotated[str, StringConstraints(min_length=1, max_length=128)]


class CanaryRequest(Strict):
    release: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    share: float = Field(0.0, ge=0, le=MOST_SHARE, description="of viewers whom the release answers")
    shadow: float = Field(0.0, ge=0, le=1, description="of the other requests that it scores without effect on the answer")


class CanaryPlanOut(BaseModel):
    """`ended` says why the release is tried no more, null while it is."""

    release: str
    share: float
    shadow: float
    began: str
    ended: str | None


class CanaryResponse(BaseModel):
    """The plan of the folder, which release is still being loaded, and what this server counted since it tried the release; the
    counts of one that ended are in `canary.json` of the served log."""

    plan: CanaryPlanOut | None
    loading: str | None
    counts: dict[str, Any] | None


class RollbackRequest(Strict):
    """Nothing: an empty object."""


class RefusalOut(BaseModel):
    """A release that was to serve and does not; `at` is UTC."""

    release: str
    reason: str
    at: str


class SwitchResponse(BaseModel):
    """The release that serves, the one before it, and one that is still being loaded."""

    serves: str
    before: str | None
    loading: str | None


class ReleaseOut(BaseModel):
    """A release of the folder by its manifest; `damaged` says why that cannot be read. Only what serves was checked in full."""

    release: str
    serves: bool
    damaged: str | None
    data: str | None
    regime: str | None
    as_of_ms: int | None
    clock: str | None


class ReleasesResponse(BaseModel):
    """`current` is the target of the link."""

    serves: str
    before: str | None
    current: str | None
    releases: list[ReleaseOut]
    refused: list[RefusalOut]


class TableSize(BaseModel):
    entries: int
    bytes: int


class StatsResponse(BaseModel):
    """Sizes of the store, the journal's positions (`journal_end` is the next one), what waits, memory (of this process, null if
    the system does not say), and time since the start."""

    release: str
    uptime_s: float
    memory_bytes: int | None
    viewers: int
    journal_start: int
    journal_end: int
    tables: dict[str, TableSize]
    waiting_events: int
    waiting_requests: int
    waiting_answers: int


_refusals = {status: {"model": ErrorResponse} for status in (400, 408, 413, 415, 422, 503)}
_tries = {202: {"model": CanaryResponse}, 409: {"model": ErrorResponse}, **_refusals}
_switched = {202: {"model": SwitchResponse}, 409: {"model": ErrorResponse}, **_refusals}


def admin_routes(switch: ReleaseSwitch, serving: Serving, root: Path, run: Callable, waiting: Callable[[], dict]) -> APIRouter:
    """Make the routes. `run` calls a function in a thread; `waiting()` are the queue lengths of a StatsResponse."""
    routes = APIRouter(prefix="/v1/admin", route_class=JsonRoute)
    began = time.monotonic()

    @routes.get("/releases", response_model=ReleasesResponse, responses=_refusals)
    async def releases() -> Response:
        """List the releases of the folder, which of them serves, and which were refused and why."""
        return Json(await run(lambda: _listed(switch, serving, root)))

    @routes.post("/promote", response_model=SwitchResponse, responses=_switched)
    async def promote(body: PromoteRequest) -> Response:
        """Check a release, let it serve, and point `current` at it. Answers 409 with the reason where it is refused."""
        return await _switched_to(switch.promote(body.release), body.release)

    @routes.get("/canary", response_model=CanaryResponse, responses=_refusals)
    async def canary() -> Response:
        """State which release is tried on which viewers, and what both arms did on this server."""
        return Json(await run(lambda: _tried(serving, root, None)))

    @routes.post("/canary", response_model=CanaryResponse, responses=_tries)
    async def begin_canary(body: CanaryRequest) -> Response:
        """Check a release, and let it answer a share of viewers, score other requests aside, or both. Answers 409 with the
        reason where it is refused."""
        try:
            plan = new_plan(body.release, share=body.share, shadow=body.shadow)
            await _done(switch.begin_canary(plan))
        except (ReleaseRefusedError, ReleaseError) as error:
            return problem(409, "release_refused", str(error))
        except TimeoutError:
            return Json(await run(lambda: _tried(serving, root, body.release)), 202)
        return Json(await run(lambda: _tried(serving, root, None)))

    @routes.post("/rollback", response_model=SwitchResponse, responses=_switched)
    async def rollback(_: RollbackRequest) -> Response:
        """End a canary at once; without one, let the release serve that did before this one."""
        return await _switched_to(await asyncio.to_thread(switch.rollback), switch.before)

    @routes.get("/stats", response_model=StatsResponse, responses=_refusals)
    async def stats() -> Response:
        """Measure store, journal, queues and memory."""
        sizes = await run(lambda: _sizes(serving.store))
        uptime = {"release": serving.release_id, "uptime_s": time.monotonic() - began, "memory_bytes": memory_bytes()}
        return Json({**uptime, **sizes, **waiting()})

    async def _switched_to(future: Future, name: str | None) -> Response:
        try:
            await _done(future)
        except ReleaseRefusedError as error:
            return problem(409, "release_refused", str(error))
        except TimeoutError:
            return Json({"serves": serving.release_id, "before": switch.before, "loading": name}, 202)
        return Json({"serves": serving.release_id, "before": switch.before, "loading": None})

    return routes


async def _done(future: Future) -> None:
    """Wait for a task of the switch, which goes on where it takes too long. Raises TimeoutError, and what the task raises."""
    await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(future)), WAIT_S)


def _tried(serving: Serving, root: Path, loading: str | None) -> dict:
    plan, canary = read_plan(root), serving.canary
    return {
        "plan": None if plan is None else asdict(plan),
        "loading": loading,
        "counts": None if canary is None else canary.report(),
    }


def _listed(switch: ReleaseSwitch, serving: Serving, root: Path) -> dict:
    serves = serving.release_id
    link = root / "current"
    return {
        "serves": serves,
        "before": switch.before,
        "current": os.readlink(link) if link.is_symlink() else None,
        "releases": [{"release": name, "serves": name == serves, **_described(root / name)} for name in releases_in(root)],
        "refused": [vars(refusal) for refusal in switch.refused.values()],
    }


def _described(folder: Path) -> dict:
    try:
        manifest = read_manifest(folder)
    except ReleaseError as error:
        return dict.fromkeys(SHOWN) | {"damaged": str(error)}
    return {name: manifest.get(name) for name in SHOWN} | {"damaged": None}


def _sizes(store) -> dict:
    tables = {name: {"entries": entries, "bytes": size} for name, (entries, size) in store.sizes().items()}
    journal = tables["journal"]["entries"]
    return {
        "tables": tables,
        "viewers": tables["viewers"]["entries"],
        "journal_start": store.position - journal,
        "journal_end": store.position,
    }


def memory_bytes() -> int | None:
    """Return the memory of this process that is resident, None where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None

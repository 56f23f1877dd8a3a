"""Let the viewers of a simulation live with an arm, day by day: its release answers, and between two days its loop may run.

A run that was killed goes on: complete days are repeated from their files, and a day that was cut short begins anew.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.experiment.traffic import COLUMNS, Arm
from watchnext.files import replaced
from watchnext.lifecycle.demo.arms import DemoArm
from watchnext.lifecycle.demo.demo_project import DemoProject
from watchnext.lifecycle.loop.decision import Costs
from watchnext.lifecycle.loop.loop_pass import LoopPass
from watchnext.lifecycle.loop.loop_state import LoopError, LoopState
from watchnext.monitoring.windows.served_rows import OUTCOME_MS
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.building.opening import StoreMisfitError
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.simulator.behaviour import DAY_MS
from watchnext.types import Request

FLUSH_ROWS = 500
LOG_BYTES = 1 << 30


class DemoRun:
    """The days of one arm."""

    def __init__(
        self, name: str, arm: DemoArm, project: DemoProject, simulation: Simulation, *, costs: Costs, serves: str, seed: int
    ) -> None:
        self._name, self._arm, self._project, self._simulation = name, arm, project, simulation
        self._costs, self._serves, self._seed = costs, serves, seed
        self._kept = project.folder / "days"

    def run(self, tell: Callable[[str], None]) -> tuple[pl.DataFrame, list[dict]]:
        """Live through all days; return the impressions, with COLUMNS, and a report of every pass. `tell` gets a line a day."""
        simulation, front = self._simulation, Front()
        viewers, audience = len(simulation.world.viewers), simulation.audience()
        people = len(simulation.people(simulation.users))
        arm, passes = Arm([front], simulation, np.zeros(viewers, np.int64), seed=self._seed), []
        for day in range(1, simulation.days + 1):
            start, path = len(arm.rows), self._kept / f"{day:02d}.parquet"
            if path.exists():
                front.repeat(pl.read_parquet(path), start, simulation.world.catalogue["id"])
            else:
                self._open(front, day)
            try:
                for visit, rows, outcomes in audience.live(simulation.start_ms + (day - 1) * DAY_MS, arm.show):
                    arm.hear_of(visit, rows, outcomes)
            finally:
                front.close()
            shown = pl.concat([pl.DataFrame(schema=COLUMNS), *arm.rows[start:]])
            if not path.exists():
                self._close(shown, path, day)
            if found := self._passed(day):
                passes.append(found)
            line = f"{self._name}, day {day} of {simulation.days}: {shown['watch_ms'].sum() / 1000 / people:.1f} s a viewer"
            tell(f"{line}; {found['drift']}, {found['decision']}" if found else line)
        return pl.concat([pl.DataFrame(schema=COLUMNS), *arm.rows]), passes

    def _open(self, front: "Front", day: int) -> None:
        """Let the serving release answer, from the store and the served log as they were before the day."""
        project = self._project.project
        if self._arm.hears:
            self._kept.mkdir(exist_ok=True)
            _restore(self._kept / f"before-{day:02d}", [Path(project.store), project.served])
        served = None if self._arm.every_days is None else project.served  # which only passes of the loop read
        front.open(project.releases, Path(project.store), served, hears=self._arm.hears)

    def _close(self, shown: pl.DataFrame, path: Path, day: int) -> None:
        """Keep the impressions of a day that is complete."""
        self._kept.mkdir(exist_ok=True)
        aside = path.with_suffix(".new")
        shown.write_parquet(aside)
        os.replace(aside, path)
        shutil.rmtree(self._kept / f"before-{day:02d}", ignore_errors=True)

    def _passed(self, day: int) -> dict | None:
        """Run the pass of the loop after a day, if one is due and another day follows; return what it found."""
        every = self._arm.every_days
        if every is None or day % every or day == self._simulation.days:
            return None
        path = self._kept / f"pass-{day:02d}.json"
        if not path.exists():
            project = self._project.project
            now_ms = self._simulation.start_ms + day * DAY_MS + OUTCOME_MS
            settings = {"open_log": self._project.open_log, "costs": self._costs, "serves": self._serves, "now_ms": now_ms}
            with open(self._project.folder / "passes.log", "a") as log, redirect_stdout(log):
                report = LoopPass(project, **settings).run()
            train_s = sum(LoopState.load(project.folder).stages.values()) if "train" in report else 0.0
            replaced(path, json.dumps({"day": day, "train_s": train_s, "report": report}, indent=1))
        return _summary(json.loads(path.read_text()))


def _summary(kept: Mapping) -> dict:
    """Return day, drift verdict, decision and processor seconds of training of a pass."""
    report = kept["report"]
    decision = report["promote"]["decision"] if "promote" in report else "waits"
    reason = report["promote"]["reason"] if "promote" in report else report["decide"]["reason"]
    return {
        "day": kept["day"], "drift": report["check"]["verdict"], "drifted": report["check"]["drifted"][:5],
        "size": report["check"]["size"], "decision": decision, "reason": reason, "train_s": kept["train_s"],
    }  # fmt: skip


def _restore(before: Path, folders: Sequence[Path]) -> None:
    """Copy the folders to `before` at the beginning of a day, or back from there where the day was cut short."""
    for other in before.parent.glob("before-*"):
        if other != before:
            shutil.rmtree(other)
    if before.exists():
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
            _copy(before / folder.name, folder)
        return
    aside = before.with_name(f"before-{before.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for folder in folders:
        _copy(folder, aside / folder.name)
    os.replace(aside, before)


def _copy(folder: Path, to: Path) -> None:
    with suppress(FileNotFoundError):  # nothing was served yet
        shutil.copytree(folder, to, symlinks=True)


class Front:
    """Answer requests: by the release that serves, with a store and a served log, or from the record of a day.

    It stands for a Recommender and its store in `traffic.Arm`, and is opened anew for each day.
    """

    def __init__(self) -> None:
        self._recommender: Recommender | None = None
        self._served: ServedLog | None = None
        self._slates: Mapping[int, list] = {}
        self._answered, self._hears = 0, False

    @property
    def store(self) -> "Front":
        return self

    def open(self, releases: Path, store: Path, served: Path | None, *, hears: bool) -> None:
        """Let the serving release answer; None in place of the folder of the served log keeps none."""
        release = Release.load(current(releases))
        self._recommender, self._hears = Recommender(release, _opened(store, release)), hears
        self._served = served and ServedLog(served, max_bytes=LOG_BYTES, flush_rows=FLUSH_ROWS)

    def repeat(self, shown: pl.DataFrame, first: int, ids: np.ndarray) -> None:
        """Answer the requests of a day from its impressions; `ids` (V,) are those of the world's videos."""
        slates = shown.group_by("request", maintain_order=True).agg("video")
        self._slates = {request: ids[rows].tolist() for request, rows in slates.iter_rows()}
        self._answered = first

    def recommend(self, request: Request) -> object:
        if self._recommender is None:
            answer = _Recorded(self._slates.get(self._answered, []))
        else:
            answer = self._recommender.recommend(request)
            self._log(answer)
        self._answered += 1
        return answer

    def _log(self, answer: object) -> None:
        if self._served is not None and not self._served.append(answer):
            raise LoopError("the served log could not follow the simulated traffic; run the same command again: it goes on")

    def apply(self, events: Sequence[Event]) -> None:
        if self._recommender is not None and self._hears:
            self._recommender.store.apply(events)

    def close(self) -> None:
        if self._recommender is not None:
            if self._served is not None:
                self._served.close()
            self._recommender.store.close()
            self._recommender = self._served = None


def _opened(folder: Path, release: Release) -> Store:
    """Open the store for a release; one of another catalogue is built anew from release and journal, as a server does."""
    try:
        return Store.open(folder, release, durable=False)
    except StoreMisfitError:
        build_store(folder, release)
        return Store.open(folder, release, durable=False)


class _Recorded:
    """The ids of an answer that was given before."""

    def __init__(self, ids: list) -> None:
        self.ids = ids

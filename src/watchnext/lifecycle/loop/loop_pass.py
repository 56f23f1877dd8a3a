"""One pass of the loop: collect, check, decide, train, evaluate, promote, notify. One that was killed goes on at its step."""

import json
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from watchnext.evaluation.report.report_text import behind
from watchnext.files import replaced
from watchnext.lifecycle.canary_command import begin_canary
from watchnext.lifecycle.dvc_stages import run_stages
from watchnext.lifecycle.loop.daily_log import DailyLog
from watchnext.lifecycle.loop.decision import Costs, Evidence, decide
from watchnext.lifecycle.loop.loop_state import STEPS, LoopError, LoopState
from watchnext.lifecycle.loop.notice import notify
from watchnext.lifecycle.loop.served_days import Heard
from watchnext.lifecycle.promotion.promotion_decision import KEPT, PROMOTED, SHORTLISTED
from watchnext.lifecycle.stage_process import Start, started
from watchnext.monitoring.verdict.checked_window import DRIFT, NO_DATA
from watchnext.monitoring.windows.served_rows import OUTCOME_MS
from watchnext.serving.release.canary_plan import end_plan, read_plan
from watchnext.serving.release.manifest import read_manifest
from watchnext.serving.release.only_one import only_one
from watchnext.serving.release.release import Release, current, verdict_of
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.store import Store

log = logging.getLogger(__name__)
TRAINED = ("tables", "features", "tripwire", "two_tower", "graph", "trending", "index", "ranker", "selection", "release")
BACKWARDS_MS = 60_000  # by which a clock may be corrected


@dataclass(frozen=True, kw_only=True)
class Project:
    """Where a data set has its parts, and how its commands are run.

    root       the folder with dvc.yaml
    store      a folder, or an address
    served     folder of the served log
    clock      of the data set: `wall`, or `release` for a log of the past
    overrides  of every command
    start      runs a command
    """

    root: Path
    data: str
    features: str
    outputs: Path
    releases: Path
    store: str
    served: Path
    clock: str
    utc_offset_h: float
    overrides: Sequence[str] = ()
    start: Start = started

    @property
    def folder(self) -> Path:
        """The folder of the loop's own files."""
        return self.outputs / "loop"

    @property
    def serving(self) -> Path | None:
        """Folder of the serving release; None before the first. Raises ReleaseError for a link that leads nowhere."""
        return current(self.releases) if os.path.lexists(self.releases / "current") else None

    def run(self, module: str, command: str, *words: str, fine: Sequence[int] = (0,), keeps: Sequence[int] = ()) -> int:
        """Run a command of a stage on this data set, with the open descriptors `keeps`.

        Raises subprocess.CalledProcessError for an exit that is not `fine`.
        """
        words = [sys.executable, "-m", f"watchnext.{module}", command, f"data={self.data}", *self.overrides, *words]
        code = self.start(words, self.root, None, keeps).code
        if code not in fine:
            raise subprocess.CalledProcessError(code, words)
        return code


class LoopPass:
    """One pass.

    open_log  folder for files of the moment > the log to which served days are added
    share     of the viewers who meet a candidate that is shortlisted; 0 leaves that to a person
    patience  days after which a canary that decided nothing ends, so that the loop trains again
    serves    the verdict with which a candidate serves: `promoted`, after a win on live traffic, or `shortlisted`, where no
              guard is broken and replay is not clearly worse, as for platforms too small for live traffic to decide
    now_ms    the moment of the pass, in ms; None is that of the project's clock
    """

    def __init__(
        self,
        project: Project,
        *,
        open_log: Callable[[Path], DailyLog],
        costs: Costs,
        share: float = 0.0,
        patience: float = math.inf,
        serves: str = PROMOTED,
        webhook: str | None = None,
        now_ms: int | None = None,
    ) -> None:
        if serves not in (PROMOTED, SHORTLISTED):
            raise LoopError(f"loop.serves is {serves!r}, expected {PROMOTED} or {SHORTLISTED}; see conf/config.yaml")
        self._project, self._open_log, self._costs = project, open_log, costs
        self._share, self._patience, self._webhook = share, patience, webhook
        self._serves, self._now_ms = serves, now_ms
        self._state = LoopState()
        self._keeps: tuple[int, ...] = ()  # the lock, which stages hold too

    def run(self) -> dict:
        """Run the steps that are left of the pass that was killed, or all of a new one; return the report, which is kept in
        report.json too.

        Raises HeldError while another process runs the loop, and whatever a step raises: the notice says it, and the
        next pass begins anew. One that has a trained candidate is kept, and goes on once where it failed.
        """
        folder = self._project.folder
        with only_one(folder / "lock", f"or a stage that it began runs the loop on {folder}") as lock:
            self._keeps = (lock,)
            self._state = LoopState.load(folder)
            if self._state.step:
                print(f"pass {self._state.number} goes on at step {self._state.step}")
            else:
                self._state.number, self._state.step, self._state.report, self._state.stages = (
                    self._state.number + 1,
                    STEPS[0],
                    {},
                    {},
                )
                self._state.save(folder)
            try:
                while self._state.step:
                    self._step()
            except Exception as error:
                self._failed(error)
                raise
            return self._state.report

    def _step(self) -> None:
        """Do the step that comes next, and keep what it found together with the step after it."""
        name, state = self._state.step, self._state
        after = (*STEPS, "")[STEPS.index(name) + 1]
        found, after = {
            "collect": self._collect, "check": self._check, "decide": self._decide, "train": self._train,
            "evaluate": self._evaluate, "promote": self._promote, "notify": self._notify,
        }[name](), after  # fmt: skip
        state.report[name] = found
        state.report.pop("failed", None)
        if name == "decide" and not found["train"]:
            after = "promote" if found.get("tried") else "notify"
        state.step = after
        state.save(self._project.folder)
        print(f"{name}: {_line(found)}", flush=True)

    def _failed(self, error: Exception) -> None:
        """Keep and tell why a pass ended, and let the next begin anew, or repeat the judgement of a trained candidate. A full
        disk may keep even this from being written."""
        step, message = self._state.step, f"{type(error).__name__}: {error}"
        if step not in ("evaluate", "promote") or "failed" in self._state.report:
            self._state.step = ""
        self._state.report["failed"] = {"step": step, "error": message[:2000]}
        notify(
            f"pass {self._state.number} of the loop failed at step {step}: {message}", self._state.report, webhook=self._webhook
        )
        try:
            self._state.save(self._project.folder)
            self._write_report()
        except OSError as full:
            log.error("the state of the loop could not be written (%s); the next pass repeats step %s", full, step)

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def _collect(self) -> dict:
        """Add whole served days to the log. Before the first release nothing was served."""
        project = self._project
        if project.serving is None:
            return {"added": {}, "note": "no release serves, so nothing was served"}
        with closing(self._store(Release.load(project.serving))) as store:
            now_ms = self._now_ms
            if now_ms is None:
                now_ms = int(time.time() * 1000) if project.clock == "wall" else store.last_known_at
            self._require_forward(now_ms)
            until_ms = now_ms - OUTCOME_MS
            heard = Heard.of(store.entries(self._state.position), self._state.position, self._day_start(until_ms))
        daily = self._open_log(project.folder)
        added = daily.add(project.served, heard, until_ms=until_ms, utc_offset_h=project.utc_offset_h)
        if not added.withheld:  # a day that is withheld is read again
            self._state.position = heard.position
        self._state.latest_ms = now_ms
        return asdict(added)

    def _store(self, release: Release) -> Store:
        project = self._project
        if not is_url(project.store) and not Path(project.store).exists():
            raise LoopError(
                f"there is no store {project.store}: nothing was served yet; start a server with `bentoml serve`, or run "
                "`python -m watchnext.serving build-store`"
            )
        return Store.reader(project.store, release)

    def _day_start(self, time_ms: int) -> int:
        offset = int(self._project.utc_offset_h * 3_600_000)
        return (time_ms + offset) // 86_400_000 * 86_400_000 - offset

    def _require_forward(self, now_ms: int) -> None:
        if now_ms < self._state.latest_ms - BACKWARDS_MS:
            now, before = (datetime.fromtimestamp(each / 1000, UTC).isoformat() for each in (now_ms, self._state.latest_ms))
            raise LoopError(
                f"the clock says {now}, but the last pass saw {before}: it went backwards, and days could be taken for whole; "
                f"set the clock, or, if that was wrong, remove {self._project.folder / 'state.json'}"
            )

    def _check(self) -> dict:
        """Compare served traffic with the reference of the serving release."""
        if self._project.serving is None:
            return {"verdict": NO_DATA, "size": 0.0, "drifted": []}
        self._project.run("monitoring", "drift", fine=(0, 2, 3), keeps=self._keeps)
        report = json.loads((self._project.outputs / "drift" / "served" / "drift.json").read_text())
        sizes = report["sizes"]  # of all rows, of slices, and of the windows before that hold the verdict
        size = max(sizes.values(), default=0.0) if report["verdict"] == DRIFT else 0.0
        return {"verdict": report["verdict"], "size": size, "drifted": [*sizes]}

    def _decide(self) -> dict:
        if tried := self._tried():
            return {"train": False, "reason": tried, "tried": True}
        serving, daily = self._project.serving, self._open_log(self._project.folder)
        as_of_ms = read_manifest(serving)["as_of_ms"] if serving else 0
        newest, state = max(daily.days, default=""), self._state
        if state.number == 1:
            state.trained_to = self._built_to()
        rows, watch_s, days = daily.rows_after(as_of_ms, state.trained_to)
        found = Evidence(
            rows=rows, watch_s=watch_s, days=days, drift=state.report["check"]["size"], train_s=state.train_s,
            rejected=state.rejected, serves=serving is not None, is_trained=newest == state.trained_to,
        )  # fmt: skip
        return {**asdict(decide(found, self._costs)), "newest": newest, "serving": serving and serving.name}

    def _built_to(self) -> str:
        """Return the newest day that the pipeline saw when it built a release before the first pass, "" if it built none."""
        built, tables = (self._project.outputs / name for name in ("release.json", "tables/days.json"))
        if not (built.exists() and tables.exists()):
            return ""
        return max((each["day"] for each in json.loads(tables.read_text())), default="")

    def _train(self) -> dict:
        self._run_stages([name for name in TRAINED if name not in self._state.stages])
        self._state.train_s = sum(self._state.stages.values())
        self._state.trained_to = self._state.report["decide"]["newest"]
        return {"candidate": candidate_in(self._project.outputs), "seconds": self._state.stages}

    def _evaluate(self) -> dict:
        self._run_stages(["evaluation"])
        return json.loads((self._project.outputs / "metrics" / "evaluation.json").read_text())

    def _run_stages(self, names: Sequence[str]) -> None:
        project = self._project
        parameters = {"data": project.data, "features": project.features, "outputs": str(project.outputs)}
        run_stages(
            project.root,
            parameters,
            project.overrides,
            only=names,
            ended=self._ended,
            start=project.start,
            keeps=self._keeps,
            stream=sys.stdout,
        )

    def _ended(self, stage: str, seconds: float) -> None:
        self._state.stages[stage] = round(seconds, 1)
        self._state.save(self._project.folder)

    def _promote(self) -> dict:
        """Judge the candidate, and remember one that waits for the next pass."""
        candidate = self._state.candidate or self._state.report["train"]["candidate"]
        found, waits = self._judged(candidate)
        self._state.candidate = candidate if waits else ""
        serving = self._project.serving
        serves = found["decision"] == PROMOTED or (serving is not None and serving.name == candidate)
        if not waits:
            self._state.rejected = 0 if serves else self._state.rejected + 1
        return found

    def _judged(self, candidate: str) -> tuple[dict, bool]:
        """Compare the candidate with the champion by `promote`, which lets it serve after a win on live traffic alone.

        Return the decision, and whether the candidate waits for the next pass: one that is shortlisted gets viewers of running
        servers until then.
        """
        project, champion = self._project, self._project.serving
        if champion is not None and candidate == champion.name:
            if not self._state.candidate and self._state.report["decide"].get("serving") == candidate:
                return {"decision": KEPT, "reason": f"{candidate} serves already: training gave the same release"}, False
            reason = f"{candidate} serves: as the first release, or by a promotion that this pass did not see the end of"
            return {"decision": PROMOTED, "reason": reason, "candidate": candidate}, False
        if lost := verdict_of(project.releases / candidate):
            return {"decision": "rejected", "reason": f"the slate of {candidate} lost to the baseline {behind(lost)}"}, False
        project.run("lifecycle", "promote", f"candidate={candidate}", fine=(0, 2), keeps=self._keeps)
        report = json.loads((project.outputs / "promotion" / "promotion.json").read_text())
        found = {"decision": report["verdict"], "reason": report["reason"], "candidate": candidate}
        plan = read_plan(project.releases)
        is_tried = plan is not None and plan.release == candidate and plan.ended is None
        if found["decision"] == SHORTLISTED == self._serves and not is_tried:
            project.run("lifecycle", "promote", f"release={candidate}", keeps=self._keeps)
            reason = f"{found['reason']}; loop.serves={SHORTLISTED} lets it serve"
            return {**found, "decision": PROMOTED, "reason": reason}, False
        if found["decision"] not in (SHORTLISTED, KEPT):
            if is_tried:
                end_plan(project.releases, f"the loop: {found['decision']}", release=candidate)
        elif is_tried and plan.days > self._patience:
            found["canary"] = f"ended without a decision after {plan.days:.0f} days"
            end_plan(project.releases, f"the loop: no decision after {plan.days:.0f} days", release=candidate)
        elif is_tried:
            return found, True
        elif self._share:
            begin_canary(project.releases, candidate, share=self._share, shadow=0.0, data=project.data)
            return {**found, "canary": f"{self._share:.0%} of the viewers meet it from now on"}, True
        return found, False

    def _tried(self) -> str | None:
        """Return why the candidate of an earlier pass is not judged yet; None without one, or where its canary was ended."""
        plan = read_plan(self._project.releases) if self._state.candidate else None
        if plan is None or plan.ended or plan.release != self._state.candidate:
            self._state.candidate = ""
            return None
        return f"{plan.release} is tried on {plan.share:.0%} of the viewers since {plan.began}"

    def _notify(self) -> dict:
        report, project = self._state.report, self._project
        outcome = report.get("promote") or {"decision": "waits", "reason": report["decide"]["reason"]}
        message = f"pass {self._state.number} of the loop on {project.data}: {outcome['decision']}; {outcome['reason']}"
        sent = notify(message, report, webhook=self._webhook)
        self._write_report()
        return {"message": message, "sent": sent}

    def _write_report(self) -> None:
        replaced(self._project.folder / "report.json", json.dumps({"pass": self._state.number, **self._state.report}, indent=1))


def candidate_in(outputs: Path) -> str:
    """Return the id of the release that stage `release` built to serve: the one that learned from all days, if it built one."""
    names = json.loads((outputs / "release.json").read_text())
    return names.get("refitted", names["release"])


def _line(found: Mapping) -> str:
    if "message" in found or "reason" in found:
        return found.get("message") or f"{'train' if found.get('train') else found.get('decision', 'wait')}: {found['reason']}"
    shown = {name: value for name, value in found.items() if value and not isinstance(value, Mapping | list)}
    shown |= {name: dict(value) for name, value in found.items() if isinstance(value, Mapping) and 0 < len(value) < 8}
    return ", ".join(f"{name} {value}" for name, value in shown.items()) or "nothing"

"""A pass of the loop on a small release that served, with stages of a second: it ends once, whatever ends it in between."""

import json
import os
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import yaml

import programs
from served_traffic import DAY_MS, FIRST_MS, HOUR_MS, daily_log, serve, write_log
from small_release import CONF, exported, make_release, small_log
from watchnext import tracking
from watchnext.lifecycle.loop.decision import Costs
from watchnext.lifecycle.loop.loop_pass import TRAINED, LoopPass, Project
from watchnext.lifecycle.loop.loop_state import LoopError, LoopState
from watchnext.serving.release.canary_plan import end_plan, read_plan, write_plan
from watchnext.serving.release.only_one import HeldError
from watchnext.serving.release.release import ReleaseError, current, switch

COSTS = {"decay": 0.01, "price": 1.0, "horizon_days": 1.0, "least_rows": 100, "most_days": 1, "train_s": 600.0}
STAGE = """import json, os, pathlib, sys, time
stage = sys.argv[1]
with open("ran.txt", "a") as ran:
    ran.write(stage + chr(10))
if stage == pathlib.Path("slow.txt").read_text():
    time.sleep(60)
if stage == pathlib.Path("fails.txt").read_text():
    sys.exit(3)
if stage == "release":
    names = {"release": pathlib.Path("candidate.txt").read_text()}
    if (refitted := pathlib.Path("refitted.txt")).exists():
        names["refitted"] = refitted.read_text()
    pathlib.Path("outputs/release.json").write_text(json.dumps(names))
    if not os.path.lexists("releases/current"):
        os.symlink(names["release"], "releases/current")
if stage == "evaluation":
    pathlib.Path("outputs/metrics").mkdir(exist_ok=True)
    pathlib.Path("outputs/metrics/evaluation.json").write_text(json.dumps({"skew": 0.0}))
"""


@pytest.fixture
def project(request, release, feature_stage, once, empty_store, tmp_path, monkeypatch) -> Path:
    """A project whose release served for three days; its stages take no time, and ran.txt has their names."""
    made = once("served", partial(_made, release, feature_stage, once, empty_store))
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    if "real_drift" not in request.fixturenames:
        monkeypatch.setattr(Project, "run", _command)
    return tmp_path


@pytest.fixture
def real_drift() -> None:
    """Let the check of a pass run `python -m watchnext.monitoring drift`; elsewhere its report is there: it takes seconds."""


def _command(project: Project, module: str, command: str, *words: str, fine: tuple[int, ...], keeps: tuple[int]) -> int:
    return _promote(project, *words) if command == "promote" else _drift(project)


def _promote(project: Project, chosen: str) -> int:
    """Decide what verdict.txt says."""
    verdict, candidate = Path("verdict.txt").read_text(), chosen.removeprefix("candidate=")
    (project.outputs / "promotion").mkdir(exist_ok=True)
    report = {"candidate": candidate, "verdict": verdict, "reason": f"{verdict} because"}
    (project.outputs / "promotion/promotion.json").write_text(json.dumps(report))
    if verdict == "promoted":
        switch(project.releases, candidate)
    return 0 if verdict == "promoted" else 2


def _drift(project: Project) -> int:
    (project.outputs / "drift/served").mkdir(parents=True, exist_ok=True)
    report = {"verdict": "drift", "sizes": {"hour (new viewers)": 3.0}}  # of a slice alone
    (project.outputs / "drift/served/drift.json").write_text(json.dumps(report))
    return 2


def _made(release, feature_stage, once, empty_store, tmp_path: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copytree(release.folder.parent, tmp_path / "releases", symlinks=True)
    write_log(feature_stage, once, tmp_path / "log")
    (tmp_path / "outputs").mkdir()
    loader = {
        "_target_": "watchnext.data.loaders.canonical.CanonicalTables",
        "root": "log",
        "features": "conf/features/world.yaml",
    }
    preset = yaml.safe_load((CONF / "data" / "sample.yaml").read_text())
    (tmp_path / "conf/data/tiny.yaml").write_text(yaml.safe_dump({**preset, "name": "tiny", "loader": loader}))
    (tmp_path / "stage.py").write_text(STAGE)
    stages = {name: {"cmd": f"python stage.py {name}"} for name in (*TRAINED, "evaluation", "store")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (tmp_path / "params.yaml").write_text("data: sample\nfeatures: world\noutputs: outputs\nreads: data\n")
    for name, text in {"slow": "", "fails": "", "candidate": release.id}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    serve(release, tmp_path / "store", tmp_path / "outputs" / "served", days=3)


def one_pass(
    project: Path,
    *,
    webhook: str | None = None,
    clock: str = "release",
    share: float = 0.0,
    patience: float = 14.0,
    serves: str = "promoted",
    **costs,
) -> dict:
    found = Project(
        root=project, data="tiny", features="world", outputs=Path("outputs"), releases=Path("releases"), store="store",
        served=Path("outputs/served"), clock=clock, utc_offset_h=0.0,
    )  # fmt: skip
    costs = Costs(**COSTS | costs)
    options = {"costs": costs, "share": share, "patience": patience, "serves": serves, "webhook": webhook}
    return LoopPass(found, open_log=lambda work: daily_log(Path("log"), work), **options).run()


def ran(project: Path) -> list[str]:
    path = project / "ran.txt"
    return path.read_text().split() if path.exists() else []


def state(project: Path) -> LoopState:
    return LoopState.load(project / "outputs" / "loop")


@pytest.fixture
def webhook():
    """The address of a server that keeps what it gets, and what it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    server.server_close()


def test_a_pass_collects_decides_trains_and_tells(project, webhook, release):
    address, got = webhook
    report = one_pass(project, webhook=address)
    assert list(report) == ["collect", "check", "decide", "train", "evaluate", "promote", "notify"]
    assert list(report["collect"]["added"]) == ["2023-11-20", "2023-11-21"]  # the third day is not over
    assert report["check"] == {"verdict": "drift", "size": pytest.approx(3.0), "drifted": ["hour (new viewers)"]}
    assert report["decide"]["train"]
    assert report["decide"]["terms"]["drift"] == pytest.approx(3.0)
    assert report["decide"]["terms"]["age_days"] >= 2
    assert ran(project) == [*TRAINED, "evaluation"]
    assert report["promote"]["decision"] == "kept"  # the stages made the serving release again
    assert got[0]["report"]["decide"] == report["decide"]
    assert got[0]["text"].startswith("pass 1 of the loop on tiny: kept")
    assert json.loads((project / "outputs/loop/report.json").read_text())["pass"] == 1
    assert state(project).step == ""
    again = one_pass(project)
    assert again["collect"]["added"] == {}
    assert not again["decide"]["train"]  # nothing is new since the last training
    assert ran(project) == [*TRAINED, "evaluation"]
    assert state(project).number == 2


def test_waiting_that_costs_little_trains_nothing(project):
    report = one_pass(project, decay=0.0, most_days=None)
    assert not report["decide"]["train"]
    assert report["decide"]["terms"]["loss_s"] == 0
    assert list(report) == ["collect", "check", "decide", "notify"]
    assert ran(project) == []


def test_days_that_the_pipeline_has_seen_are_not_trained_again(project):
    (project / "outputs/tables").mkdir()
    (project / "outputs/tables/days.json").write_text(json.dumps([{"day": "2023-11-20"}, {"day": "2023-11-21"}]))
    (project / "outputs/release.json").write_text("{}")
    for _ in range(2):
        assert one_pass(project)["decide"]["reason"].startswith("the last training has seen the whole log")
    assert ran(project) == []


COMMAND = ["-m", "watchnext.lifecycle", "run", "data=tiny", "loop.most_days=1"]


def test_a_killed_pass_goes_on_at_its_stage(project):
    (project / "slow.txt").write_text("index")
    (project / "outputs/loop").mkdir()
    LoopState(number=1, step="train", report={"decide": {"newest": "2023-11-21"}}).save(project / "outputs/loop")
    process = programs.Program(*COMMAND, folder=project, environment=dict(os.environ))
    while "index" not in ran(project) and process.poll() is None:
        time.sleep(0.1)
    with pytest.raises(HeldError, match=rf"process {process.pid} or a stage that it began runs the loop on outputs/loop; wait"):
        one_pass(project)
    [stage] = psutil.Process(process.pid).children()
    process.kill()
    while process.poll() is None:
        time.sleep(0.01)
    with pytest.raises(HeldError, match="a stage that it began"):  # it outlives its pass
        one_pass(project)
    stage.kill()
    process.communicate()
    assert state(project).step == "train"
    assert list(state(project).stages) == list(TRAINED[: TRAINED.index("index")])
    (project / "slow.txt").write_text("")
    done = programs.run(*COMMAND, folder=project, environment=dict(os.environ))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pass 1 goes on at step train" in done.stdout
    at = TRAINED.index("index")
    assert ran(project) == [*TRAINED[: at + 1], *TRAINED[at:], "evaluation"]
    assert (state(project).step, state(project).number, state(project).trained_to) == ("", 1, "2023-11-21")


def test_drift_is_checked_by_its_own_command(project, real_drift):
    (project / "outputs/features").mkdir()
    (project / "outputs/features/report.json").write_text(json.dumps({"data_hash": "d7"}))
    report = one_pass(project, decay=0.0, most_days=None)
    assert report["check"]["verdict"] in ("none", "drift", "no data")
    with tracking.store(tracking.tracking_uri()) as client:
        experiment = client.get_experiment_by_name("watchnext-monitoring")
        assert client.search_runs([experiment.experiment_id])[0].data.tags["data_hash"] == "d7"
    assert json.loads((project / "outputs/drift/served/drift.json").read_text())["verdict"] == report["check"]["verdict"]


def test_a_stage_that_fails_is_told_and_the_next_pass_begins_anew(project, webhook):
    address, got = webhook
    (project / "fails.txt").write_text("ranker")
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        one_pass(project, webhook=address)
    assert "failed at step train" in got[0]["text"]
    assert json.loads((project / "outputs/loop/report.json").read_text())["failed"]["step"] == "train"
    (project / "fails.txt").write_text("")
    report = one_pass(project)
    assert state(project).number == 2
    assert report["promote"]["decision"] == "kept"
    assert "failed" not in report


@pytest.mark.parametrize("failures", [1, 2])
def test_a_candidate_whose_promotion_failed_is_judged_by_the_next_pass(project, challenger, monkeypatch, failures):
    left = [subprocess.CalledProcessError(1, ["promote"])] * failures

    def command(found: Project, module: str, command: str, *words: str, **given) -> int:
        if command == "promote" and left:
            raise left.pop()
        return _command(found, module, command, *words, **given)

    monkeypatch.setattr(Project, "run", command)
    for _ in range(failures):
        with pytest.raises(subprocess.CalledProcessError):
            decided(project, "promoted")
    kept = json.loads((project / "outputs/loop/report.json").read_text())
    assert (kept["failed"]["step"], kept["train"]["candidate"]) == ("promote", challenger)
    report = decided(project, "promoted")
    assert ran(project) == [*TRAINED, "evaluation"]  # one training, whatever failed after it
    if failures == 1:
        assert (report["promote"]["decision"], state(project).number) == ("promoted", 1)
        assert "failed" not in report
        assert current(project / "releases").name == challenger
    else:  # the loop decides anew
        assert (state(project).number, "promote" in report) == (2, False)


def test_a_webhook_that_is_gone_stops_nothing(project):
    report = one_pass(project, webhook="http://127.0.0.1:9/", decay=0.0, most_days=None)
    assert report["notify"]["sent"] is False
    assert one_pass(project, webhook="file:///etc/passwd", decay=0.0, most_days=None)["notify"]["sent"] is False


def test_a_clock_that_went_backwards_is_named(project):
    now_ms = int(time.time() * 1000)
    one_pass(project, clock="wall", decay=0.0, most_days=None)
    later = state(project)
    assert later.latest_ms >= now_ms
    later.latest_ms += DAY_MS
    later.save(project / "outputs" / "loop")
    with pytest.raises(LoopError, match=r"it went backwards.*remove outputs/loop/state.json"):
        one_pass(project, clock="wall")
    assert "2023-11-22" in daily_log(Path("log"), project).days  # what was collected stays


def test_without_a_champion_the_first_one_is_trained_and_a_broken_one_is_named(project):
    (project / "releases/current").unlink()
    Path("verdict.txt").write_text("promoted")
    report = one_pass(project)
    assert report["collect"]["note"] == "no release serves, so nothing was served"
    assert report["decide"]["reason"] == "no release serves"
    assert ran(project) == [*TRAINED, "evaluation"]
    assert (report["promote"]["decision"], state(project).rejected) == ("promoted", 0)
    (project / "releases/current").unlink()
    (project / "releases/current").symlink_to("gone")
    with pytest.raises(ReleaseError, match=r"names gone, which is gone; let another one serve"):
        one_pass(project)


def test_a_pass_that_was_killed_after_the_switch_knows_that_it_promoted(project, challenger, release):
    report = {"decide": {"train": True, "newest": "2023-11-21", "serving": release.id}, "train": {"candidate": challenger}}
    (project / "outputs/loop").mkdir()
    LoopState(number=2, step="promote", rejected=1, report=report).save(project / "outputs/loop")
    switch(project / "releases", challenger)
    assert one_pass(project)["promote"]["decision"] == "promoted"
    assert state(project).rejected == 0


def test_outcomes_that_never_arrive_train_nothing(project, release):
    shutil.rmtree(project / "outputs/served")
    shutil.rmtree(project / "store")
    serve(release, project / "store", project / "outputs/served", days=2, answered=False)
    report = one_pass(project)
    assert list(report["collect"]["withheld"]) == ["2023-11-20"]
    assert report["collect"]["added"] == {}
    assert state(project).position == 0  # it is read again


def test_a_missing_store_and_a_damaged_state_name_the_next_command(project):
    shutil.rmtree(project / "store")
    with pytest.raises(LoopError, match=r"no store store: nothing was served yet.*build-store"):
        one_pass(project)
    (project / "outputs/loop/state.json").write_text("{")
    with pytest.raises(LoopError, match=r"state.json is no state of the loop.*remove it"):
        one_pass(project)


def test_a_full_disk_keeps_the_state_of_before(project, monkeypatch):
    one_pass(project, decay=0.0, most_days=None)
    before = (project / "outputs/loop/state.json").read_bytes()

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("watchnext.lifecycle.loop.loop_state.replaced", full)
    with pytest.raises(OSError, match="No space left"):
        one_pass(project)
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert (project / "outputs/loop/state.json").read_bytes() == before


def test_a_day_of_half_an_hours_grace(project):
    """An outcome may take half an hour, so a day is whole half an hour after its end."""
    assert _last_event(project) == FIRST_MS + 3 * DAY_MS - HOUR_MS + 21_000
    assert list(one_pass(project, decay=0.0, most_days=None)["collect"]["added"]) == ["2023-11-20", "2023-11-21"]


def _last_event(project: Path) -> int:
    from contextlib import closing

    from watchnext.serving.release.release import Release, current
    from watchnext.serving.store.store import Store

    with closing(Store.reader(project / "store", Release.load(current(project / "releases")))) as store:
        return store.last_known_at


@pytest.fixture
def challenger(project, feature_stage, once) -> str:
    """The id of another release, which the stages of the project build."""
    built, serving = small_log(feature_stage, once), current(project / "releases").name
    made = make_release(built, exported(built, once), project / "releases", regime="daily").name
    switch(project / "releases", serving)
    (project / "candidate.txt").write_text(made)
    return made


def decided(project: Path, verdict: str, **settings) -> dict:
    (project / "verdict.txt").write_text(verdict)
    return one_pass(project, **settings)


def test_the_release_that_learned_from_all_days_is_the_candidate(project, challenger, release):
    (project / "candidate.txt").write_text(release.id)
    (project / "refitted.txt").write_text(challenger)
    assert decided(project, "shortlisted")["train"]["candidate"] == challenger


def test_a_shortlisted_candidate_serves_where_the_settings_say_so(project, challenger, monkeypatch):
    served = []

    def command(found: Project, module: str, command: str, *words: str, fine: tuple[int, ...] = (0,), keeps: tuple = ()) -> int:
        if words[:1] == (f"release={challenger}",):
            served.append((module, command))
            return 0
        return _command(found, module, command, *words, fine=fine, keeps=keeps)

    monkeypatch.setattr(Project, "run", command)
    report = decided(project, "shortlisted", serves="shortlisted")
    assert (report["promote"]["decision"], served) == ("promoted", [("lifecycle", "promote")])
    assert report["promote"]["reason"].endswith("loop.serves=shortlisted lets it serve")
    with pytest.raises(LoopError, match=r"loop.serves is 'replayed', expected promoted or shortlisted"):
        one_pass(project, serves="replayed")


def test_a_shortlisted_candidate_meets_viewers_and_serves_once_it_won(project, challenger):
    report = decided(project, "shortlisted", share=0.1)
    assert report["promote"]["decision"] == "shortlisted"
    assert (state(project).candidate, read_plan(project / "releases").share) == (challenger, 0.1)
    trained = ran(project)
    report = decided(project, "kept", share=0.1)  # live traffic is no win yet
    assert report["decide"]["reason"].startswith(f"{challenger} is tried on 10% of the viewers since")
    assert list(report) == ["collect", "check", "decide", "promote", "notify"]
    assert state(project).candidate == challenger
    report = decided(project, "promoted", share=0.1)
    assert (report["promote"]["decision"], state(project).candidate) == ("promoted", "")
    assert current(project / "releases").name == challenger
    assert read_plan(project / "releases").ended.startswith("the loop: promoted")
    assert ran(project) == trained  # nothing was trained while it was tried


def test_a_canary_that_guards_ended_frees_the_loop(project, challenger):
    decided(project, "shortlisted", share=0.1)
    end_plan(project / "releases", "a guard")
    report = decided(project, "kept", share=0.1)
    assert report["decide"]["reason"].startswith("the last training has seen the whole log")
    assert state(project).candidate == ""


def test_a_canary_that_decides_nothing_ends_and_the_loop_trains_again(project, challenger):
    decided(project, "shortlisted", share=0.1)
    releases = project / "releases"
    began = datetime.now(UTC) - timedelta(days=15)
    write_plan(releases, replace(read_plan(releases), began=began.isoformat()))
    assert "canary" not in decided(project, "kept", share=0.1, patience=16)["promote"]
    assert decided(project, "kept", share=0.1, patience=14)["promote"]["canary"] == "ended without a decision after 15 days"
    assert read_plan(releases).ended.startswith("the loop: no decision after 15 days")
    assert "is tried" not in decided(project, "kept", share=0.1)["decide"]["reason"]
    (releases / "canary.json").write_text(json.dumps({"release": challenger, "share": 0.1}))
    assert read_plan(releases).days == 0


@pytest.mark.parametrize("verdict", ["rejected", "shortlisted"])
def test_without_a_share_no_viewer_meets_a_candidate(project, challenger, verdict):
    report = decided(project, verdict)
    assert report["promote"] == {"decision": verdict, "reason": f"{verdict} because", "candidate": challenger}
    assert read_plan(project / "releases") is None
    assert state(project).candidate == ""

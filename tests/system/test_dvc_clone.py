"""The whole pipeline by DVC as people use it: repro, a trial and its figures, plots, and a clone that pulls and serves."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
import yaml
from tests.unit.serving.bento_server import Server

from dvc_commands import git, run
from tiny_project import ROOT, TINY, configured
from tiny_project import run as python

LONG_S = 3600  # of a program, on a machine that has other work too
CURVES = "trainer.max_epochs=2 trainer.log_every_n_steps=1"
TREES = "model.module.teacher.module.members.trees.module.rounds=3"
RECALL = "valid/recall_at_100"


@pytest.fixture
def project(tmp_path, empty_store) -> Path:
    """A small project that git and DVC know, as a clone of the repository is one."""
    folder = tmp_path / "project"
    folder.mkdir()
    configured(folder)
    shutil.copyfile(empty_store, folder / "mlflow.db")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    (folder / "conf/data/tiny.yaml").write_text(yaml.safe_dump(TINY | {"outputs": "outputs"}))  # whose metrics git keeps
    params |= {"data": "tiny", "features": "tiny", "outputs": "outputs", "reads": "logs"}
    params["overrides"] |= {"two_tower": CURVES, "ranker": f"{CURVES} {TREES}", "selection": "selection.requests=100"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    git(folder, "init", "-q")
    run(folder, "init")
    return folder


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "as it is")


def figure(folder: Path) -> float:
    return json.loads((folder / "outputs/metrics/two_tower.json").read_text())[RECALL]


@pytest.mark.full
def test_a_pipeline_is_repeated_tried_compared_plotted_pushed_pulled_and_served(project, tmp_path):
    printed = run(project, "repro", timeout=LONG_S)
    assert "Running stage 'drift'" in printed, printed[-3000:]
    assert "up to date" in run(project, "status")
    commit(project)
    run(project, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    assert "pushed" in (printed := run(project, "push")), printed
    commit(project)
    kept = figure(project)

    trial = f"overrides.two_tower='{CURVES} seed=1'"
    tried = run(project, "exp", "run", "-S", trial, "two_tower", timeout=LONG_S)
    assert "seed=1" in tried, tried
    changes = json.loads(run(project, "metrics", "diff", "--json"))["outputs/metrics/two_tower.json"][RECALL]
    assert (changes["old"], changes["new"]) == (kept, figure(project)), changes
    assert changes["old"] != changes["new"]
    run(project, "plots", "show")
    page = (project / "dvc_plots/index.html").read_text()
    for name in ("two_tower/curves/valid/recall_at_100.tsv", "two_tower/curves/train/loss.tsv",
                 "ranker/curves/student-train/loss.tsv", "ranker/curves/dcn-valid/objective_long_view.tsv",
                 "where watches are lost"):  # fmt: skip
        assert name in page, name
    *_, last = (project / "outputs/two_tower/curves/valid/recall_at_100.tsv").read_text().split()
    assert last in page
    assert [*(project / "dvc_plots").rglob("*reliability_long_view.png")]

    git(project, "checkout", "-q", ".")
    run(project, "checkout")
    assert figure(project) == kept
    git(tmp_path, "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    assert "fetched" in (printed := run(clone, "pull")), printed
    assert "up to date" in run(clone, "status")
    built = python(clone, "-m", "watchnext.lifecycle", "release", "data=tiny")
    assert built.returncode == 0, built.stderr[-3000:]
    names = [(each / "releases/current").resolve().name for each in (project, clone)]
    assert names[0] == names[1]  # the same release, of what was pulled
    server = Server(tmp_path, releases=clone / "releases", shell="uvicorn")
    try:
        server.ready(LONG_S)
        answer = httpx.post(f"{server.url}/v1/recommend", json={"user_id": "u-1", "k": 5}, timeout=60).json()
        assert answer["release"] == names[0]
        assert len(answer["items"]) == 5
    finally:
        server.end()

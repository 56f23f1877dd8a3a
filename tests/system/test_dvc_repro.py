"""A real `dvc repro` of the first stage on a log that lies elsewhere: what a team changes there makes it run again."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml

from dvc_commands import DVC, git, run, started

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path) -> tuple[Path, Path]:
    """The repository's dvc.yaml with all that it names, on data=mine; and the folder of the log."""
    folder, log = tmp_path / "project", tmp_path / "team" / "log"
    folder.mkdir()
    for name in ("conf", "src", "train.py", "dvc.yaml"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    shutil.copytree(ROOT / "data", log)
    for path in sorted((log / "impressions").iterdir())[2:]:
        shutil.rmtree(path)
    preset = (ROOT / "conf" / "data" / "sample.yaml").read_text()
    for key, value in {
        "name: sample": "name: mine",
        "outputs: outputs": "outputs: outputs/mine",
        "root: data": f"root: {log}",
    }.items():
        assert key in preset
        preset = preset.replace(key, value)
    (folder / "conf" / "data" / "mine.yaml").write_text(preset)
    told = {"data": "mine", "features": "world", "outputs": "outputs/mine", "reads": str(log)}
    (folder / "params.yaml").write_text(yaml.safe_dump(yaml.safe_load((ROOT / "params.yaml").read_text()) | told))
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    git(folder, "init", "-q")
    run(folder, "init")
    return folder, log


def test_a_new_day_of_a_teams_own_log_is_noticed(project):
    folder, log = project
    assert "Running stage 'tables'" in (printed := run(folder, "repro", "tables")), printed
    assert "Data and pipelines are up to date" in run(folder, "status", "tables")
    shutil.copytree(ROOT / "data/impressions/date=2025-03-12", log / "impressions" / "date=2025-03-12")
    assert str(log) in (printed := run(folder, "status", "tables")), printed
    printed = run(folder, "repro", "tables")
    assert "Running stage 'tables'" in printed
    assert "2 days unchanged" in printed


def test_a_file_that_is_read_and_not_watched_is_refused(project):
    folder, log = project
    params = yaml.safe_load((folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, "reads": "conf"}))
    printed = run(folder, "repro", "tables")
    assert f"params.yaml has DVC watch 'conf', but the loader of data=mine reads '{log}'; write `reads: {log}`" in printed


def test_a_stage_that_is_interrupted_a_trial_and_a_clone_that_pulls(project, tmp_path):
    folder, log = project
    process = started(folder, DVC, "repro", "tables")
    next(line for line in process.stdout if line.startswith("> python -m watchnext.data tables"))
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    printed, _ = process.communicate(timeout=120)
    assert process.returncode, printed
    assert not (folder / "dvc.lock").exists()
    run(folder, "repro", "tables")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "made")

    printed = run(folder, "exp", "run", "-S", "overrides.tables='seed=1 min_count=3'", "tables")
    assert f"> python -m watchnext.data tables data=mine reads={log} seed=1 min_count=3" in printed, printed
    assert "seed=1 min_count=3" in run(folder, "params", "diff")
    git(folder, "checkout", "-q", ".")

    run(folder, "remote", "add", "-d", "store", str(tmp_path / "remote"))
    assert "pushed" in (printed := run(folder, "push", "tables")), printed
    git(folder, "commit", "-qam", "remote")
    git(tmp_path, "clone", "-q", str(folder), "clone")
    assert "fetched" in (printed := run(tmp_path / "clone", "pull", "tables")), printed
    files = sorted(path.relative_to(folder) for path in (folder / "outputs/mine/tables").rglob("*") if path.is_file())
    assert files
    assert all((tmp_path / "clone" / path).read_bytes() == (folder / path).read_bytes() for path in files)
    assert "up to date" in run(tmp_path / "clone", "status", "tables")
    assert {"tables", "drift"} <= set(re.findall(r'"(\w+)"', run(folder, "dag", "--md")))

"""A real `dvc repro` of the first stage on a log that lies elsewhere: what a team changes there makes it run again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DVC = Path(sys.executable).with_name("dvc")


def run(folder: Path, *words: str) -> str:
    environment = os.environ | {"PATH": f"{DVC.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site")}
    ran = subprocess.run([DVC, *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ran.stdout + ran.stderr


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
    (folder / "params.yaml").write_text(yaml.safe_dump(told))
    run(folder, "init", "--no-scm")
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

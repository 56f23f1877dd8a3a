"""Who may import whom, and the files that must stand at the top."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FIXED = (
    "conf",
    "src",
    "data.dvc",
    "bentofile.yaml",
    "tests",
    "pyproject.toml",
    "README.md",
    "train.py",
    "tune.py",
    "dvc.yaml",
    "LICENSE",
    "Makefile",
)


def test_a_stage_imports_only_what_lies_before_it():
    linter = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("name", FIXED)
def test_the_top_of_the_package_holds_what_users_look_for(name):
    assert (ROOT / name).exists()


def test_every_pipeline_command_names_a_module_or_program_that_exists():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        words = stage["cmd"].split()
        assert words[0] == "python", name
        if words[1] == "-m":
            assert (ROOT / "src" / words[2].replace(".", "/") / "__main__.py").exists(), name
        else:
            assert (ROOT / words[1]).exists(), name


def test_the_sample_is_small_and_carried_by_git():
    sizes = [path.stat().st_size for path in (ROOT / "data").rglob("*.parquet")]
    assert len(sizes) == 2 + 10  # users, videos, and a file a day
    assert sum(sizes) <= 5_000_000
    assert yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]["cache"] is False

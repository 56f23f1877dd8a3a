"""A folder in which programs that train are run."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, world_folder, empty_store) -> Path:
    """A working directory as the repository is one, with built features."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/features").symlink_to(world_folder)
    return tmp_path

"""DVC and git as people type them in a project, with the package of this repository."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DVC = Path(sys.executable).with_name("dvc")


def started(folder: Path, *words: str | Path) -> subprocess.Popen:
    environment = os.environ | {"PATH": f"{DVC.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    environment |= {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / ".dvc/tmp/site"), "PYTHONUNBUFFERED": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(words, cwd=folder, env=environment, **output)


def run(folder: Path, *words: str, timeout: float = 300) -> str:
    return started(folder, DVC, *words).communicate(timeout=timeout)[0]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=folder, check=True, capture_output=True)

"""A small project of somebody's own: a log under string ids with a column of its own, and the commands run in its folder."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import polars as pl
import yaml

import programs
from watchnext.lifecycle.dvc_stages import stages
from watchnext.simulator.world import World

ROOT = Path(__file__).resolve().parents[1]
WORLD = {"users": 120, "videos": 300, "creators": 40, "tags": 12, "days": 5, "impressions_per_user_day": 12.0, "seed": 5}
TINY = {
    "name": "tiny",
    "outputs": "outputs/tiny",
    "releases": "releases",
    "store": "store",
    "clock": "release",
    "features": "tiny",
    "utc_offset_h": 0,
    "loader": {"_target_": "watchnext.data.loaders.canonical.CanonicalTables", "root": "logs"},
    "split": {"_target_": "watchnext.data.splits.TimeSplit", "valid_days": 1, "test_days": 1},
}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return programs.run(*words, folder=folder, environment=environment)


def own_logs(folder: Path) -> None:
    """Logs of a small world under string ids, with a column of their own."""
    tables = World(**WORLD).log()
    ids = {name: pl.format(name[0] + "-{}", name) for name in ("user_id", "video_id", "creator_id", "request_id")}
    for name in ("impressions", "users", "videos"):
        frame = getattr(tables, name)
        frame = frame.with_columns(**{key: value for key, value in ids.items() if key in frame.columns})
        if name == "users":
            frame = frame.with_columns(plan=pl.Series(["free", "paid", None] * (len(frame) // 3)))
        (folder / "logs").mkdir(exist_ok=True)
        frame.write_parquet(folder / "logs" / f"{name}.parquet")


def configure(folder: Path, changes: dict[str, str]) -> None:
    """Replace parts of copies of conf/config.yaml and the trainer's settings, each of which stands there once."""
    paths = [folder / "conf" / name for name in ("config.yaml", "trainer/default.yaml")]
    for old, new in changes.items():
        texts = {path: path.read_text() for path in paths}
        [path] = [path for path, text in texts.items() if text.count(old) == 1]
        path.write_text(texts[path].replace(old, new))


def configured(folder: Path) -> None:
    """Write a copy of what the commands read to `folder`, with a data set of its own."""
    for name in ("conf", "dvc.yaml", "params.yaml", "train.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    own_logs(folder)
    (folder / "conf" / "data" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    world = yaml.safe_load((folder / "conf" / "data" / "world.yaml").read_text())
    world["loader"] = {"_target_": "watchnext.simulator.world.World", **WORLD}
    (folder / "conf" / "data" / "world.yaml").write_text(yaml.safe_dump(world, sort_keys=False))
    schema = yaml.safe_load((folder / "conf" / "features" / "world.yaml").read_text())
    schema["features"]["plan"] = {"kind": "categorical", "entity": "user", "nullable": True}
    (folder / "conf" / "features" / "tiny.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    configure(folder, {"max_epochs: 10": "max_epochs: 1", "long_view_s: null": "long_view_s: 6"})


def built(folder: Path, empty_store: Path) -> Path:
    """A project in `folder` after one run of the pipeline."""
    shutil.copyfile(empty_store, folder / "mlflow.db")
    configured(folder)
    for command in stages(folder, {"data": "tiny", "features": "tiny", "outputs": "outputs/tiny"}).values():
        done = run(folder, *shlex.split(command)[1:])
        assert done.returncode == 0, command + done.stdout[-2000:] + done.stderr[-4000:]
    return folder

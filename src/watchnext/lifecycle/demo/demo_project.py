"""A project of its own for each arm: configuration, log, releases and store in one folder, all copied from a first one."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.tables import Tables
from watchnext.lifecycle.dvc_stages import run_stages
from watchnext.lifecycle.loop.daily_log import DailyLog
from watchnext.lifecycle.loop.loop_pass import TRAINED, Project, candidate_in
from watchnext.lifecycle.stage_process import Start
from watchnext.schema import FeatureSchema

DATA, FEATURES, RANKER = "demo", "world", "ranker"
COPIED = ("conf", "dvc.yaml", "params.yaml", "train.py")


@dataclass(frozen=True, kw_only=True)
class DemoProject:
    """The folder of an arm, as `python -m watchnext...` would run in it with data=demo.

    settings  overrides of every command
    """

    folder: Path
    settings: Sequence[str]
    start: Start

    @property
    def project(self) -> Project:
        """The project as the loop sees it."""
        outputs = self.folder / "outputs"
        return Project(
            root=self.folder, data=DATA, features=FEATURES, outputs=outputs, releases=self.folder / "releases",
            store=str(self.folder / "store"), served=outputs / "served", clock="release", utc_offset_h=0.0,
            overrides=self.settings, start=self.start,
        )  # fmt: skip

    def open_log(self, work: Path) -> DailyLog:
        """Return the log to which served days are added."""
        features = self.folder / "conf" / "features" / f"{FEATURES}.yaml"
        loader = CanonicalTables(root=str(self.folder / "log"), features=str(features))
        return DailyLog(loader, FeatureSchema.load(features), work=work)

    def make(self, log: Tables, *, source: Path, model: str) -> None:
        """Write the project of a log with the configuration in `source`, train `model` as its ranker, and let it serve.

        A project that is there already is left as it is; one that was cut short is made anew.
        """
        if self.folder.exists():
            return
        aside = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _configure(aside, source, model)
        _write_log(log, aside / "log")
        made = DemoProject(folder=aside, settings=self.settings, start=self.start)
        made._train()
        os.replace(aside, self.folder)

    def _train(self) -> None:
        project = self.project
        parameters = {"data": DATA, "features": FEATURES, "outputs": "outputs"}
        with open(self.folder / "stages.txt", "w") as stream:
            run_stages(self.folder, parameters, self.settings, only=TRAINED, start=self.start, stream=stream)
        if project.serving is None:  # its slate lost to a baseline: all arms begin with it all the same
            project.run("lifecycle", "promote", f"release={candidate_in(project.outputs)}", "force=true")

    def copy_of(self, other: "DemoProject") -> None:
        """Copy another project here, unless one is here already."""
        if not self.folder.exists():
            aside = self.folder.with_name(f"{self.folder.name}.new")
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(other.folder, aside, symlinks=True)
            os.replace(aside, self.folder)


def _configure(folder: Path, source: Path, model: str) -> None:
    for name in COPIED:
        (shutil.copytree if (source / name).is_dir() else shutil.copyfile)(source / name, folder / name)
    if model != RANKER:  # stages name the model, and a refit finds its settings by that name
        recipe = (source / "conf" / "model" / f"{model}.yaml").read_text()
        (folder / "conf" / "model" / f"{RANKER}.yaml").write_text(recipe.replace(f"name: {model}\n", f"name: {RANKER}\n"))
    preset = yaml.safe_load((source / "conf" / "data" / "sample.yaml").read_text())
    loader = {**preset["loader"], "root": "log"}
    (folder / "conf" / "data" / f"{DATA}.yaml").write_text(yaml.safe_dump({**preset, "name": DATA, "loader": loader}))


def _write_log(log: Tables, root: Path) -> None:
    for (day,), rows in log.impressions.group_by("day", maintain_order=True):
        (root / "impressions" / f"date={day}").mkdir(parents=True)
        rows.write_parquet(root / "impressions" / f"date={day}" / "part-0.parquet")
    log.users.write_parquet(root / "users.parquet")
    log.videos.write_parquet(root / "videos.parquet")

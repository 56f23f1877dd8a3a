"""A small log of every layout through every stage, to a slate of the release that they build."""

import json
import runpy
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

from layouts import LAYOUTS
from watchnext.cli import composed
from watchnext.data.tables import Tables
from watchnext.lifecycle.dvc_stages import stages
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.store import Store
from watchnext.simulator.world import World
from watchnext.types import Request

ROOT = Path(__file__).resolve().parents[2]
OWN = {
    "name": "own",
    "outputs": "outputs/own",
    "releases": "outputs/own/releases",
    "store": "outputs/own/store",
    "clock": "release",
    "features": "own",
    "utc_offset_h": 0,
    "loader": {
        "_target_": "watchnext.data.loaders.canonical.CanonicalTables",
        "root": "${oc.env:OWN_ROOT}",
        "features": "conf/features/${data.features}.yaml",
    },
    "split": {"_target_": "watchnext.data.splits.TimeSplit", "valid_days": 1, "test_days": 1},
}
# Published logs have the labels of a platform: one member of the ensemble each. Labels of which one is always or never true
# are for all of them, and for what weighs them.
RANKER = {
    "MovieLens 1M": "dcn",
    "MovieLens 32M": "xgboost",
    "VK-LSVD": "mlp",
    "KuaiRand-Pure": "logistic_regression",
}
READ_ALONE = ("KuaiRand-27K",)  # its files have other names than those of Pure, and else it is the same: test_every_loader.py
OWN_FEATURES = ("user_id", "video_id", "hour", "gap_s", "history", "user_counters", "video_counters")


@pytest.fixture(scope="session")
def tables() -> Tables:
    return World(users=60, videos=120, creators=20, tags=8, days=8, impressions_per_user_day=8.0, seed=5).log()


@pytest.fixture
def project(tmp_path, empty_store, monkeypatch) -> Path:
    """All that the commands read, and a data set that is in the three tables."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    for name in ("conf", "dvc.yaml", "params.yaml", "train.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, tmp_path / name)
    schema = yaml.safe_load((tmp_path / "conf" / "features" / "world.yaml").read_text())
    schema["features"] = {name: schema["features"][name] for name in OWN_FEATURES}
    (tmp_path / "conf" / "features" / "own.yaml").write_text(yaml.safe_dump(schema, sort_keys=False))
    (tmp_path / "conf" / "data" / "own.yaml").write_text(yaml.safe_dump(OWN))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    once = cache(lambda words: composed([*words]))  # most stages have the same words
    monkeypatch.setattr("watchnext.cli.composed", lambda words: deepcopy(once(tuple(words))))
    # Figures stay blank here; test_pipeline.py and test_small_logs.py draw those of small and of degenerate logs.
    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.draw", lambda canvas: canvas.get_renderer())
    monkeypatch.setattr("evidently.metrics.column_statistics.ValueDriftCalculation._render", lambda *_: [])
    return tmp_path


@contextmanager
def not_failing(command: str) -> Iterator[None]:
    try:
        yield
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"{command}: {ended.code}")


def run(words: list[str], monkeypatch) -> None:
    """A stage as `lifecycle pipeline` runs it, but in this process, whose imports are paid for."""
    by_name = words[0] == "-m"
    monkeypatch.setattr("sys.argv", words[by_name:])
    with not_failing(shlex.join(words)):
        runpy.run_module(words[1], run_name="__main__") if by_name else runpy.run_path(words[0], run_name="__main__")


@pytest.mark.filterwarnings("default")  # as in a stage's own process; Lightning warns of logs this small
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in READ_ALONE])
def test_a_log_of_this_layout_is_served(layout, tables, project, monkeypatch):
    data, variable, write, overrides = LAYOUTS[layout]
    raw = project / "raw"
    raw.mkdir()
    write(tables, raw)
    monkeypatch.setenv(variable, str(raw / "log.txt" if variable.endswith("FILE") else raw))
    chosen = composed([f"data={data}"]).data
    for command in stages(project, {name: chosen[name] for name in ("features", "outputs")} | {"data": data}).values():
        words = shlex.split(command.replace("model=ranker", f"model={RANKER.get(layout, 'ranker')}"))
        run([*words[1:], "trainer.max_epochs=1", *overrides], monkeypatch)
    report = json.loads(Path(chosen.outputs, "tables", "report.json").read_text())
    assert report["impressions"] > 100
    assert not report["rejected"]
    release = Release.load(current(Path(chosen.releases)))
    with closing(Store.open(project / "opened", release, durable=False)) as store:
        recommender = Recommender(release, store)
        known = release.user_ids.value(3)
        for user in (known, type(known)("777777")):
            answer = recommender.recommend(Request("r1", user, 10, release.as_of_ms, None))
            assert len(set(answer.ids)) == len(answer.ids) == 10
            assert not answer.degraded
            assert np.isfinite(answer.predictions[:, 0]).all()
            assert set(answer.ids) <= {release.video_ids.value(row) for row in range(len(release.catalogue))}

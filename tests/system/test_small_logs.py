"""Logs so small, or so even, that some figures are undefined: no later stage stops at them, and a release serves."""

import json
import os
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

import programs
from tiny_project import configure
from watchnext.data.tables import Tables
from watchnext.simulator.world import World

ROOT = Path(__file__).resolve().parents[2]
LOGS = ("no_likes", "one_viewer")
# The stages of `lifecycle pipeline data=NAME`, and reports on demand, of every log in one process: its imports are paid once.
STAGES = (
    programs.EXIT_CODE
    + """
import sys
from pathlib import Path
from watchnext.lifecycle.dvc_stages import stages
for data in sys.argv[1:]:
    chosen = {"data": data, "features": "world", "outputs": f"outputs/{data}"}
    asked = {name: f"python -m watchnext.{name} data={data}" for name in (
        "ranking trade-off", "ranking importance report.repeats=1", f"features card out=cards/{data}", "monitoring drift")}
    for name, command in (stages(Path.cwd(), chosen) | asked).items():
        code = exit_code(command)
        if code and (name, code) != ("monitoring drift", 3):  # nothing was served yet
            sys.exit(f"{data} {name}: {code}")
"""
)


def preset(name: str) -> dict:
    return {
        "name": name,
        "outputs": f"outputs/{name}",
        "releases": f"releases/{name}",
        "store": f"store/{name}",
        "clock": "release",
        "features": "world",
        "utc_offset_h": 0,
        "loader": {"_target_": "watchnext.data.loaders.canonical.CanonicalTables", "root": name},
        "split": {"_target_": "watchnext.data.splits.TimeSplit", "valid_days": 1, "test_days": 1},
    }


def logs() -> dict[str, Tables]:
    """A platform without likes, whose test day has no long view; one viewer and one video, no long view on held-out days."""
    whole = World(users=30, videos=60, creators=9, tags=6, days=4, impressions_per_user_day=6.0, seed=5).log()
    impressions, days = whole.impressions, whole.impressions["day"].unique().sort()
    before = {name: pl.col("long_view") & (pl.col("day") < days[day]) for name, day in (("test", 3), ("valid", 2))}
    seldom = impressions.unique("time_ms", maintain_order=True).gather_every(5)
    one = {"users": whole.users[:1], "videos": whole.videos.sort("upload_ms")[:1]}
    ids = [pl.lit(one[f"{name}s"][f"{name}_id"][0], pl.Int64).alias(f"{name}_id") for name in ("user", "video")]
    return {
        "no_likes": Tables(impressions.with_columns(like=pl.lit(False), long_view=before["test"]), whole.users, whole.videos),
        "one_viewer": Tables(seldom.with_columns(ids, long_view=before["valid"]), **one),
    }


@pytest.fixture(scope="module")
def project(empty_store, tmp_path_factory) -> Path:
    """The logs after a run of the pipeline on each, and of the reports."""
    folder = tmp_path_factory.mktemp("small")
    for name in ("conf", "dvc.yaml", "params.yaml", "train.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    configure(folder, {"max_epochs: 10": "max_epochs: 1"})
    for name, tables in logs().items():
        (folder / f"conf/data/{name}.yaml").write_text(yaml.safe_dump(preset(name)))
        (folder / name).mkdir()
        for table, frame in vars(tables).items():
            frame.write_parquet(folder / name / f"{table}.parquet")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    done = programs.run("-c", STAGES, *LOGS, folder=folder, environment=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "printed").write_text(done.stdout)
    return folder


def metrics(project: Path, name: str, stage: str) -> dict:
    return json.loads((project / "outputs" / name / "metrics" / f"{stage}.json").read_text())


@pytest.mark.parametrize("name", LOGS)
def test_a_release_serves_and_everybody_with_a_video_left_to_see_has_a_slate(project, name):
    found = metrics(project, name, "recommendations")
    assert (found["slates"], found["users"]) == {"one_viewer": (0, 1)}.get(name, (30, 30))
    built = json.loads((project / "outputs" / name / "release.json").read_text())["release"]
    releases = project / "releases" / name
    assert {path.name for path in releases.iterdir() if not path.name.startswith(".")} >= {built, "current"}
    assert (releases / "current").resolve().name == built


def test_a_head_without_a_positive_has_no_auc_and_the_others_have(project):
    for found in metrics(project, "no_likes", "evaluation")["ranking"].values():
        assert (found["like"]["auc"], found["like"]["gauc"]) == (None, None)
        assert found["like"]["logloss"] < 0.1
        assert 0 < found["click"]["auc"] < 1
    assert metrics(project, "no_likes", "ranker")["test/auc_like"] is None


def test_test_days_without_a_long_view_have_no_recall_of_any_and_the_towers_are_trained(project):
    towers = metrics(project, "no_likes", "two_tower")
    assert towers["valid/recall_at_100"] == 1.0  # of 60 videos
    assert towers["test/recall_at_100"] is None
    found = metrics(project, "no_likes", "evaluation")
    assert found["requests"] > 0
    assert set(found["lost"].values()) == {None}
    assert found["funnel"]["slate"]["recall@10"] is None
    assert found["retrieval"]["merged"]["recall@100"]["outcome"]["long_view"] is None
    assert found["retrieval"]["merged"]["recall@100"]["outcome"]["watched"] > 0
    assert found["ranking"]["streaming"]["long_view"]["auc"] is None


def test_one_viewer_gives_no_interval_and_one_video_no_inequality(project):
    found = metrics(project, "one_viewer", "evaluation")
    assert found["retrieval"]["merged"]["coverage"] in (0.0, 1.0)
    assert found["retrieval"]["gain"]["recall@100"]["low"] is None
    assert found["ranking"]["streaming"]["long_view"]["gauc"] is None
    importance = json.loads((project / "outputs/one_viewer/reports/importance.json").read_text())
    assert {worse["auc"]["mean"] for worse in importance["worse_by"].values()} == {None}


@pytest.mark.parametrize("name", LOGS)
def test_reports_are_written_and_hold_no_nan(project, name):
    outputs = project / "outputs" / name
    for folder in ("reports", "trade_off"):
        assert sorted(path.suffix for path in (outputs / folder).iterdir()) == [".json", ".png"]
    assert (project / f"cards/{name}/data_card.md").exists()
    written = list(outputs.rglob("*.json"))
    assert len(written) > 10
    assert not [path for path in written if "NaN" in path.read_text()]


def test_no_table_says_nan(project):
    assert "nan" not in (project / "printed").read_text().split()


def test_undefined_figures_are_left_out_of_tracked_runs(project):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    stages = client.search_experiments(filter_string="name LIKE 'watchnext%'")
    runs = client.search_runs([each.experiment_id for each in stages])
    assert {run.info.status for run in runs} == {"FINISHED"}
    logged = [value for run in runs for value in run.data.metrics.values()]
    assert logged
    assert all(value == value for value in logged)

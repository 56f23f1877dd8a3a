"""The whole pipeline, every stage in its own process as DVC runs it, on a small log of somebody's own.

Its ids are strings and it has a raw feature that no other data set has: nothing but YAML says so.
"""

import json
import re
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from tiny_project import run
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.metrics import auc, logloss
from watchnext.ranking.scoring import Ranker
from watchnext.types import TARGETS


def metrics(project: Path, name: str) -> dict:
    return json.loads((project / "outputs" / "tiny" / "metrics" / f"{name}.json").read_text())


def test_serving_and_training_compute_the_same(project):
    found = metrics(project, "evaluation")
    assert found["skew"] < 1e-4
    assert found["skew_watch_s"] < 1e-3


def test_a_ranker_is_judged_by_the_labels_it_learned(project):
    """The log has its own flags of long views; the configuration says 6 seconds."""
    outputs = project / "outputs" / "tiny"
    features = FeatureSet.load(outputs / "features")
    rows, place = features.rows("test"), TARGETS.index("long_view")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    label, score = features.columns["targets"][rows, place], ranker.scored(features, rows)[:, place]
    found = metrics(project, "evaluation")["ranking"]["streaming"]["long_view"]
    assert found["auc"] == pytest.approx(auc(label, score), abs=1e-4)
    assert found["logloss"] == pytest.approx(logloss(label, score), abs=1e-4)
    flagged = pl.read_parquet(project / "logs" / "impressions.parquet")["long_view"].mean()
    assert features.report["labels"]["train"]["long_view"] != pytest.approx(flagged, abs=0.05)


def test_a_raw_feature_is_one_line_and_reaches_training_and_drift(project):
    pipeline = FeaturePipeline.load(project / "outputs" / "tiny" / "features" / "pipeline")
    assert pipeline.fitted["vocabulary.plan"].tolist() == ["free", "paid"]
    release = (project / "releases" / "current").resolve()
    assert set(pl.read_parquet(release / "reference" / "reference.parquet")["plan"].unique()) == {"free", "paid", None}


def test_every_stage_of_the_funnel_is_measured_beside_its_floors(project):
    found = metrics(project, "evaluation")
    assert found["regime"] == "request"
    assert set(found["funnel"]) == {"retrieval", "ranking", "slate", "popular", "recent popular", "popular now", "random"}
    for stage in found["funnel"].values():
        recalls = [value for name, value in stage.items() if name.startswith("recall@")]
        assert recalls == sorted(recalls)
        assert 0 <= recalls[0] <= recalls[-1] <= 1
    assert set(found["ranking"]) == {"frozen", "daily", "streaming", "request"}
    assert all(0.5 < ranking["long_view"]["auc"] < 1 for ranking in found["ranking"].values())
    requested = found["ranking"]["request"]["long_view"]
    assert requested["groups_request"] > 0
    assert all(0 < requested[f"{name}_request{weight}"] < 1 for name in ("gauc", "mrr") for weight in ("", "_by_impressions"))


def test_retrieval_is_measured_by_source_beside_its_floors(project):
    found = metrics(project, "evaluation")
    retrieval = found["retrieval"]
    assert set(retrieval["floors"]) == set(found["funnel"]) - {"retrieval", "ranking", "slate"}
    assert {"two_tower", "trending", "fresh"} <= set(retrieval["sources"])
    assert 0 < retrieval["relevant"]["outcome"]["long_view"] < retrieval["relevant"]["outcome"]["watched"]
    # The stage of the funnel that is called retrieval, by another way: all candidates, of what was watched long.
    assert 0 < retrieval["served"]["recall"]["outcome"]["long_view"] <= 1
    assert retrieval["served"]["coverage"] == found["funnel"]["retrieval"]["coverage"]
    for entry in (retrieval["merged"], *retrieval["sources"].values(), *retrieval["floors"].values()):
        assert entry["recall@100"]["outcome"]["watched"] <= entry["recall@500"]["outcome"]["watched"]
    assert sum(found["lost"].values()) == pytest.approx(1, abs=1e-5)
    assert (project / "outputs" / "tiny" / "evaluation" / "retrieval.png").stat().st_size > 1000


def leaves(found: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value of nested mappings and lists under its dotted name."""
    if isinstance(found, dict | list):
        for key, value in found.items() if isinstance(found, dict) else enumerate(found):
            yield from leaves(value, f"{name}.{key}")
    else:
        yield name, found


def test_nothing_measured_says_the_time(project):
    """Files that git tracks must not change when nothing did: none names a time, and no figure is a date or near the clock."""
    this_year = str(date.today().year)
    for path in (project / "outputs" / "tiny" / "metrics").glob("*.json"):
        for name, value in leaves(json.loads(path.read_text())):
            assert not re.search(r"duration|_at$|timestamp", name), (path, name)
            assert not (isinstance(value, str) and re.search(rf"\b{this_year}-\d\d", value)), (path, name, value)
            clocks = (time.time(), 1e3 * time.time()) if isinstance(value, int | float) else ()
            assert all(abs(value / clock - 1) > 0.001 for clock in clocks), (path, name, value)


def test_the_first_release_serves_and_the_registry_knows(project, monkeypatch):
    from watchnext.lifecycle import release_registry

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    current = (project / "releases" / "current").resolve().name
    assert json.loads((project / "outputs" / "tiny" / "release.json").read_text())["release"] == current
    assert release_registry.release_of("champion", name="watchnext-tiny") == current


def test_every_user_has_a_slate_ahead_of_time(project):
    found = metrics(project, "recommendations")
    assert found["slates"] == found["users"] == 120


def test_every_run_is_tracked_with_its_data_and_schema(project, monkeypatch):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    stages = {each.experiment_id: each.name for each in client.search_experiments(filter_string="name LIKE 'watchnext%'")}
    runs = client.search_runs([*stages])
    assert {(stages[run.info.experiment_id].removeprefix("watchnext-"), run.info.run_name) for run in runs} == {
        ("retrieval", "two_tower"), ("ranking", "ranker"), ("lifecycle", "selection"), ("lifecycle", "release"),
        ("evaluation", "evaluation"), ("monitoring", "drift"),
    }  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.tags["data_hash"] and run.data.tags["schema_fingerprint"] for run in runs)
    (ranker,) = (run for run in runs if run.info.run_name == "ranker")
    (given,) = ranker.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("tiny", ranker.data.tags["data_hash"])
    assert json.loads(given.dataset.source) == {"uri": "outputs/tiny"}
    (selection,) = (run for run in runs if run.info.run_name == "selection")
    assert {each.path for each in client.list_artifacts(selection.info.run_id)} >= {"selection.txt", "orders.png"}


def test_the_registered_version_says_what_its_model_takes_and_returns(project):
    from mlflow import MlflowClient
    from mlflow.models import Model

    version = MlflowClient(f"sqlite:///{project}/mlflow.db").search_model_versions("name = 'watchnext-tiny'")[0]
    assert version.tags["slate"] in version.description
    assert version.tags["slate"].startswith("loses to ")
    folder = version.source.removeprefix("file://")
    model = Model.load(folder)
    assert {"plan", "duration_ms", "user click 24h"} <= {*model.signature.inputs.input_names()}
    assert model.signature.outputs.input_names() == [f"score {name}" for name in TARGETS]
    example = model.load_input_example(folder)
    assert (list(example.columns), len(example)) == (model.signature.inputs.input_names(), 3)


def test_the_same_parts_give_the_same_release_and_others_a_challenger(project):
    before = (project / "releases" / "current").resolve().name
    again = run(project, "-m", "watchnext.lifecycle", "release", "data=tiny")
    assert f"{before}: serves" in again.stdout, again.stderr[-2000:]
    other = run(project, "-m", "watchnext.lifecycle", "release", "data=tiny", "reranking.exploration.epsilon=1.0")
    assert "challenger" in other.stdout, other.stderr[-2000:]
    assert (project / "releases" / "current").resolve().name == before
    compared = run(project, "-m", "watchnext.lifecycle", "promote", "data=tiny")
    assert compared.returncode == 2, compared.stdout + compared.stderr[-4000:]
    assert "is rejected: " in compared.stdout  # its slots are random
    assert (project / "releases" / "current").resolve().name == before
    report = json.loads((project / "outputs" / "tiny" / "promotion" / "promotion.json").read_text())
    assert report["verdict"] == "rejected"
    assert report["slate"]["recall@20"]["difference"] < 0
    assert {"coverage", "latency", "index_recall", "skew", "slice home"} <= {each["name"] for each in report["guards"]}
    assert "clear loss" in (project / "outputs" / "tiny" / "promotion" / "promotion.html").read_text()
    promoted = run(project, "-m", "watchnext.lifecycle", "promote", "data=tiny", "force=true")
    assert promoted.returncode == 0, promoted.stderr
    after = (project / "releases" / "current").resolve().name
    assert after != before
    assert f"{after} serves instead of {before};" in promoted.stdout


def test_the_registry_says_who_serves_who_did_and_why(project, monkeypatch):
    from mlflow import MlflowClient

    from watchnext.lifecycle import release_registry

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    current = (project / "releases" / "current").resolve().name
    model = {"name": "watchnext-tiny"}
    assert release_registry.release_of("champion", **model) == current
    assert release_registry.release_of("challenger", **model) is None
    assert release_registry.release_of("previous", **model) not in (None, current)
    version = MlflowClient(f"sqlite:///{project}/mlflow.db").get_model_version_by_alias(model["name"], "champion")
    assert (version.tags["decision"], version.tags["reason"]) == ("forced", "force=true")
    schema = json.loads((project / "releases" / "current" / "manifest.json").read_text())["schema"]
    for said in (current, schema, "docs/model_card.md", "| commit |", "tiny, hash ", "```yaml"):
        assert said in version.description


def test_the_release_is_valued_on_the_propensities_of_the_log(project):
    found = run(project, "-m", "watchnext.evaluation", "off-policy", "data=tiny")
    assert found.returncode == 0, found.stdout + found.stderr[-2000:]
    assert "cascade dr" in found.stdout
    report = json.loads((project / "outputs" / "tiny" / "evaluation" / "off_policy.json").read_text())
    assert report["reward"] == "long_view"
    assert report["requests"] > 100
    assert report["loggers"] == 2  # softmax and random
    assert report["logged"][1] < report["logged"][0] < report["logged"][2]
    assert len(report["estimates"]) == 11


def test_drift_without_served_traffic_is_no_data(project):
    found = run(project, "-m", "watchnext.monitoring", "drift", "data=tiny")
    assert found.returncode == 3, found.stdout + found.stderr[-2000:]
    assert "no data" in found.stdout


def test_an_experiment_on_a_log_that_no_world_made_is_refused(project):
    found = run(project, "-m", "watchnext.evaluation", "experiment", "data=tiny", "days=1")
    assert found.returncode == 1
    assert "was not built from the log of this world" in found.stderr
    assert "known of a simulated log alone, not of a real one" in found.stderr


def test_a_rejected_row_is_kept_with_its_reason(project):
    rejected = pl.read_parquet(project / "outputs" / "tiny" / "tables" / "rejected.parquet")
    assert rejected.columns == ["table", "row", "reason", "value"]


def test_a_stage_without_its_input_names_the_stage_to_run(project, tmp_path):
    for name in ("conf", "dvc.yaml", "params.yaml", "train.py"):
        (tmp_path / name).symlink_to(project / name)
    for words, repair in (
        (("-m", "watchnext.features", "build", "data=tiny"), "dvc repro tables"),
        (("-m", "watchnext.retrieval", "index", "data=tiny"), "dvc repro two_tower"),
        (("-m", "watchnext.retrieval", "graph", "data=tiny"), "dvc repro"),
        (("-m", "watchnext.retrieval", "trending", "data=tiny"), "dvc repro"),
        (("-m", "watchnext.lifecycle", "release", "data=tiny"), "dvc repro"),
    ):
        found = run(tmp_path, *words)
        assert found.returncode == 1
        assert repair in found.stderr, found.stderr
        assert "Traceback" not in found.stderr


def test_two_releases_are_compared_and_a_log_beside_one(project):
    one, other = sorted(path.name for path in (project / "releases").iterdir() if path.is_dir() and not path.is_symlink())
    compared = run(project, "-m", "watchnext.evaluation", "compare", one, other, "data=tiny")
    assert f"{one} beside {other}: " in compared.stdout, compared.stderr[-2000:]
    report = json.loads((project / "outputs" / "tiny" / "evaluation" / "comparison.json").read_text())
    assert report["slate"]["recall@20"]["floor"] >= 0
    assert report["ranking"]["long_view"]["gauc"]["difference"] == 0  # they differ in exploration alone
    assert any(figures["difference"] for figures in report["slate"].values())
    beside = run(project, "-m", "watchnext.evaluation", "compare", one, "incumbent=logs", "data=tiny")
    assert "the incumbent's videos in two orders" in beside.stdout, beside.stderr[-2000:]
    same = run(project, "-m", "watchnext.evaluation", "compare", "data=tiny")
    assert "is the last built release and the one that serves" in same.stderr


def test_the_evaluation_is_one_page_with_every_watch_on_it(project):
    found, folder = metrics(project, "evaluation"), project / "outputs" / "tiny" / "evaluation"
    assert found["slate"]["broken"].keys() >= {"safety", "region", "seen", "duplicate"}
    assert sum(found["slate"]["broken"].values()) == 0
    watches = found["losses"]["slices"]["outcome"]["watched"]["watches"]
    assert watches == found["retrieval"]["relevant"]["outcome"]["watched"]
    page = (folder / "evaluation.html").read_text()
    assert f"{watches:,}" in page
    assert {row["reason"] for row in json.loads((folder / "losses.json").read_text())} == {
        *found["losses"]["slices"]["outcome"]["watched"]
    } - {"watches"}


def test_a_release_learns_from_all_days_with_the_choices_that_were_evaluated(project):
    """The last test here: it trains once more."""
    outputs, releases = project / "outputs" / "tiny", project / "releases"
    done = run(project, "-m", "watchnext.lifecycle", "release", "data=tiny", "refit=true")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    names = json.loads((outputs / "release.json").read_text())
    manifests = {key: json.loads((releases / name / "manifest.json").read_text()) for key, name in names.items()}
    assert manifests["refitted"]["evaluated"] == names["release"]
    last_ms = pl.read_parquet(project / "logs" / "impressions.parquet")["time_ms"].max()
    assert manifests["refitted"]["as_of_ms"] == last_ms + 1 > manifests["release"]["as_of_ms"]
    for part in ("reranking.json", "retrieval.json", "selection.json", "calibration/long_view.npz"):
        kept = [(releases / name / part) for name in names.values()]
        assert len({path.read_bytes() for path in kept if path.exists()}) <= 1, part
    evaluated, again = (json.loads((outputs / part / "ranker" / "metrics.json").read_text()) for part in ("", "refit"))
    assert again.items() <= evaluated.items()
    assert not [name for name in again if name.startswith(("valid/", "test/"))]
    rows = FeatureSet.load(outputs / "refit" / "features").report["impressions"]
    assert rows == {"train": sum(FeatureSet.load(outputs / "features").report["impressions"].values()), "valid": 0, "test": 0}
    refused = run(project, "-m", "watchnext.evaluation", "compare", names["refitted"], names["release"], "data=tiny")
    assert "it knows them" in refused.stderr

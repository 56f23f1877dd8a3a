"""The whole way of a candidate, on real releases of a small log: compared, decided, switched, and recorded last."""

import json
import os
import shutil
from pathlib import Path

import pytest

import small_release
from watchnext import tracking
from watchnext.cli import composed
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.promote import register, serving_id
from watchnext.lifecycle.promotion.promotion import run_promotion
from watchnext.serving.release.only_one import HeldError, only_one
from watchnext.serving.release.release import ReleaseError, switch

CONF = Path(__file__).resolve().parents[3] / "conf"
TAGS = {"data_hash": "d1", "schema_fingerprint": "f1"}


@pytest.fixture(scope="module")
def folder(feature_stage, once, empty_store, tmp_path_factory) -> Path:
    """Two releases that are alike but for their id, registered; first serves."""
    folder = tmp_path_factory.mktemp("promotion")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    built = small_release.small_log(feature_stage, once)
    parts = small_release.exported(built, once)
    for name in ("second", "first"):
        small_release.make_release(built, parts, folder / "releases", id=name)
    (folder / "outputs").mkdir()
    for part in ("features", "tables"):
        (folder / "outputs" / part).symlink_to(built[0].parent / part)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with tracking.start_run("release", config={}, tags=TAGS) as run:
            for name in ("first", "second"):
                register(folder / "releases" / name, new=False, data="tiny", run=run, metrics={}, card=f"# {name}")
        release_registry.set_champion("first", name="watchnext-tiny")
    return folder


@pytest.fixture
def decided(folder, monkeypatch):
    """A candidate and overrides > the decision."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    own = ["data.name=tiny", "regime=streaming", "evaluation.requests=20", "slate_size=5", "promotion.guards.latency=100"]
    own += [f"data.outputs={folder}/outputs", f"data.releases={folder}/releases", f"data.store={folder}/store"]
    own += [f"monitoring.served={folder}/served"]
    return lambda candidate, *words: run_promotion(composed([*own, *words], CONF), candidate)


def test_equal_releases_are_a_tie_which_replay_can_only_shortlist(decided, folder):
    found = decided("second")
    assert found.verdict == "shortlisted", found.reason
    assert serving_id(folder / "releases") == "first"
    report = json.loads((folder / "outputs" / "promotion" / "promotion.json").read_text())
    assert report["replayed"] == ["second", "first"]
    assert report["slate"]["recall@5"]["difference"] == 0
    guards = {each["name"]: each for each in report["guards"]}
    assert guards["skew"]["candidate"] == guards["broken"]["candidate"] == 0
    assert guards["index_recall"]["candidate"] == 1
    assert guards["size"]["candidate"] == pytest.approx(guards["size"]["champion"], rel=0.01)
    assert {"calibration of long_view", "slice home", "slice short history", "coverage", "latency"} <= guards.keys()
    with tracking.store(tracking.tracking_uri()) as client:
        version = client.get_model_version_by_alias("watchnext-tiny", "challenger")
        run = client.get_run(version.tags["decided_by_run"])
    assert (version.tags["decision"], version.description) == ("shortlisted", "# second")
    built = json.loads((folder / "outputs" / "features" / "report.json").read_text())
    assert run.data.tags["data_hash"] == built["data_hash"]


def test_what_cannot_be_compared_changes_nothing(decided, folder, monkeypatch):
    with pytest.raises(ReleaseError, match="'first' serves already"):
        decided("first")
    held = only_one(folder / "outputs" / "promotion" / "lock", "is here")
    with held, pytest.raises(HeldError, match=rf"process {os.getpid()} compares releases in .*; wait until it has ended"):
        decided("second")
    manifest = folder / "releases" / "first" / "manifest.json"
    monkeypatch.setattr(
        "watchnext.lifecycle.promotion.promotion.read_manifest",
        lambda path: json.loads(manifest.read_text()) | {"schema": "another"},
    )
    with pytest.raises(ReleaseError, match=r"has the schema another, the features have .*candidate=second force=true"):
        decided("second")
    assert serving_id(folder / "releases") == "first"


def test_a_promotion_that_lost_a_race_is_on_no_record(decided, folder, monkeypatch):
    decided("second")
    report = (folder / "outputs" / "promotion" / "promotion.json").read_bytes()
    module = "watchnext.lifecycle.promotion.promotion.uploaded"
    monkeypatch.setattr(module, lambda release: (folder / "releases" / "current").unlink())  # meanwhile, another one moved it
    with pytest.raises(ReleaseError, match=r"None serves now instead of first; compare with it"):
        decided("second", "force=true")
    switch(folder / "releases", "first")
    assert (folder / "outputs" / "promotion" / "promotion.json").read_bytes() == report
    with tracking.store(tracking.tracking_uri()) as client:
        version = client.get_model_version_by_alias("watchnext-tiny", "challenger")
    assert version.tags["decision"] == "shortlisted"


def test_a_champion_that_is_gone_is_named_and_force_is_recorded(decided, folder):
    (folder / "releases" / "first").rename(folder / "kept")
    with pytest.raises(ReleaseError, match=r"names first, which is gone; .*promote release=ID"):
        decided("second")
    (folder / "kept").rename(folder / "releases" / "first")
    assert decided("second", "force=true").verdict == "forced"
    assert serving_id(folder / "releases") == release_registry.release_of("champion", name="watchnext-tiny") == "second"
    assert release_registry.release_of("previous", name="watchnext-tiny") == "first"
    switch(folder / "releases", "first")

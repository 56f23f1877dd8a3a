"""A sound project has no trouble; each trouble is found, repaired where that is safe, and gone after that."""

import json
import os
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from watchnext import kernels, tracking
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.doctor import Doctor
from watchnext.lifecycle.promote import let_first_serve, register, serving_id
from watchnext.serving.release.canary_plan import new_plan, write_plan
from watchnext.serving.release.release import current
from watchnext.serving.store.engines.folder import locked
from watchnext.serving.store.store import Store

OLD_S = time.time() - 40 * 86_400
TAGS = {"data_hash": "d1", "schema_fingerprint": "f1"}


@pytest.fixture
def project(release, empty_store, tmp_path, monkeypatch) -> Path:
    """A release that is registered, serves and has a store; an empty cache of machine code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(kernels, "cache_folder", lambda: str(tmp_path / "kernels"))
    (tmp_path / "kernels").mkdir()
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "outputs").mkdir()
    shutil.copytree(release.folder, tmp_path / "releases" / release.id)
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        register(tmp_path / "releases" / release.id, new=True, data="tiny", run=run, metrics={})
        let_first_serve(tmp_path / "releases" / release.id, data="tiny")
    Store.open(tmp_path / "store", release, durable=False).close()
    (tmp_path / "outputs/release.json").write_text(json.dumps({"release": release.id}))
    (tmp_path / "outputs/store.json").write_text(json.dumps({"state": release.state_fingerprint}))
    return tmp_path


def doctor() -> Doctor:
    return Doctor(data="tiny", outputs=Path("outputs"), releases=Path("releases"), store="store")


def only(says: str, *, repairs: bool = True):
    """The one trouble there is; it is gone once repaired."""
    (trouble,) = doctor().examine()
    assert says in trouble.what
    assert trouble.command
    assert (trouble.repair is not None) is repairs
    if repairs:
        trouble.repair()
        assert doctor().examine() == []
    return trouble


def leftover(path: Path, *, old: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    if old:
        os.utime(path, (OLD_S, OLD_S))
    return path


def test_nothing_is_wrong_with_a_sound_project(project):
    assert doctor().examine() == []


def test_a_link_that_is_gone_or_leads_nowhere_is_set_to_the_champion(project, release):
    for name in (None, "gone"):
        (project / "releases/current").unlink()
        if name:
            (project / "releases/current").symlink_to(name)
        trouble = only("gone" if name else "no release serves")
        assert trouble.command == f"python -m watchnext.lifecycle promote data=tiny release={release.id}"
        assert current(project / "releases").name == release.id


def test_a_damaged_release_is_named_and_never_chosen(project, release):
    (project / "releases/current").unlink()
    (project / "releases" / release.id / "reranking.json").write_text("{}")
    found = doctor().examine()
    assert ["is damaged" in each.what for each in found[:1]] == [True]
    assert [each.repair for each in found] == [None, None]
    assert serving_id(project / "releases") is None


def test_the_registry_follows_what_serves(project, release):
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        release_registry.register_release(
            "other", project / "releases" / release.id, run_id=run.id, metrics={}, name="watchnext-tiny"
        )
    release_registry.set_champion("other", name="watchnext-tiny")
    only(f"the champion is other, but {release.id} serves")
    assert release_registry.release_of("champion", name="watchnext-tiny") == release.id


def test_a_challenger_without_a_folder_is_no_challenger(project, release):
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        release_registry.register_release(
            "lost", project / "releases" / release.id, run_id=run.id, metrics={}, name="watchnext-tiny"
        )
    only("the challenger lost is not in releases")
    assert release_registry.release_of("challenger", name="watchnext-tiny") is None


def test_an_emptied_registry_is_left_to_a_person(project, empty_store):
    shutil.copyfile(empty_store, project / "mlflow.db")
    command = "python -m watchnext.lifecycle release data=tiny"  # also of a data set that params.yaml does not name
    assert only("is not registered as watchnext-tiny", repairs=False).command == command
    (project / "mlflow.db").unlink()
    assert only("there is no such store", repairs=False).command == command
    assert not (project / "mlflow.db").exists()  # looking makes none


def test_outputs_of_another_release_name_their_stage(project):
    (project / "outputs/release.json").write_text(json.dumps({"release": "gone"}))
    command = "python -m watchnext.lifecycle release data=tiny"
    assert only("names gone, which is not in releases", repairs=False).command == command
    (project / "outputs/release.json").unlink()
    (project / "outputs/store.json").write_text(json.dumps({"state": "other"}))
    assert only("is of the state other", repairs=False).command == "python -m watchnext.serving build-store data=tiny"


def test_outputs_that_were_pulled_are_a_release_by_one_command(project):
    """For DVC everything is up to date then, as it does not know the folder of releases."""
    shutil.rmtree(project / "releases")
    found = {each.where: each.command for each in doctor().examine()}
    assert found["releases"] == found["outputs/release.json"] == "python -m watchnext.lifecycle release data=tiny"
    (project / "outputs/release.json").unlink()
    assert [each.command for each in doctor().examine() if each.where == "releases"] == ["dvc repro"]


def test_a_canary_that_cannot_be_is_ended(project, release):
    (project / "releases/canary.json").write_text("{")
    only("canary.json cannot be read")
    for name, says in (("gone", "it tries gone, which is gone"), (release.id, "which serves")):
        write_plan(project / "releases", new_plan(name, share=0.1, shadow=0.0))
        only(says)


def test_a_build_of_a_store_that_was_killed_is_removed_unless_the_store_is_held(project):
    (project / "store/env-9").mkdir()
    with closing(locked(project / "store")):
        assert doctor().examine() == []  # it may be a build that runs
    only("a build that was killed left it")
    assert not (project / "store/env-9").exists()


def test_a_store_of_another_state_is_rebuilt(project, release):
    with closing(Store.open(project / "store", release, durable=False)) as store, store._engine.write() as txn:
        txn.put("meta", b"sealed_state", b"another")
    only("holds state another")
    Store.open(project / "store", release, durable=False).close()


@pytest.mark.parametrize(
    "path",
    [
        "releases/.staging-0123",
        "outputs/.ranker.4711",
        "outputs/tmpab_12345",
        "outputs/loop/checked-xyz",
        "outputs/loop/.state.json.0a.new",
    ],
)
def test_leftovers_are_removed_once_they_are_old(project, path):
    folder = leftover(project / path, old=False)
    assert doctor().examine() == []  # its program may run
    os.utime(folder, (OLD_S, OLD_S))
    only("that was killed left it")
    assert not folder.exists()


def test_machine_code_that_nobody_uses_goes(project):
    for name, old in {"used.nbc": False, "unused.nbc": True, "cut.new": True}.items():
        (project / "kernels" / name).write_bytes(b"code")
        if old:
            os.utime(project / "kernels" / name, (OLD_S, OLD_S))
    only("2 files of machine code")
    assert [path.name for path in (project / "kernels").iterdir()] == ["used.nbc"]

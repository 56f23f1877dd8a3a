"""One command erases a user from all that a project keeps, and names what it leaves."""

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

import small_release
from watchnext.data.storage import StoredTables, read_tables
from watchnext.lifecycle.erase_user import erase_everywhere, ids_of
from watchnext.serving.release.release import Release, switch
from watchnext.serving.store.store import Store

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(release, feature_stage, once, tmp_path) -> dict[str, Path]:
    """The outputs that the release was built from, a copy of it, a store, a batch of slates, and a rejected row."""
    built, _ = small_release.small_log(feature_stage, once)
    outputs, releases = tmp_path / "outputs", tmp_path / "releases"
    for name in ("tables", "features"):
        shutil.copytree(built.parent / name, outputs / name)
    shutil.copytree(release.folder, releases / release.id)
    switch(releases, release.id)
    Store.open(tmp_path / "store", release, durable=False).close()
    user = release.user_ids.value(2)
    (outputs / "recommendations" / "run").mkdir(parents=True)
    slates = pl.DataFrame({"user_id": [release.user_ids.value(1), user], "degraded": [False, False]})
    slates.write_parquet(outputs / "recommendations" / "run" / "part-000000.parquet")
    (outputs / "recommendations" / "run" / "newcomers.json").write_text(json.dumps([user, 777_777]))
    rejected = {"table": ["impressions"], "row": [3], "reason": ["unknown user"], "value": [str(user)]}
    pl.DataFrame(rejected).write_parquet(outputs / "tables" / "rejected.parquet")
    (outputs / "tables" / "checks.json").write_text("{}")
    return {"outputs": outputs, "releases": releases, "store": tmp_path / "store", "served": tmp_path / "served"}


def test_a_user_is_erased_everywhere_and_what_stays_is_named(project, release):
    user, other = release.user_ids.value(2), release.user_ids.value(1)
    before = read_tables(project["outputs"] / "tables")
    receipts = {receipt.place: receipt for receipt in erase_everywhere(str(user), source="logs", **project)}
    after = StoredTables.open(project["outputs"] / "tables")
    rows = before.impressions.filter(pl.col("user_id") == user)
    assert receipts[str(project["outputs"] / "tables")].removed == {"impressions": len(rows), "users": 1, "rejected": 1}
    assert after.all().impressions.equals(before.impressions.filter(pl.col("user_id") != user))
    assert sum(day.rows for day in after.days) == len(before.impressions) - len(rows)
    assert user not in after.users["user_id"].to_list()
    assert not (project["outputs"] / "tables" / "checks.json").exists()
    slates = pl.read_parquet(project["outputs"] / "recommendations" / "run" / "part-000000.parquet")
    assert slates["user_id"].to_list() == [other]
    newcomers = project["outputs"] / "recommendations" / "run" / "newcomers.json"
    assert json.loads(newcomers.read_text()) == [None, 777_777]
    assert receipts[str(project["store"])].removed["viewers"] == 1
    sealed = receipts[str(project["releases"] / release.id)]
    assert "reference sample" in sealed.stays
    assert "dvc repro" in sealed.until
    assert "dvc repro" in receipts[str(project["outputs"] / "features")].until
    assert receipts["logs"].stays
    Release.load(project["releases"] / release.id)  # sealed, and as it was
    with closing(Store.open(project["store"], release, durable=False)) as store:
        assert user not in store.viewer_ids(1000)
        assert other in store.viewer_ids(1000)


def test_erasing_again_finds_nobody_and_still_says_what_stays(project, release):
    user = str(release.user_ids.value(2))
    list(erase_everywhere(user, source=None, **project))
    again = list(erase_everywhere(user, source=None, **project))
    assert not any(count for receipt in again for count in receipt.removed.values())
    assert str(project["releases"] / release.id) in [receipt.place for receipt in again if receipt.stays]


def test_an_id_is_its_text_and_the_number_that_it_says():
    assert ids_of("17") == ["17", 17]
    assert ids_of("-5") == ["-5", -5]
    assert ids_of("u17") == ["u17"]
    assert ids_of(str(2**63)) == [str(2**63)]


def test_the_command_prints_a_receipt_a_line_and_without_a_user_says_what_to_run(project, release, tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    keys = [f"data.{name}={project[name]}" for name in ("outputs", "releases", "store")]
    command = [sys.executable, "-m", "watchnext.data", "erase", *keys, f"monitoring.served={project['served']}"]
    named = subprocess.run([*command, f"user={release.user_ids.value(2)}"], cwd=tmp_path, capture_output=True, text=True)
    assert named.returncode == 0, named.stderr
    receipts = [json.loads(line) for line in named.stdout.splitlines()]
    assert {receipt["place"] for receipt in receipts} >= {str(project["store"]), str(project["outputs"] / "tables")}
    unnamed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert unnamed.returncode == 1
    assert "run `python -m watchnext.data erase user=ID`" in unnamed.stderr

"""`lifecycle canary` and `rollback` write what running servers follow, after every check."""

import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_promote import TAGS, sealed

import programs
from watchnext import tracking
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.canary_command import begin_canary, roll_back
from watchnext.lifecycle.promote import let_first_serve, promote, register, serving_id
from watchnext.serving.release.canary_plan import CHALLENGER, CONTROL, CanaryPlan, end_plan, read_plan
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import switch
from watchnext.serving.release.release_url import VARIABLE, ReleaseUrl

SLOW_END = """
import sys, time
from pathlib import Path
from watchnext.serving.release import canary_plan

root, write = Path(sys.argv[1]), canary_plan.replaced

def slow(*given):
    (root / "is_ending").touch()
    until = time.monotonic() + 0.5
    while canary_plan.plan_in(root).release == "second" and time.monotonic() < until:
        time.sleep(0.01)
    write(*given)

canary_plan.replaced = slow
canary_plan.end_plan(root, "by another process")
"""


@pytest.fixture
def releases(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "releases"
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        for name in ("first", "second"):
            register(sealed(root, name), new=True, data="tiny", run=run, metrics={})
            let_first_serve(root / name, data="tiny")
    promote(root, "first", data="tiny")
    sealed(root, "other", "another")
    sealed(root, "behind", selection={"verdict": {"popular now": "recall@10"}})
    return root


def test_a_canary_begins_and_is_rolled_back(releases, tmp_path):
    begin_canary(releases, "second", share=0.05, shadow=0.1, data="tiny")
    plan = read_plan(releases)
    assert (plan.release, plan.share, plan.shadow, plan.ended) == ("second", 0.05, 0.1, None)
    assert "the canary of second ended, first answers everyone" in roll_back(releases, tmp_path, data="tiny")
    assert "rolled back by a command" in read_plan(releases).ended
    with pytest.raises(ReleaseError, match=r"there is no canary in .*, and no server that logs to .* served another"):
        roll_back(releases, tmp_path, data="tiny")
    assert serving_id(releases) == "first"


def test_a_process_that_ends_a_canary_does_not_end_the_one_that_begins_meanwhile(releases):
    sealed(releases, "third")
    begin_canary(releases, "second", share=0.05, shadow=0.0, data="tiny")
    other = programs.Program("-c", SLOW_END, str(releases))
    while not (releases / "is_ending").exists():
        assert other.poll() is None, other.communicate()
        time.sleep(0.01)
    begin_canary(releases, "third", share=0.05, shadow=0.0, data="tiny")
    other.communicate()
    assert (other.returncode, read_plan(releases).release, read_plan(releases).ended) == (0, "third", None)
    assert end_plan(releases, "a guard of second", release="second") is None
    assert read_plan(releases).ended is None


def test_a_damaged_plan_rolls_no_release_back(releases, tmp_path):
    (tmp_path / "releases.json").write_text(json.dumps(["first", "second"]))
    promote(releases, "second", data="tiny")
    (releases / "canary.json").write_text("{")
    with pytest.raises(ReleaseError, match=r"canary.json cannot be read, no release is tried: .*; remove it"):
        roll_back(releases, tmp_path, data="tiny")
    assert serving_id(releases) == "second"


def test_without_a_canary_the_release_before_serves_again(releases, tmp_path):
    (tmp_path / "releases.json").write_text(json.dumps(["first", "second"]))
    promote(releases, "second", data="tiny")
    assert roll_back(releases, tmp_path, data="tiny").startswith("first serves instead of second")
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "first"


@pytest.fixture
def rolled_back(tmp_path, monkeypatch):
    """Roll back second > first, served in a folder and at a URL; return the URL, the folder, and what rolls back."""
    root, url = tmp_path / "releases", ReleaseUrl(f"file://{tmp_path}/shared")
    monkeypatch.setenv(VARIABLE, url.url)
    for name in ("first", "second"):
        url.upload(sealed(root, name))
        url.point(root / name)
        switch(root, name)
    (tmp_path / "releases.json").write_text(json.dumps(["first", "second"]))
    return url, root, lambda: roll_back(root, tmp_path, data="tiny")


def test_a_rollback_waits_for_no_registry(rolled_back, monkeypatch):
    url, root, roll_back = rolled_back

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("no registry")

    monkeypatch.setattr(release_registry, "set_champion", gone)
    expected = (
        r"first serves instead of second in .*: no registry; when that is repaired, run `.*release=first data=tiny force=true"
    )
    with pytest.raises(ReleaseError, match=expected):
        roll_back()
    assert serving_id(root) == url.promotion().release == "first"


def test_a_release_that_is_gone_is_rolled_back(rolled_back, monkeypatch):
    _, root, roll_back = rolled_back
    monkeypatch.setattr(release_registry, "set_champion", lambda *_, **__: None)
    shutil.rmtree(root / "second")
    assert roll_back().startswith("first serves instead of second")
    assert serving_id(root) == "first"


def test_a_rollback_waits_for_no_url(rolled_back, tmp_path):
    _, root, roll_back = rolled_back
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").write_text("a file")
    with pytest.raises(ReleaseError, match=r"first serves instead of second in .*shared cannot be used"):
        roll_back()
    assert serving_id(root) == "first"


def test_a_rollback_waits_for_no_upload_of_a_promotion(rolled_back, monkeypatch):
    _, root, roll_back = rolled_back
    sealed(root, "third")
    uploading, rolled, upload = threading.Event(), threading.Event(), ReleaseUrl.upload

    def slow(url: ReleaseUrl, folder: Path) -> None:
        if folder.name == "third":
            uploading.set()
            assert rolled.wait(60)
        upload(url, folder)

    monkeypatch.setattr(ReleaseUrl, "upload", slow)
    for name in ("require_registered", "set_champion"):
        monkeypatch.setattr(release_registry, name, lambda *_, **__: None)
    with ThreadPoolExecutor() as pool:
        promotion = pool.submit(promote, root, "third", data="tiny")
        assert uploading.wait(60)
        assert roll_back().startswith("first serves instead of second")
        assert serving_id(root) == "first"
        rolled.set()
        promotion.result(60)
    assert serving_id(root) == "third"


@pytest.mark.parametrize(
    ("release", "shares", "says"),
    [
        ("first", (0.1, 0), "serves already"),
        ("other", (0.1, 0), "data set 'another', not of 'tiny'; add data=another"),
        ("behind", (0.1, 0), "lost to the baseline popular now.* share=0 shadow=0.1"),
        ("nothing", (0.1, 0), "is no release of"),
        ("second", (0.6, 0), "share is 0.6, expected 0 to 0.5"),
        ("second", (1e-17, 0), "share is 1e-17, expected 0, or 1e-06 to 0.5"),
        ("second", (float("nan"), 0), "share is nan, expected 0 to 0.5"),
        ("second", ("abc", 0), "share is 'abc', expected 0 to 0.5"),
        ("second", (0, 1.1), "shadow is 1.1, expected 0 to 1"),
        ("second", (0, 0), "share and shadow are 0"),
    ],
)
def test_what_cannot_be_tried_is_refused(releases, release, shares, says):
    with pytest.raises(ReleaseError, match=says):
        begin_canary(releases, release, share=shares[0], shadow=shares[1], data="tiny")
    assert read_plan(releases) is None


def test_a_release_behind_a_baseline_may_be_scored_aside(releases):
    begin_canary(releases, "behind", share=0.0, shadow=0.1, data="tiny")
    assert read_plan(releases).release == "behind"


def test_a_damaged_release_is_not_tried(releases):
    (releases / "second" / "part").write_text("something else")
    with pytest.raises(ReleaseError, match="part is damaged"):
        begin_canary(releases, "second", share=0.1, shadow=0.0, data="tiny")


def test_arms_are_as_large_as_the_share_and_a_raised_share_keeps_its_viewers():
    few, many = (CanaryPlan(release="r", share=share) for share in (0.05, 0.2))
    arms = [few.arm_of(user) for user in range(20_000)]
    assert [arms.count(arm) / 20_000 for arm in (CHALLENGER, CONTROL)] == pytest.approx([0.05, 0.05], abs=0.006)
    assert all(many.arm_of(user) == arm for user, arm in enumerate(arms) if arm)
    assert CanaryPlan(release="r", shadow=0.5).arm_of(1) is None

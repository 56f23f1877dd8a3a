"""A release is looked at before it is promoted: after a refusal the same release serves, and the registry says so."""

import json
import time
from pathlib import Path

import pytest

import programs
from watchnext import tracking
from watchnext.files import sha256_of
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.promote import let_first_serve, promote, register, serving_id
from watchnext.serving.release.manifest import SEAL, ReleaseError, digest_of
from watchnext.serving.release.release_url import VARIABLE, ReleaseUrl

CONF = Path(__file__).resolve().parents[3] / "conf"
TAGS = {"data_hash": "d1", "schema_fingerprint": "f1"}
SLOW_REGISTRY = """
import runpy, time
from watchnext.lifecycle import release_registry
release_registry.set_champion = lambda *given, **named: time.sleep(600)
runpy.run_module("watchnext.lifecycle", run_name="__main__", alter_sys=True)
"""


def sealed(releases: Path, release_id: str, data: str = "tiny", selection: dict | None = None) -> Path:
    folder = releases / release_id
    folder.mkdir(parents=True)
    (folder / "part").write_text(release_id)
    (folder / "selection.json").write_text(json.dumps(selection or {}))
    files = {name: sha256_of(folder / name) for name in ("part", "selection.json")}
    about = {"as_of_ms": 5, "clock": "release", "schema": "s", "state": "s"}
    manifest = {"id": release_id, "data": data, "files": files, **about}
    (folder / SEAL).write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))
    return folder


@pytest.fixture
def releases(tmp_path, monkeypatch) -> Path:
    """first serves, second is its challenger, unknown is in no registry, other is of another data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    releases = tmp_path / "releases"
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        for name, serves in {"first": True, "second": False}.items():
            register(sealed(releases, name), new=True, data="tiny", run=run, metrics={})
            assert let_first_serve(releases / name, data="tiny") is serves
        register(sealed(releases, "other", "another"), new=True, data="another", run=run, metrics={})
    sealed(releases, "unknown")
    return releases


def test_a_release_behind_a_baseline_serves_only_when_forced(releases):
    behind = {"verdict": {"popular now": "recall@10, recall@20"}}
    sealed(releases, "behind", selection=behind)
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        register(releases / "behind", new=True, data="tiny", run=run, metrics={})
    with pytest.raises(ReleaseError, match=r"'behind' lost to .* popular now at recall@10, .*release=behind force=true"):
        promote(releases, "behind", data="tiny")
    assert serving_id(releases) == "first"
    promote(releases, "behind", data="tiny", force=True)
    assert serving_id(releases) == "behind"


def test_a_challenger_is_promoted(releases):
    promote(releases, "second", data="tiny")
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "second"


def test_a_promotion_reaches_the_url_or_serves_nowhere(releases, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"file://{tmp_path}/shared")
    promote(releases, "second", data="tiny")
    url = ReleaseUrl(f"file://{tmp_path}/shared")
    assert url.promotion().release == "second"
    url.fetch(url.promotion(), tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "current" / "part").read_text() == "second"
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv(VARIABLE, f"file://{tmp_path}/taken")
    with pytest.raises(ReleaseError, match="taken cannot be used"):
        promote(releases, "first", data="tiny")
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "second"


@pytest.mark.parametrize(
    ("chosen", "says"),
    [
        ("unknown", "'unknown' is not registered as 'watchnext-tiny'"),
        ("nothing", "manifest.json cannot be read"),
        ("other", "'other' is a release of data set 'another', not of 'tiny'.*promote data=another"),
        ("current", "'current' is a link to the release 'first'"),
    ],
)
def test_a_release_that_cannot_serve_switches_nothing(releases, chosen, says):
    with pytest.raises((ReleaseError, LookupError), match=says):
        promote(releases, chosen, data="tiny")
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "first"
    assert release_registry.release_of("challenger", name="watchnext-tiny") == "second"


def test_a_damaged_one_switches_neither_folder_nor_registry(releases):
    (releases / "second" / "part").write_text("other")
    with pytest.raises(ReleaseError, match=r"second/part is damaged.*dvc repro release"):
        promote(releases, "second", data="tiny")
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "first"


def test_a_registry_that_fails_leaves_what_serves(releases, monkeypatch):
    def gone(*args, **kwargs):
        raise ConnectionError("no registry")

    monkeypatch.setattr(release_registry, "set_champion", gone)
    with pytest.raises(ConnectionError):
        promote(releases, "second", data="tiny")
    assert serving_id(releases) == "first"


def test_of_two_promotions_at_once_the_second_names_the_process_of_the_first(releases):
    (releases.parent / "conf").symlink_to(CONF)
    words = ["promote", "data.name=tiny", f"data.releases={releases}"]
    first = programs.Program("-c", SLOW_REGISTRY, *words, "release=second", folder=releases.parent)
    try:
        while (releases / ".lock").read_text() != str(first.pid):
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        for others in (["release=first"], ["candidate=second", "force=true", f"data.outputs={releases.parent}"]):
            second = programs.run("-m", "watchnext.lifecycle", *words, *others, folder=releases.parent)
            assert second.returncode == 1
            assert f"process {first.pid} decides which release of {releases} serves; wait until it has ended" in second.stderr
    finally:
        first.kill()
    first.communicate()
    done = programs.run("-m", "watchnext.lifecycle", *words, "release=second", folder=releases.parent)
    assert done.stdout.startswith("second serves instead of first"), done.stderr
    assert serving_id(releases) == release_registry.release_of("champion", name="watchnext-tiny") == "second"

"""A release that the registry does not know must not lie among the others."""

import json
from types import SimpleNamespace

import pytest

from watchnext.lifecycle import release_registry
from watchnext.lifecycle.promote import register


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "releases" / "tiny-1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"id": "tiny-1"}))
    return folder


@pytest.mark.parametrize("new", [True, False])
def test_a_new_release_that_cannot_be_registered_is_removed(folder, new, monkeypatch):
    def fails(*_, **__):
        raise ConnectionError("the registry is away")

    monkeypatch.setattr(release_registry, "register_release", fails)
    with pytest.raises(ConnectionError):
        register(folder, new=new, data="tiny", run=SimpleNamespace(id="r"), metrics={})
    assert folder.exists() == (not new)

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from small_release import RETRIEVAL, stage_release
from watchnext.features.arrays import save_arrays
from watchnext.serving.release import release as release_module
from watchnext.serving.release.compiled import CompiledNetwork
from watchnext.serving.release.manifest import digest_of, verified
from watchnext.serving.release.release import Release, ReleaseError, current, publish, switch

MANIFEST = {"data": "tiny", "regime": "streaming", "as_of_ms": 5, "clock": "release", "towers": "tiny"}


@pytest.fixture
def staged(built, exported, tmp_path):
    return lambda: stage_release(built, exported, tmp_path / "releases")


@pytest.fixture
def published(staged, tmp_path) -> Path:
    return publish(staged(), tmp_path / "releases", MANIFEST)


def test_a_release_loads_as_it_was_published(published):
    release = Release.load(published)
    assert release.id == published.name
    assert (release.as_of_ms, release.clock) == (5, "release")
    assert len(release.index) == len(release.catalogue) == len(release.state.videos)
    assert set(release.manifest["files"]) >= {"graphs/ranker.xml", "graphs/ranker.bin", "state/viewers.npy", "reranking.json"}
    assert not any(path.suffix in (".pkl", ".pt") for path in published.rglob("*"))


def test_a_release_of_a_version_with_a_sliding_window_loads(staged, tmp_path):
    stage = staged()
    config = json.loads((stage / "reranking.json").read_text())
    config["diversity"]["window"] = 5
    (stage / "reranking.json").write_text(json.dumps(config))
    release = Release.load(publish(stage, tmp_path / "releases", MANIFEST))
    assert "window" not in release.reranker.to_config()["diversity"]


def test_a_release_whose_vectors_are_on_an_engine_that_is_not_there_is_refused(staged, tmp_path, monkeypatch):
    stage = staged()
    meta = json.loads((stage / "index" / "index.json").read_text())
    (stage / "index" / "index.json").write_text(json.dumps(meta | {"kind": "milvus", "options": {"kind": "HNSW"}}))
    (stage / "index" / "milvus.json").write_text('{"collection": "watchnext_1"}')
    np.save(stage / "index" / "groups.npy", np.zeros(meta["videos"], np.int32))
    published = publish(stage, tmp_path / "releases", MANIFEST)
    monkeypatch.delenv("WATCHNEXT_MILVUS", raising=False)
    with pytest.raises(ReleaseError, match=f"{published} cannot serve: WATCHNEXT_MILVUS is '', expected http://HOST:PORT"):
        Release.load(published)


def test_one_flipped_byte_in_any_file_is_refused_by_name(published):
    for path in sorted(path for path in published.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        if not whole:
            continue
        at = len(whole) // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ReleaseError, match=f"{path.name}.*dvc repro release"):
            Release.load(published)
        path.write_bytes(whole)
    Release.load(published)


@pytest.mark.parametrize("name", ["graphs/ranker.bin", "index/vectors.npy", "manifest.json"])
def test_a_missing_or_truncated_file_is_refused_by_name(published, name):
    whole = (published / name).read_bytes()
    (published / name).write_bytes(whole[:-1])
    with pytest.raises(ReleaseError, match=name):
        verified(published)
    (published / name).unlink()
    with pytest.raises(ReleaseError, match=name):
        verified(published)


def test_a_file_too_many_is_refused_by_name(published):
    (published / "graphs" / "ranker2.xml").write_text("")
    with pytest.raises(ReleaseError, match=r"ranker2\.xml is not in the manifest"):
        verified(published)


def test_parts_of_another_build_are_refused_though_every_byte_is_right(staged, tmp_path, exported):
    staging = staged()
    viewers = np.load(staging / "state" / "viewers.npy")
    np.save(staging / "state" / "viewers.npy", viewers[:, :-1])
    with pytest.raises(ReleaseError, match=r"width of a viewer's state.*not built together"):
        Release.load(publish(staging, tmp_path / "releases", MANIFEST))


@pytest.mark.parametrize("part", ["related", "transitions", "trending"])
def test_what_was_counted_of_another_catalogue_is_refused(staged, tmp_path, part):
    staging = staged()
    np.save(staging / part / "catalogue.npy", np.array(["another"]))
    with pytest.raises(ReleaseError, match=f"catalogue of `{part}`: another.*not built together"):
        Release.load(publish(staging, tmp_path / "releases", MANIFEST))


def test_an_index_of_other_towers_is_refused(staged, tmp_path):
    with pytest.raises(ReleaseError, match=r"towers of the index's vectors: tiny, expected other; .*not built together"):
        Release.load(publish(staged(), tmp_path / "releases", MANIFEST | {"towers": "other"}))


@pytest.mark.parametrize("part", ["trending", "related", "index", "users"])
def test_a_release_of_another_version_is_refused_by_what_it_lacks(staged, tmp_path, part):
    staging = staged()
    shutil.rmtree(staging / part)
    with pytest.raises(ReleaseError, match=f"lacks {part}, as another version built it; run .* promote"):
        Release.load(publish(staging, tmp_path / "releases", MANIFEST))


def test_trees_of_another_version_are_refused(staged, tmp_path):
    staging = staged()
    save_arrays(staging / "graphs" / "trees", {"left": np.zeros(3), "roots": np.zeros(1)})
    with pytest.raises(ReleaseError, match=r"lacks graphs/trees/above\.npy, as another version built it; run .* promote"):
        Release.load(publish(staging, tmp_path / "releases", MANIFEST))


@pytest.mark.parametrize(("umask", "folders", "files"), [(0o022, 0o755, 0o644), (0o027, 0o750, 0o640)])
def test_a_release_can_be_read_by_whom_the_umask_lets(staged, tmp_path, umask, folders, files):
    before = os.umask(umask)
    try:
        published = publish(staged(), tmp_path / "releases", MANIFEST)
    finally:
        os.umask(before)
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in published.rglob("*")}
    assert modes == {True: folders, False: files}
    assert all((path.stat().st_mode & 0o777) == modes[path.is_dir()] for path in [published, *published.rglob("*")])


def test_the_same_content_is_the_same_release(staged, tmp_path):
    root = tmp_path / "releases"
    first = publish(staged(), root, MANIFEST)
    inode = (first / "manifest.json").stat().st_ino
    assert publish(staged(), root, MANIFEST) == first
    assert (first / "manifest.json").stat().st_ino == inode
    assert sorted(path.name for path in root.iterdir()) == [first.name]
    assert publish(staged(), root, MANIFEST | {"as_of_ms": 6}) != first


def test_an_id_is_never_given_to_other_content(staged, tmp_path):
    root = tmp_path / "releases"
    publish(staged(), root, MANIFEST | {"id": "r1"})
    other = staged()
    (other / "retrieval.json").write_text(json.dumps({**RETRIEVAL, "quotas": {"two_tower": 1}}))
    with pytest.raises(ReleaseError, match=r"r1 exists with other content"):
        publish(other, root, MANIFEST | {"id": "r1"})


@pytest.mark.parametrize("wrong", [{"id": "../evil"}, {"id": "current"}, {"clock": "sun"}, {"colour": 1}])
def test_a_wrong_manifest_is_refused_by_name(staged, tmp_path, wrong):
    with pytest.raises(ReleaseError, match=str(next(iter(wrong.values())) if "colour" not in wrong else "colour")):
        publish(staged(), tmp_path / "releases", MANIFEST | wrong)


def test_a_crash_before_the_rename_leaves_no_release(staged, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(release_module.os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        publish(staged(), tmp_path / "releases", MANIFEST)
    assert [path.name[0] for path in (tmp_path / "releases").iterdir()] == ["."]
    with pytest.raises(ReleaseError, match="no release serves"):
        current(tmp_path / "releases")


def test_switching_is_one_step_and_refuses_what_is_damaged(staged, published, tmp_path):
    root = tmp_path / "releases"
    with pytest.raises(ReleaseError, match=r"no release serves in .*dvc repro.*make demo"):
        current(root)
    switch(root, published.name)
    second = publish(staged(), root, MANIFEST | {"id": "second"})
    switch(root, "second")
    assert current(root) == second.resolve()
    assert os.readlink(root / "current") == "second"
    (published / "reranking.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"reranking\.json"):
        switch(root, published.name)
    assert current(root) == second.resolve()
    shutil.rmtree(second)
    with pytest.raises(ReleaseError, match="second, which is gone"):
        current(root)
    with pytest.raises(ReleaseError, match=r"nothing.*manifest\.json"):
        switch(root, "nothing")


def test_a_graph_names_the_input_it_lacks(published):
    graph = CompiledNetwork(published / "graphs" / "ranker.xml")
    with pytest.raises(KeyError, match="video_codes"):
        graph({})


def resealed(folder: Path, change) -> None:
    """Change the manifest, and give it the digest that fits."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"]
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("files"), "has files None, expected dict"),
        (lambda manifest: manifest.update(files=["a"]), "expected dict"),
        (lambda manifest: manifest.update(id=7), "has id 7, expected str"),
        (lambda manifest: manifest.update(id="../evil"), r"has the id '\.\./evil'"),
        (lambda manifest: manifest.update(id="another"), r"holds the release 'another', expected 'tiny-.*never renamed"),
        (lambda manifest: manifest.update(clock="sun"), "the clock 'sun'"),
        (lambda manifest: manifest["files"].update({"../../secret": "0"}), r"\.\./\.\./secret is missing"),
    ],
)
def test_a_manifest_with_odd_content_is_refused_by_name_though_its_digest_is_right(published, change, message):
    resealed(published, change)
    with pytest.raises(ReleaseError, match=message):
        verified(published)


@pytest.mark.parametrize("content", [b"[]", b"7", b'"digest"', b"[" * 200_000, b"\xff\xfe", b"{}", b'{"digest": {}}', b""])
def test_what_is_no_manifest_is_refused(published, content):
    (published / "manifest.json").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"manifest\.json is damaged"):
        verified(published)


@pytest.mark.parametrize("name", ["reranking.json", "manifest.json"])
def test_a_link_or_a_pipe_in_a_release_is_refused_and_not_read(published, tmp_path, name):
    (published / name).rename(tmp_path / "elsewhere")
    (published / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReleaseError, match=f"{name} is a link or no plain file"):
        verified(published)
    (published / name).unlink()
    os.mkfifo(published / name)
    with pytest.raises(ReleaseError, match=f"{name} is a link or no plain file"):
        verified(published)

"""Releases at a URL: what a promotion pushes every folder gets byte for byte, and what differs is refused by name."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path

import fsspec
import pytest

from watchnext.files import files_below
from watchnext.serving.http.swap import release_fetcher
from watchnext.serving.http.swap.release_fetcher import ReleaseFetcher
from watchnext.serving.release import release_url
from watchnext.serving.release.manifest import SEAL, ReleaseError, digest_of, read_manifest
from watchnext.serving.release.release_url import ReleaseUrl, UrlDownError, fetched


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path) -> ReleaseUrl:
    return ReleaseUrl(f"file://{tmp_path}/shared/" if request.param == "file" else f"memory://{tmp_path.name}")


@pytest.fixture
def promoted(tmp_path, release) -> ReleaseUrl:
    url = ReleaseUrl(f"file://{tmp_path}/shared")
    url.upload(release.folder)
    url.point(release.folder)
    return url


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder, but="")}


def test_a_promoted_release_is_fetched_byte_for_byte(url, release, tmp_path):
    url.upload(release.folder)
    with pytest.raises(ReleaseError, match=r"names no release; promote one: .*WATCHNEXT_RELEASES_URL=.* release=ID"):
        url.promotion()
    url.point(release.folder)
    promotion = url.promotion()
    assert (promotion.release, promotion.digest) == (release.id, digest_of(read_manifest(release.folder)))
    url.fetch(promotion, tmp_path / "releases")
    assert content(tmp_path / "releases" / release.id) == content(release.folder)
    assert os.readlink(tmp_path / "releases" / "current") == release.id
    assert sorted(os.listdir(tmp_path / "releases")) == [".fetch", "current", release.id]


def test_what_is_there_is_copied_once(promoted, release, tmp_path):
    at, folder = Path(promoted.url.removeprefix("file://")), tmp_path / "releases"
    promoted.fetch(promoted.promotion(), folder)
    before = [
        {path: path.stat().st_mtime_ns for path in each.rglob("*") if path.is_file()} for each in (at, folder / release.id)
    ]
    link = os.lstat(folder / "current").st_ino
    promoted.upload(release.folder)
    promoted.fetch(promoted.promotion(), folder)
    assert before == [
        {path: path.stat().st_mtime_ns for path in each.rglob("*") if path.is_file()} for each in (at, folder / release.id)
    ]
    assert os.lstat(folder / "current").st_ino == link


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 1
    path.write_bytes(packed)


def lead_out(path: Path) -> None:
    """A manifest with the right digest of itself."""
    manifest = json.loads(path.read_text()) | {"files": {"../../stolen": "0" * 64}}
    del manifest["digest"]
    path.write_text(json.dumps(manifest | {"digest": digest_of(manifest)}))


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        ("graphs/ranker.bin", cut, "graphs/ranker.bin is damaged or cut short"),
        ("graphs/ranker.bin", flip, "graphs/ranker.bin is damaged or cut short"),
        ("retrieval.json", Path.unlink, "retrieval.json is missing"),
        (SEAL, Path.unlink, "manifest.json is missing"),
        (SEAL, flip, "manifest.json is damaged"),
        (SEAL, lead_out, "manifest.json is of .*, digest"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_torn_or_altered_upload_is_refused_by_name_and_leaves_nothing(name, damage, error, promoted, release, tmp_path):
    promotion, folder = promoted.promotion(), tmp_path / "releases"
    damage(Path(promoted.url.removeprefix("file://")) / promotion.digest / name)
    with pytest.raises(ReleaseError, match=error):
        promoted.fetch(promotion, folder)
    assert os.listdir(folder) == [".fetch"]
    shutil.rmtree(Path(promoted.url.removeprefix("file://")) / promotion.digest)  # as the message says
    promoted.upload(release.folder)
    promoted.fetch(promotion, folder)
    assert content(folder / release.id) == content(release.folder)


def test_a_manifest_with_the_promised_digest_leads_nowhere_else(promoted, tmp_path):
    promotion = promoted.promotion()
    seal = Path(promoted.url.removeprefix("file://")) / promotion.digest / SEAL
    lead_out(seal)
    digest = json.loads(seal.read_text())["digest"]
    seal.parent.rename(seal.parent.with_name(digest))
    with pytest.raises(ReleaseError, match=r"names the file \.\./\.\./stolen, which leads out"):
        promoted.fetch(type(promotion)(promotion.release, digest, promotion.at), tmp_path / "releases")


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        '{"release": "a"}',
        '{"release": "../x", "digest": "00", "at": ""}',
        '{"release": "a", "digest": "00", "at": ""}',
    ],
)
def test_a_damaged_promotion_is_named(said, promoted):
    (Path(promoted.url.removeprefix("file://")) / "current").write_text(said)
    with pytest.raises(ReleaseError, match=r"shared/current is damaged .*promote a release again"):
        promoted.promotion()


def test_another_content_under_the_same_name_is_refused(promoted, release, tmp_path):
    promotion, folder = promoted.promotion(), tmp_path / "releases"
    promoted.fetch(promotion, folder)
    other = type(promotion)(promotion.release, "1" * 64, promotion.at)
    with pytest.raises(ReleaseError, match=f"has the digest {promotion.digest}, but .* promises 1111"):
        promoted.fetch(other, folder)


def test_a_release_that_was_damaged_in_the_folder_is_refused_by_name_and_serves_nowhere(promoted, release, tmp_path):
    folder = tmp_path / "releases"
    shutil.copytree(release.folder, folder / release.id)
    flip(folder / release.id / "graphs" / "ranker.bin")
    (folder / "current").symlink_to("another")
    with pytest.raises(ReleaseError, match=r"graphs/ranker\.bin is damaged"):
        promoted.fetch(promoted.promotion(), folder)
    assert os.readlink(folder / "current") == "another"
    shutil.rmtree(folder / release.id)
    promoted.fetch(promoted.promotion(), folder)
    assert os.readlink(folder / "current") == release.id


def test_a_url_that_cannot_be_used_is_named():
    with pytest.raises(ReleaseError, match=r"WATCHNEXT_RELEASES_URL is nowhere://x, which fsspec cannot open: .*nowhere"):
        ReleaseUrl("nowhere://x")


def test_a_server_that_starts_without_the_url_goes_on_with_what_it_has(promoted, release, tmp_path):
    folder = tmp_path / "releases"
    gone = ReleaseUrl(f"file://{tmp_path}/gone")
    with pytest.raises(ReleaseError, match="gone names no release"):
        fetched(gone, folder)
    fetched(promoted, folder)
    fetched(gone, folder)
    assert os.readlink(folder / "current") == release.id


def late(*_: object, **named: object) -> None:
    raise TimeoutError("late")


def test_a_url_that_hangs_holds_up_no_start(promoted, release, tmp_path, monkeypatch):
    monkeypatch.setattr(release_url, "START_S", 0.2)
    files, hanging = fsspec.get_filesystem_class("file"), threading.Event()
    with monkeypatch.context() as patched:
        patched.setattr(files, "cat_file", lambda *_, **__: hanging.wait(60))
        with pytest.raises(ReleaseError, match=r"shared does not answer within 0\.2 s"):
            fetched(promoted, tmp_path / "releases")
    fetched(promoted, tmp_path / "releases")
    shutil.rmtree(tmp_path / "releases" / release.id)
    with monkeypatch.context() as patched:
        patched.setattr(files, "get_file", lambda *_, **__: hanging.wait(60))
        fetched(promoted, tmp_path / "releases")
    hanging.set()
    assert os.readlink(tmp_path / "releases" / "current") == release.id


def test_a_full_disk_is_named_and_keeps_no_server_from_what_it_has(promoted, release, tmp_path, monkeypatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fsspec.get_filesystem_class("file"), "get_file", full)
    folder = tmp_path / "releases"
    with pytest.raises(ReleaseError, match=r"cannot be copied to .*/releases/.fetched \(OSError: .*No space left on device"):
        fetched(promoted, folder)
    assert {each.name for each in folder.iterdir()} == {".fetch"}
    (folder / "current").symlink_to("another")
    fetched(promoted, folder)
    assert "No space left on device); it is tried again; what serves in" in caplog.text


def test_a_fetcher_states_each_reason_once_and_tries_a_damaged_release_again_later(promoted, release, tmp_path, monkeypatch):
    stated, folder, at = [], tmp_path / "releases", Path(promoted.url.removeprefix("file://"))
    moment, copies, copy = [0.0], [], promoted._copy
    monkeypatch.setattr(release_fetcher.time, "monotonic", lambda: moment[0])
    monkeypatch.setattr(promoted, "_copy", lambda *given: (copies.append(moment[0]), copy(*given)))
    fetcher = ReleaseFetcher(promoted, folder, lambda *given: stated.append(given))
    ranker = at / promoted.promotion().digest / "graphs" / "ranker.bin"
    whole = ranker.read_bytes()
    cut(ranker)
    for second in range(0, 200, 5):
        moment[0] = float(second)
        fetcher.follow()
    assert copies == [0.0, 5.0, 15.0, 35.0, 75.0, 155.0]
    assert [name for name, _ in stated] == [release.id]
    assert "damaged or cut short" in stated[0][1]
    ranker.write_bytes(whole)
    fetcher.follow()
    assert not (folder / release.id).exists()
    moment[0] = 315.0
    fetcher.follow(), fetcher.follow()
    assert stated[1:] == [(release.id, None)]
    assert (folder / "current" / SEAL).exists()
    at.rename(tmp_path / "away")
    fetcher.follow(), fetcher.follow()
    assert [name for name, _ in stated[2:]] == [promoted.url]
    (tmp_path / "away").rename(at)
    with monkeypatch.context() as patched:
        patched.setattr(fsspec.get_filesystem_class("file"), "cat_file", late)
        with pytest.raises(UrlDownError, match=r"TimeoutError: late\); it is tried again"):
            promoted.promotion()
    fetcher.follow()
    assert stated[3:] == [(release.id, None)]
    assert len(copies) == 7


def test_a_url_that_was_away_in_mid_copy_waits_no_longer_than_it_was_away(promoted, release, tmp_path, monkeypatch):
    moment, folder, at = [0.0], tmp_path / "releases", Path(promoted.url.removeprefix("file://"))
    monkeypatch.setattr(release_fetcher.time, "monotonic", lambda: moment[0])
    fetcher = ReleaseFetcher(promoted, folder, lambda *_: None)
    ranker = at / promoted.promotion().digest / "graphs" / "ranker.bin"
    whole = ranker.read_bytes()
    cut(ranker)
    for moment[0] in (0.0, 5.0, 15.0, 35.0):  # the next try is at 75
        fetcher.follow()
    ranker.write_bytes(whole)
    at.rename(tmp_path / "away")
    moment[0] = 40.0
    fetcher.follow()
    (tmp_path / "away").rename(at)
    moment[0] = 45.0
    fetcher.follow()
    assert (folder / "current" / SEAL).exists()


def test_a_damaged_release_that_is_promoted_again_is_copied_at_once(promoted, release, tmp_path):
    stated, at = [], Path(promoted.url.removeprefix("file://"))
    fetcher = ReleaseFetcher(promoted, tmp_path / "releases", lambda *given: stated.append(given))
    cut(at / promoted.promotion().digest / "graphs" / "ranker.bin")
    fetcher.follow()
    shutil.rmtree(at / promoted.promotion().digest)
    promoted.upload(release.folder)
    promoted.point(release.folder)
    fetcher.follow()
    assert [reason is None for _, reason in stated] == [False, True]

"""The manifest that seals a release: one sha256 a file, and one of the manifest itself."""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from watchnext.files import files_below, sha256_of

REPAIR = "dvc repro release"
SEAL = "manifest.json"
SEAL_BYTES_MOST = 16 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # of a release
CLOCKS = ("release", "wall")
TYPES = {"id": str, "data": str, "as_of_ms": int, "clock": str, "schema": str, "state": str, "files": dict}


class ReleaseError(RuntimeError):
    """A release that is missing, damaged or unfit; the message names the file and the command that repairs it."""


def verified(folder: Path) -> dict:
    """Return the manifest after checking every file against it. Raises ReleaseError naming the first that differs."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    if (name := folder.resolve().name) != manifest["id"]:
        raise ReleaseError(f"{folder} holds the release {manifest['id']!r}, expected {name!r}: a release is never renamed")
    on_disk, expected = set(files_below(folder, but=SEAL)), set(manifest["files"])
    for names, problem in ((expected - on_disk, "is missing"), (on_disk - expected, "is not in the manifest")):
        if names:
            raise ReleaseError(f"{folder / min(names)} {problem}; run `{REPAIR}`")
    for name in manifest["files"]:
        _require_plain(folder / name)
    with ThreadPoolExecutor() as pool:  # a release of a million viewers has gigabytes
        digests = pool.map(sha256_of, [folder / name for name in manifest["files"]])
        for (name, digest), actual in zip(manifest["files"].items(), digests, strict=True):
            if actual != digest:
                raise ReleaseError(f"{folder / name} is damaged: its sha256 differs from the manifest; run `{REPAIR}`")
    return manifest


def _require_plain(path: Path) -> None:
    """Raise ReleaseError for a link, which may lead out of the release, or a pipe, whose reading has no end."""
    if path.is_symlink() or not path.is_file():
        raise ReleaseError(f"{path} is a link or no plain file, expected a file of the release; run `{REPAIR}`")


def read_manifest(folder: Path) -> dict:
    """Return the manifest after checking it alone. Raises ReleaseError."""
    path = folder / SEAL
    if path.exists():
        _require_plain(path)
    try:
        if path.stat().st_size > SEAL_BYTES_MOST:
            raise ReleaseError(f"{path} has {path.stat().st_size} bytes, expected at most {SEAL_BYTES_MOST}; run `{REPAIR}`")
        manifest = json.loads(path.read_bytes())
        claimed = manifest.pop("digest")
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror}); run `{REPAIR}`") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ReleaseError(f"{path} is damaged: it is not a manifest; run `{REPAIR}`") from error
    if digest_of(manifest) != claimed:
        raise ReleaseError(f"{path} is damaged: its digest does not match its content; run `{REPAIR}`")
    for name, kind in TYPES.items():
        if type(manifest.get(name)) is not kind:
            raise ReleaseError(f"{path} has {name} {manifest.get(name)!r}, expected {kind.__name__}; run `{REPAIR}`")
    if manifest["clock"] not in CLOCKS or not NAME.fullmatch(manifest["id"]):
        raise ReleaseError(f"{path} has the id {manifest['id']!r} and the clock {manifest['clock']!r}; run `{REPAIR}`")
    return manifest


def digest_of(manifest: Mapping) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

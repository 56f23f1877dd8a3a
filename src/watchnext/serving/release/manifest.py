"""The manifest that seals a release: one sha256 a file, and one of the manifest itself."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from watchnext.files import files_below, sha256_of

REPAIR = "dvc repro release"
SEAL = "manifest.json"


class ReleaseError(RuntimeError):
    """A release that is missing, damaged or unfit; the message names the file and the command that repairs it."""


def verified(folder: Path) -> dict:
    """Return the manifest after checking every file against it. Raises ReleaseError naming the first that differs."""
    folder = Path(folder)
    manifest = _manifest(folder)
    on_disk, expected = set(files_below(folder, but=SEAL)), set(manifest["files"])
    for names, problem in ((expected - on_disk, "is missing"), (on_disk - expected, "is not in the manifest")):
        if names:
            raise ReleaseError(f"{folder / min(names)} {problem}; run `{REPAIR}`")
    for name, digest in manifest["files"].items():
        if sha256_of(folder / name) != digest:
            raise ReleaseError(f"{folder / name} is damaged: its sha256 differs from the manifest; run `{REPAIR}`")
    return manifest


def _manifest(folder: Path) -> dict:
    path = folder / SEAL
    try:
        manifest = json.loads(path.read_bytes())
        claimed = manifest.pop("digest")
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror}); run `{REPAIR}`") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise ReleaseError(f"{path} is damaged: it is not a manifest; run `{REPAIR}`") from error
    if digest_of(manifest) != claimed:
        raise ReleaseError(f"{path} is damaged: its digest does not match its content; run `{REPAIR}`")
    return manifest


def digest_of(manifest: Mapping) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()

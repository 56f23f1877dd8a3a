"""The files of a saved index and their sha256: one flipped byte would load without an error."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from watchnext.retrieval.index import VideoIndexError


def require_whole(folder: Path, files: Mapping[str, str]) -> None:
    if wrong := sorted(set(files) ^ set(files_of(folder))):
        raise VideoIndexError(f"{folder / wrong[0]} is missing or not of this index; run `dvc repro index`")
    for name, digest in files.items():
        if sha256_of(folder / name) != digest:
            raise VideoIndexError(f"{folder / name} is damaged: its sha256 is not that of index.json; run `dvc repro index`")


def files_of(folder: Path) -> list[str]:
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != "index.json")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

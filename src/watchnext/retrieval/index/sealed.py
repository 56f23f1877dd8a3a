"""Verify the files of a saved index by sha256, because a flipped byte would load without an error."""

from collections.abc import Mapping
from pathlib import Path

from watchnext.files import files_below, sha256_of
from watchnext.retrieval.index.vectors import VideoIndexError

SEAL = "index.json"  # lists the other files and their digests


def require_whole(folder: Path, files: Mapping[str, str]) -> None:
    if wrong := sorted(set(files) ^ set(files_below(folder, but=SEAL))):
        raise VideoIndexError(f"{folder / wrong[0]} is missing or not of this index; run `dvc repro index`")
    for name, digest in files.items():
        if sha256_of(folder / name) != digest:
            raise VideoIndexError(f"{folder / name} is damaged: its sha256 is not that of index.json; run `dvc repro index`")
